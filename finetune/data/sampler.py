"""Which rows are in which batch: training by length buckets, evaluation unpadded, subsets by hash.

Invariant: every row is in exactly one batch of one rank per epoch; what an optimiser step sees
depends on seed and epoch only, never on the number of devices.

G global batch, R ranks, A micro-batches a rank accumulates, n rows of a global batch.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from finetune.tasks.spec import Row

IntArray = NDArray[np.int64]
WeightedRow = tuple[int, float]

_WINDOW_BATCHES = 50
"""Global batches whose rows are sorted by length together."""
_WINDOWS_PER_EPOCH = 4
"""Least number of windows, so that small sets are not sorted into the same batches every epoch."""


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

    Args:
        lengths: Tokens of every row, (rows,).
        global_batch_size: Rows per optimiser step, G.
        micro_batch_size: Most rows per rank and forward pass.
        num_devices: R.
        rank: Which of the R this is.
        seed: Seed of the order.
        resume_at: Epoch to begin with, and how many of its micro-batches to leave out.

    Raises:
        ValueError: There are no rows, or less than one row of a global batch for each device.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        num_devices: int = 1,
        rank: int = 0,
        seed: int = 42,
        resume_at: tuple[int, int] = (0, 0),
    ) -> None:
        self._lengths: IntArray = np.asarray(lengths, dtype=np.int64)
        if not len(self._lengths):
            raise ValueError("there are no training rows; one or more are needed")
        self.global_batch_size = global_batch_size
        self.accumulation = accumulation_steps(global_batch_size, micro_batch_size, num_devices)
        self._num_devices = num_devices
        self._rank = rank
        self._seed = seed
        self._resume_at = resume_at
        self._epoch = resume_at[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before every epoch."""
        self._epoch = epoch

    @property
    def num_steps(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-len(self._lengths) // self.global_batch_size)

    def __len__(self) -> int:
        """Micro-batches of this rank in an epoch."""
        return self.num_steps * self.accumulation

    def __iter__(self) -> Iterator[list[WeightedRow]]:
        epoch, done = self._resume_at
        return islice(self._micro_batches(), done if self._epoch == epoch else 0, None)

    def _micro_batches(self) -> Iterator[list[WeightedRow]]:
        for rows_n in self.global_batches():
            weight = self.accumulation * self._num_devices / len(rows_n)
            for rows in np.array_split(rows_n, self.accumulation):
                mine = rows[self._rank :: self._num_devices].tolist()
                yield [(row, weight) for row in mine] or [(int(rows_n[0]), 0.0)]

    def global_batches(self) -> list[IntArray]:
        """Return the rows of every optimiser step of the present epoch, each sorted by length."""
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._lengths))
        num_full = len(order) // self.global_batch_size
        full, rest = np.split(order, [num_full * self.global_batch_size])
        window = min(_WINDOW_BATCHES, -(-num_full // _WINDOWS_PER_EPOCH)) * self.global_batch_size
        batches = [
            batch
            for start in range(0, len(full), window or 1)
            for batch in self._cut(self._sorted(full[start : start + window]))
        ]
        batches = [batches[place] for place in generator.permutation(num_full)]
        return [*batches, self._sorted(rest)] if len(rest) else batches

    def _sorted(self, rows: IntArray) -> IntArray:
        return rows[np.argsort(self._lengths[rows], kind="stable")]

    def _cut(self, rows: IntArray) -> list[IntArray]:
        size = self.global_batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]


def accumulation_steps(global_batch_size: int, micro_batch_size: int, num_devices: int) -> int:
    """Return how many forward passes a device makes per optimiser step: as few as may be.

    Raises:
        ValueError: A size is below 1, or there are more devices than rows in a global batch.
    """
    for name, value in (
        ("global_batch_size", global_batch_size),
        ("micro_batch_size", micro_batch_size),
        ("num_devices", num_devices),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; 1 or more is needed")
    if global_batch_size < num_devices:
        raise ValueError(
            f"global_batch_size is {global_batch_size} but there are {num_devices} devices, and "
            f"each needs a row; use {global_batch_size} devices or fewer, or a greater batch"
        )
    return -(-global_batch_size // (micro_batch_size * num_devices))


def evaluation_shard(
    lengths: ArrayLike, *, num_ranks: int, rank: int, batch_size: int
) -> list[list[int]]:
    """Return the batches of one rank: over all ranks every row once, none repeated or left out.

    Rows are sorted by length, longest first, so that what does not fit into memory shows at once.
    Batches are as equal in size as can be, and every rank gets the same number of them where there
    are enough rows; with fewer rows than ranks some ranks get none.

    Args:
        lengths: Tokens of every row, (rows,).
        num_ranks: Processes that evaluate together.
        rank: Which of them this is.
        batch_size: Most rows of a batch.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    if not len(lengths_N):
        return []
    order = np.argsort(-lengths_N, kind="stable")
    per_rank = -(-len(order) // (batch_size * num_ranks))
    num_batches = min(per_rank * num_ranks, len(order))
    return [batch.tolist() for batch in np.array_split(order, num_batches)[rank::num_ranks]]


def stratified_subset(rows: Sequence[Row], num_rows: int) -> list[int]:
    """Return the places of num_rows rows with every label in its share, in order.

    The choice goes by a hash of the text, so it is the same for every seed, and a smaller subset is
    nearly part of a greater one. Targets with more values than half of num_rows are not stratified.

    Args:
        rows: Rows of one split.
        num_rows: How many to keep; 0 or more than there are: all.
    """
    if not 0 < num_rows < len(rows):
        return list(range(len(rows)))
    has_few_targets = 2 * len({row.target for row in rows}) <= num_rows
    groups: dict[float | None, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[row.target if has_few_targets else None].append(place)
    keys = np.array([_text_key(row) for row in rows])
    kept: list[int] = []
    ends = np.cumsum([len(groups[key]) for key in sorted(groups, key=str)])
    quotas = np.diff(np.round(ends * num_rows / len(rows)).astype(int), prepend=0)
    for key, quota in zip(sorted(groups, key=str), quotas.tolist(), strict=True):
        places = np.array(groups[key])
        kept += places[np.argsort(keys[places], kind="stable")[:quota]].tolist()
    return sorted(kept)


def _text_key(row: Row) -> int:
    text = f"{row.text}\n{row.text_pair}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
