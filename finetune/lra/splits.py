"""Data of Long Range Arena as arrays, and how texts and pixels become ids.

Invariant: id 0 is padding; a text is bytes + 1; pixels are unshifted (a black pixel is id 0 too, as
published): the task says whether zeros are masked.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DataKind = Literal["official", "generated", "stand_in"]
TaskName = Literal["listops", "text", "retrieval", "image", "pathfinder32", "path_x"]
Ids = NDArray[np.uint8] | NDArray[np.uint16]
_GREY = np.array([0.2989, 0.5870, 0.1140], np.float32)


@dataclass(frozen=True)
class LraSplit:
    """Samples of one split, padded to one length. N samples, L places."""

    ids: Ids
    """(N, L); 0 is padding, and a black pixel."""
    labels: NDArray[np.uint8]
    """(N,)."""
    lengths: NDArray[np.int32]
    """(N,): places that are real; for pixels all of them."""
    other_ids: Ids | None = None
    """(N, L) of the second texts of a pair task."""
    other_lengths: NDArray[np.int32] | None = None
    """(N,) of the second texts."""
    repairs: dict[str, int] = field(default_factory=dict)
    """What was left out or mended, and how often."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    @property
    def sides(self) -> list[tuple[Ids, NDArray[np.int32]]]:
        """Ids and lengths of the texts, and of the second ones of a pair task."""
        sides = [(self.ids, self.lengths)]
        if self.other_ids is not None and self.other_lengths is not None:
            sides.append((self.other_ids, self.other_lengths))
        return sides


def token_entropy(split: LraSplit, *, zeros_are_padding: bool) -> float:
    """Return the entropy of the tokens of a split in nats.

    What guesses hidden tokens by nothing but how frequent each is loses this much.
    """
    counts = np.zeros(np.iinfo(np.uint16).max + 1, np.int64)
    for ids, _ in split.sides:
        for start in range(0, len(ids), 1024):  # bincount needs 8 bytes a token
            counts += np.bincount(ids[start : start + 1024].reshape(-1), minlength=len(counts))
    shares = counts[int(zeros_are_padding) :] / counts[int(zeros_are_padding) :].sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def are_literals(split: LraSplit) -> bool:
    """Return whether all first texts begin as a Python bytes literal does."""
    starts = {bytes(row) for row in (split.ids[:, :2] - 1).astype(np.uint8)}
    return starts <= {b"b'", b'b"'}


def is_mostly_within(split: LraSplit, other: LraSplit) -> bool:
    """Return whether most samples of a split, all their texts and the label, are in another one."""
    known = set(_labelled(other))
    return 2 * sum(sample in known for sample in _labelled(split)) > len(split)


def _labelled(split: LraSplit) -> Iterator[tuple[int, int]]:
    return zip(sample_keys(split), split.labels.tolist(), strict=True)


def sample_keys(split: LraSplit) -> list[int]:
    """Return a number for every sample, equal in this process where all its texts are."""
    samples = zip(*(ids for ids, _ in split.sides), strict=True)
    return [hash(tuple(text.astype(np.uint16).tobytes() for text in texts)) for texts in samples]


def padded(samples: Sequence[bytes | NDArray[np.integer]], length: int) -> tuple[
    Ids, NDArray[np.int32]
]:  # fmt: skip
    """Return ids (N, L) with zeros behind each sample, and the lengths; longer samples are cut.

    One byte an id suffices where all samples are bytes.
    """
    is_wide = any(not isinstance(sample, bytes) and sample.itemsize > 1 for sample in samples)
    ids = np.zeros((len(samples), length), np.uint16 if is_wide else np.uint8)
    lengths = np.empty(len(samples), np.int32)
    for row, sample in enumerate(samples):
        values = np.frombuffer(sample, np.uint8) if isinstance(sample, bytes) else sample
        lengths[row] = min(len(values), length)
        ids[row, : lengths[row]] = values[: lengths[row]]
    return ids, lengths


def byte_ids(text: str | bytes, most: int) -> Ids:
    """Return byte + 1 for the first `most` bytes of the UTF-8 form, which has no byte 255."""
    data = np.frombuffer((text.encode() if isinstance(text, str) else text)[:most], np.uint8)
    return data + np.uint8(1) if data.max(initial=0) < 255 else data.astype(np.uint16) + 1


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (..., H, W) grey values of (..., H, W, 3) as TensorFlow computes them.

    trunc(255.5 x (0.2989 R + 0.5870 G + 0.1140 B) / 255) in float32; Pillow's differ by one in a
    quarter of the colours.
    """
    scaled = images.astype(np.float32) * np.float32(1 / 255)
    return (np.float32(255.5) * (scaled @ _GREY)).astype(np.uint8)


def pixel_split(images: NDArray[np.uint8], labels: Iterable[int]) -> LraSplit:
    """Return a split of pictures (N, H, W), row by row."""
    ids = images.reshape(len(images), -1)
    lengths = np.full(len(images), ids.shape[1], np.int32)
    return LraSplit(ids, np.array(list(labels), np.uint8), lengths)
