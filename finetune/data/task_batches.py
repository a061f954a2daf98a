"""What the module is given, and the encoded rows of a split it is made from. B batch.

Invariant: a row has the same token ids, target and number in every batch it is part of.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from finetune.data.encoded_texts import PackedTexts, assemble_batch
from finetune.data.sampler import WeightedRow
from ponet import EncoderBatch


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

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Return the batch with every tensor on the device."""
        return TaskBatch(
            inputs=self.inputs.to(device, non_blocking=True),
            targets_B=self.targets_B.to(device, non_blocking=True),
            weights_B=self.weights_B.to(device, non_blocking=True),
            row_ids_B=self.row_ids_B.to(device, non_blocking=True),
        )


class EncodedSplit(Dataset[TaskBatch]):
    """The rows of a split; its items are whole batches, asked for by a list of (row, weight).

    Args:
        texts: Token ids of every row.
        targets: (rows,), int64 classes or float32 scores.
        pad_id: Id of [PAD].
    """

    def __init__(self, texts: PackedTexts, targets: NDArray[Any], *, pad_id: int) -> None:
        self.texts = texts
        self._targets = torch.from_numpy(targets)
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: Sequence[WeightedRow]) -> TaskBatch:
        row_ids_B = torch.tensor([row for row, _ in rows], dtype=torch.int64)
        return TaskBatch(
            inputs=assemble_batch([self.texts[row] for row, _ in rows], pad_id=self._pad_id),
            targets_B=self._targets[row_ids_B],
            weights_B=torch.tensor([weight for _, weight in rows], dtype=torch.float32),
            row_ids_B=row_ids_B,
        )
