"""Batches of a task: encoded texts, and which rows are in which batch.

Invariant: every row is in exactly one batch of one rank per epoch; what an optimiser step sees
depends on seed and epoch only, never on the number of devices. [CLS], [SEP] and segments are known
by position, never by token id.

B batch, L tokens, R ranks, A micro-batches a rank accumulates, n rows of a global batch.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from finetune.tasks.spec import UNSEEN
from ponet.batch import EncoderBatch, join_texts
from ponet.segments import segments_from_starts
from training.interruption import signals_held

Int32Array = NDArray[np.int32]
IntArray = NDArray[np.int64]
WeightedRow = tuple[int, float]

NO_TAG = UNSEEN
"""At tokens without a tag to learn; the value that PyTorch's cross-entropy leaves out."""
_WINDOW_BATCHES = 50
"""Global batches whose rows are sorted by length together."""
_WINDOWS_PER_EPOCH = 4
"""Least number of windows, so that small sets are not sorted into the same batches every epoch."""


NO_PLACES: Int32Array = np.empty(0, dtype=np.int32)


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
    word_starts: Int32Array = NO_PLACES
    """Positions of the first tokens of the words of a tagged text, as far as they are kept."""

    @property
    def is_truncated(self) -> bool:
        """Whether tokens were cut off."""
        return self.num_tokens_whole > len(self.input_ids)


class PackedTexts:
    """Encoded texts in a few flat arrays: 40 bytes per text beside its tokens, quick to fork."""

    def __init__(self, texts: Iterable[EncodedText]) -> None:
        ids, starts, words, sizes = array("i"), array("i"), array("i"), array("i")
        ends, segment_ends, word_ends = array("q", [0]), array("q", [0]), array("q", [0])
        for text in texts:
            ids.frombytes(text.input_ids.tobytes())
            starts.frombytes(text.segment_starts.tobytes())
            words.frombytes(text.word_starts.tobytes())
            sizes.extend((text.pair_start, text.num_tokens_whole))
            ends.append(len(ids))
            segment_ends.append(len(starts))
            word_ends.append(len(words))
        self.input_ids: Int32Array = np.array(ids, dtype=np.int32)
        self.ends: IntArray = np.array(ends, dtype=np.int64)
        self.segment_starts: Int32Array = np.array(starts, dtype=np.int32)
        self.segment_ends: IntArray = np.array(segment_ends, dtype=np.int64)
        self.word_starts: Int32Array = np.array(words, dtype=np.int32)
        self.word_ends: IntArray = np.array(word_ends, dtype=np.int64)
        self.sizes: Int32Array = np.array(sizes, dtype=np.int32).reshape(-1, 2)

    @property
    def lengths(self) -> IntArray:
        """(texts,): tokens of each text as it is used."""
        return np.diff(self.ends)

    @property
    def lengths_whole(self) -> Int32Array:
        """(texts,): tokens of each text before it was cut."""
        return self.sizes[:, 1]

    @property
    def num_segments(self) -> IntArray:
        """(texts,): sentences or paragraphs that are used; 0 with rule separators."""
        return np.diff(self.segment_ends)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> EncodedText:
        if not 0 <= index < len(self):
            raise IndexError(index)
        pair_start, num_tokens_whole = self.sizes[index].tolist()
        return EncodedText(
            self.input_ids[self.ends[index] : self.ends[index + 1]],
            pair_start,
            self.segment_starts[self.segment_ends[index] : self.segment_ends[index + 1]],
            num_tokens_whole,
            self.word_starts[self.word_ends[index] : self.word_ends[index + 1]],
        )


def assemble_batch(
    texts: Sequence[EncodedText], *, pad_id: int, has_special: bool = True, num_places: int = 0
) -> EncoderBatch:
    """Return a batch padded to its longest text; separators are segments, as in the released code.

    So is every text between them, or each of the sentences or paragraphs it was encoded with.

    Args:
        texts: At least one.
        pad_id: Token at padding.
        has_special: Whether [CLS] and [SEP] are there.
        num_places: Tokens of every row instead of those of the longest text; 0: of that.
    """
    lengths_B = np.array([len(text.input_ids) for text in texts])
    pairs_B = np.array([text.pair_start for text in texts])
    rows_B = np.arange(len(texts))
    places_L = np.arange(num_places or int(lengths_B.max()))
    mask_BL = places_L < lengths_B[:, None]
    input_ids_BL = np.full(mask_BL.shape, pad_id, dtype=np.int64)
    input_ids_BL[mask_BL] = np.concatenate([text.input_ids for text in texts])
    special_BL = np.zeros_like(mask_BL)
    for places_B in (0, pairs_B - 1, lengths_B - 1) if has_special else ():
        special_BL[rows_B, places_B] = True
    starts_BL = special_BL.copy()
    starts_BL[:, 1:] |= special_BL[:, :-1]
    starts = [text.segment_starts for text in texts]
    starts_BL[np.repeat(rows_B, list(map(len, starts))), np.concatenate(starts)] = True
    return EncoderBatch(
        input_ids=torch.from_numpy(input_ids_BL),
        mask=torch.from_numpy(mask_BL),
        token_type_ids=torch.from_numpy((places_L >= pairs_B[:, None]) & mask_BL).long(),
        segment_ids=segments_from_starts(torch.from_numpy(starts_BL)),
        special_mask=torch.from_numpy(special_BL),
        segments_are_runs=True,
        has_padding=bool(lengths_B.min() < len(places_L)),
    )


class TaskBatch(NamedTuple):
    """What the module gets."""

    inputs: EncoderBatch
    """Token ids, mask, token types and segments."""
    targets_B: Tensor
    """int64 classes, or float32 scores of a regression."""
    weights_B: Tensor
    """float32: the training loss of a micro-batch is sum(weight * loss); 1 in evaluation."""
    row_ids_B: Tensor
    """int64: number of the row in its split."""
    tags_BL: Tensor | None = None
    """int64: place of the tag at first tokens of words, else or unseen `NO_TAG`; None: unknown."""
    words_BL: Tensor | None = None
    """bool: the first tokens of the words of tagged texts; None: there are none."""


class EncodedSplit(Dataset[TaskBatch]):
    """The rows of a split; its items are whole batches, asked for by a list of (row, weight).

    Args:
        texts: Encoded.
        targets: (rows,): class or score of every row.
        batch: Makes a batch of some texts.
        tags: For every row the places of its words' tags; None: none is known.
    """

    joins_texts: bool = False
    """The texts of a batch stand one after the other in one row; not for tags."""

    def __init__(
        self,
        texts: PackedTexts,
        targets: NDArray[Any],
        *,
        batch: Callable[[Sequence[EncodedText]], EncoderBatch],
        tags: Sequence[Int32Array] | None = None,
    ) -> None:
        self.texts = texts
        self._targets = torch.from_numpy(targets)
        self._batch = batch
        self._tags = tags

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Sequence[WeightedRow]) -> TaskBatch:
        row_ids_B = torch.tensor([row for row, _ in rows], dtype=torch.int64)
        texts = [self.texts[row] for row, _ in rows]
        inputs = self._batch(texts)
        batch = TaskBatch(
            inputs=join_texts(inputs) if self.joins_texts and inputs.has_padding else inputs,
            targets_B=self._targets[row_ids_B],
            weights_B=torch.tensor([weight for _, weight in rows], dtype=torch.float32),
            row_ids_B=row_ids_B,
        )
        starts = [text.word_starts for text in texts]
        where = np.repeat(np.arange(len(texts)), list(map(len, starts))), np.concatenate(starts)
        if not len(where[0]):
            return batch
        words_BL = np.zeros(batch.inputs.input_ids.shape, dtype=bool)
        words_BL[where] = True
        batch = batch._replace(words_BL=torch.from_numpy(words_BL))
        if self._tags is None:
            return batch
        tags_BL = np.full(words_BL.shape, NO_TAG, dtype=np.int64)
        tags = [self._tags[row][: len(kept)] for (row, _), kept in zip(rows, starts, strict=True)]
        tags_BL[where] = np.concatenate(tags)
        return batch._replace(tags_BL=torch.from_numpy(tags_BL))


class SplitLoader(DataLoader[TaskBatch]):
    """A DataLoader whose workers a signal to the whole process group never ends."""

    def __iter__(self) -> Any:
        """Return an iterator over the batches."""
        with signals_held():
            return super().__iter__()


@dataclass(kw_only=True, eq=False)
class BucketBatchSampler(Sampler[list[WeightedRow]]):
    """Micro-batches of one rank: lists of (row, weight), texts of like length together.

    An epoch is a shuffle by (seed, epoch), sorted by length inside windows of 50 global batches (a
    quarter of the epoch if that is less), cut into global batches, in shuffled order. The rows that
    fill no global batch are a random choice and come last. Every global batch is dealt evenly over
    A x R micro-batches: neighbours in length to the same accumulation step, one after the other to
    the ranks, so that ranks wait little for each other.

    A row weighs A R / n. Then the mean over ranks and accumulation steps of sum(weight * loss) is
    the mean loss of the n rows, whatever A and R are. A micro-batch that would be empty gets one
    row of the global batch with weight 0, so that every rank has the same number of micro-batches.
    """

    lengths: IntArray
    """(rows,): tokens of every row, one or more."""
    global_batch_size: int
    """Rows per optimiser step."""
    micro_batch_size: int
    """Most rows per rank and forward pass."""
    num_devices: int = 1
    """R."""
    rank: int = 0
    """Which of the R this is."""
    seed: int = 42
    """Of the order."""
    resume_at: tuple[int, int] = (0, 0)
    """Epoch to begin with, and how many of its micro-batches to leave out."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not len(self.lengths):
            raise ValueError("there are no training rows; one or more are needed")
        self.accumulation = accumulation_steps(
            self.global_batch_size, self.micro_batch_size, self.num_devices
        )
        self.epoch = self.resume_at[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return -(-len(self.lengths) // self.global_batch_size) * self.accumulation

    def __iter__(self) -> Iterator[list[WeightedRow]]:
        epoch, done = self.resume_at
        return islice(self._micro_batches(), done if self.epoch == epoch else 0, None)

    def _micro_batches(self) -> Iterator[list[WeightedRow]]:
        for rows_n in self.global_batches():
            weight = self.accumulation * self.num_devices / len(rows_n)
            for rows in np.array_split(rows_n, self.accumulation):
                mine = rows[self.rank :: self.num_devices].tolist()
                yield [(row, weight) for row in mine] or [(int(rows_n[0]), 0.0)]

    def global_batches(self) -> list[IntArray]:
        """Return the rows of every optimiser step of the present epoch, each sorted by length."""
        generator, size = np.random.default_rng((self.seed, self.epoch)), self.global_batch_size
        order = generator.permutation(len(self.lengths))
        num_full = len(order) // size
        full, rest = np.split(order, [num_full * size])
        window = min(_WINDOW_BATCHES, -(-num_full // _WINDOWS_PER_EPOCH)) * size
        batches = [
            batch
            for start in range(0, len(full), window or 1)
            for batch in self._sorted(full[start : start + window]).reshape(-1, size)
        ]
        batches = [batches[place] for place in generator.permutation(num_full)]
        return [*batches, self._sorted(rest)] if len(rest) else batches

    def _sorted(self, rows: IntArray) -> IntArray:
        return rows[np.argsort(self.lengths[rows], kind="stable")]


def accumulation_steps(global_batch_size: int, micro_batch_size: int, num_devices: int) -> int:
    """Return how many forward passes a device makes per optimiser step: as few as may be."""
    sizes = {"global_batch_size": global_batch_size, "micro_batch_size": micro_batch_size}
    for name, value in {**sizes, "num_devices": num_devices}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; 1 or more is needed")
    if global_batch_size < num_devices:
        raise ValueError(
            f"global_batch_size is {global_batch_size} but there are {num_devices} devices, and "
            f"each needs a row; use {global_batch_size} devices or fewer, or a greater batch"
        )
    return -(-global_batch_size // (micro_batch_size * num_devices))


def evaluation_shard(
    lengths_N: IntArray,
    *,
    num_ranks: int = 1,
    rank: int = 0,
    batch_size: int,
    equal_lengths: bool = False,
) -> list[list[int]]:
    """Return the batches of one rank: over all ranks every row once, none repeated or left out.

    Rows are sorted by length, longest first, so that what does not fit into memory shows at once.
    Batches are as equal in size as can be, and every rank gets the same number of them where there
    are enough rows; with fewer rows than ranks some ranks get none. In batches of equal lengths
    there is no padding: what an encoder that sees it says of a row is then the row's own.
    """
    if not len(lengths_N):
        return []
    order = np.argsort(-lengths_N, kind="stable")
    if equal_lengths:
        ends = np.flatnonzero(np.diff(lengths_N[order])) + 1
        groups = np.split(order, ends)
        batches = [
            part for rows in groups for part in np.array_split(rows, -(-len(rows) // batch_size))
        ]
        while len(batches) % num_ranks and len(batches) < len(order):
            place = max(range(len(batches)), key=lambda number: len(batches[number]))
            batches[place : place + 1] = np.array_split(batches[place], 2)
    else:
        per_rank = -(-len(order) // (batch_size * num_ranks))
        batches = np.array_split(order, min(per_rank * num_ranks, len(order)))
    return [batch.tolist() for batch in batches[rank::num_ranks]]
