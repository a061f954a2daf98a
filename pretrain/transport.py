"""A loader whose workers send each batch as one block of memory.

PyTorch hands every tensor of a batch over by a file descriptor of its own, each with a handshake;
for the nine small tensors of a batch that costs more than building them. So they travel together.

Invariant: what the loader yields equals what the dataset builds, name by name.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pretrain.batches import Batch

_LONG_BYTES = 8
_LONG_NAMES = (
    "input_ids",
    "token_type_ids",
    "segment_ids",
    "masked_positions",
    "masked_labels",
    "pair_labels",
    "example_ids",
)
_BOOL_NAMES = ("mask", "special_mask")


def pack_batch(batch: Batch) -> Tensor:
    """Return the batch as bytes: B, L, M, then the int64 tensors, then the bool ones."""
    rows, length = batch["input_ids"].shape
    header = torch.tensor([rows, length, batch["masked_positions"].shape[1]])
    parts = [header, *(batch[name].flatten() for name in _LONG_NAMES)]
    parts += [batch[name].flatten() for name in _BOOL_NAMES]
    return torch.cat([part.view(torch.uint8) for part in parts])


def unpack_batch(packed: Tensor) -> Batch:
    """Return the tensors of `pack_batch` as views of its bytes."""
    start = 3 * _LONG_BYTES
    rows, length, slots = packed[:start].view(torch.int64).tolist()
    widths = dict.fromkeys((*_LONG_NAMES[:3], *_BOOL_NAMES), length)
    widths |= dict.fromkeys(_LONG_NAMES[3:5], slots)
    batch: Batch = {}
    for name in (*_LONG_NAMES, *_BOOL_NAMES):
        shape = (rows, widths[name]) if name in widths else (rows,)
        is_long = name in _LONG_NAMES
        size = rows * widths.get(name, 1) * (_LONG_BYTES if is_long else 1)
        part = packed[start : start + size].view(torch.int64 if is_long else torch.bool)
        batch[name] = part.view(shape)
        start += size
    return batch


class BatchLoader(DataLoader[Batch]):
    """A DataLoader over `PretrainDataset`: use `collate_fn=pack_batch` if there are workers."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield batches by name."""
        for batch in super().__iter__():
            yield unpack_batch(batch) if isinstance(batch, Tensor) else batch

    def state_dict(self) -> dict[str, object]:
        """Return nothing: the data module's state is the one integer that tells the place."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Do nothing, for the same reason."""
