"""Batches of whole splits that lie on the device: indexed there, sorted by length, cut.

B rows of a batch, L places, N samples. Invariant: what an optimiser step sees depends on seed and
epoch only; cutting padding off changes no logit of an encoder that does not see padding, because
segments and the divisor of the mean keep the padded length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.lra.splits import Ids, LraSplit
from ponet.batch import EncoderBatch
from ponet.segments import segments_from_count

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LraBatch:
    """Samples on the device."""

    inputs: EncoderBatch
    other: EncoderBatch | None
    """The second texts of a pair task."""
    targets_B: Tensor
    """int64 (B,)."""
    token_shares: tuple[float, ...] = ()
    """Of each side in training: its real tokens, over the mean of the step's micro-batches, in
    which both sides count."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How samples become batches."""

    num_segments: int
    """Pooling segments by position that are asked for, over the padded length."""
    zeros_are_padding: bool
    """Id 0 is masked wherever it stands, also a black pixel, as published; else what lies beyond a
    sample's length is."""
    cuts: bool
    """Cut batches to their longest row."""


class DeviceSplit:
    """A split whose ids and labels are tensors on one device."""

    def __init__(self, split: LraSplit, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        self.labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
        self.sides = [(_on_device(ids, device), lengths) for ids, lengths in split.sides]
        all_lengths = np.stack([lengths for _, lengths in split.sides])
        self.lengths: Rows = all_lengths.sum(0, dtype=np.int64)
        """(N,): real tokens of a sample, of both texts of a pair."""
        length = split.ids.shape[1]
        self._segments_L = segments_from_count(1, length, num_segments=layout.num_segments)[0]
        self._segments_L = self._segments_L.to(device)
        self._places_L = torch.arange(length, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Rows, *, token_shares: Sequence[float] = ()) -> LraBatch:
        """Return some samples, in the order of their numbers (B,)."""
        device_rows = torch.from_numpy(rows).to(self.labels.device)
        batches = [self._side(side, rows, device_rows) for side in range(len(self.sides))]
        return LraBatch(
            inputs=batches[0],
            other=batches[1] if len(batches) > 1 else None,
            targets_B=self.labels[device_rows],
            token_shares=tuple(token_shares),
        )

    def _side(self, number: int, rows: Rows, device_rows: Tensor) -> EncoderBatch:
        ids, all_lengths = self.sides[number]
        lengths = all_lengths[rows]
        end = max(1, int(lengths.max())) if self.layout.cuts else ids.shape[1]
        ids_BL = ids[device_rows, :end].long()
        is_full = bool((lengths == end).all()) and not self.layout.zeros_are_padding
        if self.layout.zeros_are_padding:
            mask_BL = ids_BL != 0
        elif is_full:
            mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
        else:
            lengths_B1 = torch.from_numpy(lengths.astype(np.int64))[:, None].to(ids.device)
            mask_BL = self._places_L[:end] < lengths_B1
        zeros_BL = torch.zeros_like(ids_BL)
        return EncoderBatch(
            input_ids=ids_BL,
            mask=mask_BL,
            token_type_ids=zeros_BL,
            segment_ids=self._segments_L[:end].expand(len(rows), -1).contiguous(),
            special_mask=zeros_BL.bool(),
            segments_are_runs=not self.layout.zeros_are_padding,
            has_padding=not is_full,
        )


def _on_device(ids: Ids, device: torch.device) -> Tensor:
    """Ids in one byte where they fit, else in two: PyTorch indexes no unsigned 16 bits."""
    narrow = ids if ids.dtype == np.uint8 else ids.astype(np.int16)
    return torch.from_numpy(np.ascontiguousarray(narrow)).to(device)


class TrainBatches:
    """Micro-batches of an epoch: whole batches of a shuffle by (seed, epoch), sorted by length.

    Samples that fill no whole batch wait for another epoch.

    Args:
        split: The samples.
        batch_size: Samples of an optimiser step.
        micro_batch_size: Samples of a micro-batch; divides batch_size.
        seed: Of the order.
        epoch: Says which epoch it is.
        resume_at: Epoch to begin with, and how many of its micro-batches to leave out.
    """

    def __init__(  # noqa: PLR0913
        self,
        split: DeviceSplit,
        *,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        resume_at: tuple[int, int] = (0, 0),
    ) -> None:
        self.split, self.seed, self.epoch, self.resume_at = split, seed, epoch, resume_at
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def __len__(self) -> int:
        """Micro-batches of an epoch."""
        return len(self.split) // self.batch_size * self._per_step

    def __iter__(self) -> Iterator[LraBatch]:
        epoch = self.epoch()
        done = self.resume_at[1] if self.resume_at[0] == epoch else 0
        return islice(self._micro_batches(epoch, done), done % self._per_step, None)

    @property
    def _per_step(self) -> int:
        return self.batch_size // self.micro_batch_size

    def _micro_batches(self, epoch: int, done: int) -> Iterator[LraBatch]:
        """From the step on that holds the first micro-batch that is not done."""
        generator, size = np.random.default_rng((self.seed, epoch)), self.batch_size
        order = generator.permutation(len(self.split))
        for step in range(done // self._per_step, len(self.split) // size):
            rows = order[step * size : (step + 1) * size]
            rows = rows[np.argsort(-self.split.lengths[rows], kind="stable")]
            micros = rows.reshape(-1, self.micro_batch_size)
            sides = [lengths[micros].sum(1, dtype=np.int64) for _, lengths in self.split.sides]
            tokens = np.stack(sides, axis=1)
            shares = tokens / max(1.0, tokens.sum(1).mean())
            for micro, share in zip(micros, shares.tolist(), strict=True):
                yield self.split.batch(micro, token_shares=share)


class EvaluationBatches:
    """Every chosen sample once, in batches of about one length.

    Args:
        split: The samples.
        rows: Their numbers.
        batch_size: Most samples of a batch.
    """

    def __init__(self, split: DeviceSplit, rows: Sequence[int], batch_size: int) -> None:
        self.split, self.batch_size = split, batch_size
        self.rows = np.asarray(rows, np.int64)
        self.rows = self.rows[np.argsort(-split.lengths[self.rows], kind="stable")]

    def __len__(self) -> int:
        return (len(self.rows) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[LraBatch]:
        for start in range(0, len(self.rows), self.batch_size):
            yield self.split.batch(self.rows[start : start + self.batch_size])
