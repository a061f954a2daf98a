"""Texts as token ids: one, many in flat arrays, and a padded batch. B batch, L tokens.

Invariant: [CLS], [SEP] and segments are known by position, never by token id.
"""

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ponet import EncoderBatch
from ponet.segments import segments_from_starts

Int32Array = NDArray[np.int32]


NO_STARTS: Int32Array = np.empty(0, dtype=np.int32)
_NO_ENDS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


class EncodedText(NamedTuple):
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP]."""

    input_ids: Int32Array
    """(tokens,), special tokens included."""
    pair_start: int
    """Position of the second text's first token; the number of tokens if there is none."""
    segment_starts: Int32Array
    """Positions of the first tokens of sentences or paragraphs; empty with rule separators."""
    num_tokens_whole: int
    """Tokens before the text was cut, special tokens included."""

    @property
    def is_truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.num_tokens_whole > len(self.input_ids)


class PackedTexts(Sequence[EncodedText]):
    """Encoded texts in a few flat arrays: 16 bytes per text beside its tokens, quick to fork.

    Args:
        input_ids: int32, all texts after one another.
        ends: int64 (texts + 1,), where each text ends in `input_ids`, beginning with 0.
        segment_starts: int32, all texts after one another, counted inside each text.
        segment_ends: int64 (texts + 1,), as `ends`.
        sizes: int32 (texts, 2), pair_start and num_tokens_whole.
    """

    def __init__(
        self,
        input_ids: Int32Array,
        ends: NDArray[np.int64],
        segment_starts: Int32Array,
        segment_ends: NDArray[np.int64],
        sizes: Int32Array,
    ) -> None:
        self.input_ids = input_ids
        self.ends = ends
        self.segment_starts = segment_starts
        self.segment_ends = segment_ends
        self.sizes = sizes

    @classmethod
    def pack(cls, texts: Sequence[EncodedText]) -> "PackedTexts":
        """Return the texts as flat arrays."""
        return cls(
            _joined([text.input_ids for text in texts]),
            _ends([len(text.input_ids) for text in texts]),
            _joined([text.segment_starts for text in texts]),
            _ends([len(text.segment_starts) for text in texts]),
            np.array(
                [(text.pair_start, text.num_tokens_whole) for text in texts], dtype=np.int32
            ).reshape(len(texts), 2),
        )

    @classmethod
    def join(cls, parts: Sequence["PackedTexts"]) -> "PackedTexts":
        """Return the texts of all parts in order."""
        return cls(
            _joined([part.input_ids for part in parts]),
            _ends(np.concatenate([_NO_ENDS, *(part.lengths for part in parts)])),
            _joined([part.segment_starts for part in parts]),
            _ends(np.concatenate([_NO_ENDS, *(part.num_segments for part in parts)])),
            np.concatenate([np.empty((0, 2), np.int32), *(part.sizes for part in parts)]),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (texts,): tokens of each text as it is used."""
        return np.diff(self.ends)

    @property
    def lengths_whole(self) -> Int32Array:
        """int32 (texts,): tokens of each text before it was cut."""
        return self.sizes[:, 1]

    @property
    def num_segments(self) -> NDArray[np.int64]:
        """int64 (texts,): sentences or paragraphs that are used; 0 with rule separators."""
        return np.diff(self.segment_ends)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> EncodedText: ...

    @overload
    def __getitem__(self, index: slice) -> list[EncodedText]: ...

    def __getitem__(self, index: int | slice) -> EncodedText | list[EncodedText]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        pair_start, num_tokens_whole = self.sizes[index].tolist()
        return EncodedText(
            self.input_ids[self.ends[index] : self.ends[index + 1]],
            pair_start,
            self.segment_starts[self.segment_ends[index] : self.segment_ends[index + 1]],
            num_tokens_whole,
        )


def assemble_batch(texts: Sequence[EncodedText], *, pad_id: int) -> EncoderBatch:
    """Return a batch padded to its longest text.

    Every separator is a segment, and so is every text, or each of the sentences or paragraphs that
    it was encoded with.

    Source: released PoNet GLUE code, which passes no segments, so that separators bound them.
    """
    lengths_B = np.array([len(text.input_ids) for text in texts])
    pairs_B = np.array([text.pair_start for text in texts])
    rows_B = np.arange(len(texts))
    places_L = np.arange(int(lengths_B.max()))
    mask_BL = places_L < lengths_B[:, None]
    input_ids_BL = np.full(mask_BL.shape, pad_id, dtype=np.int64)
    input_ids_BL[mask_BL] = np.concatenate([text.input_ids for text in texts])
    special_BL = np.zeros_like(mask_BL)
    for places_B in (0, pairs_B - 1, lengths_B - 1):
        special_BL[rows_B, places_B] = True
    starts_BL = special_BL.copy()
    starts_BL[:, 1:] |= special_BL[:, :-1]
    num_starts_B = [len(text.segment_starts) for text in texts]
    starts_BL[
        np.repeat(rows_B, num_starts_B), np.concatenate([text.segment_starts for text in texts])
    ] = True
    return EncoderBatch(
        input_ids=torch.from_numpy(input_ids_BL),
        mask=torch.from_numpy(mask_BL),
        token_type_ids=torch.from_numpy((places_L >= pairs_B[:, None]) & mask_BL).long(),
        segment_ids=segments_from_starts(torch.from_numpy(starts_BL)),
        special_mask=torch.from_numpy(special_BL),
        segments_are_runs=True,
        has_padding=bool(lengths_B.min() < lengths_B.max()),
    )


def _joined(arrays: Sequence[Int32Array]) -> Int32Array:
    return np.concatenate([NO_STARTS, *arrays])


def _ends(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
