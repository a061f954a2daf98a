"""A loader whose workers send each batch as one block of memory, received one batch ahead.

PyTorch hands every tensor of a batch over by a file descriptor of its own, each with a handshake;
for the nine small tensors of a batch that costs more than building them. So they travel together.
Even one handshake takes two milliseconds, so it is done while training is busy with the batch
before. (With pinned memory PyTorch has such a thread itself.)

Invariant: what the loader yields equals what the dataset builds, name by name and in its order.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

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

    _ahead: "ReadAhead | None" = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Yield batches by name."""
        if self._ahead is not None:
            self._ahead.close()  # an iteration that was left early shares its workers with this one
        batches = super().__iter__()
        named = (unpack_batch(batch) if isinstance(batch, Tensor) else batch for batch in batches)
        if not self.num_workers or self.pin_memory:
            yield from named
            return
        ahead = self._ahead = ReadAhead(named)
        try:
            yield from ahead
        finally:
            ahead.close()
            if self._ahead is ahead:
                self._ahead = None  # it keeps the workers

    def state_dict(self) -> dict[str, object]:
        """Return nothing: the data module's state is the one integer that tells the place."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Do nothing, for the same reason."""


class ReadAhead:
    """Fetches the next item in a thread while the consumer works on the last one.

    Errors of the source are raised where the item would have been yielded.

    Args:
        source: Read by the thread alone from now on.
    """

    _CLOSING_S = 10.0

    def __init__(self, source: Iterator[Any]) -> None:
        """Start the thread."""
        self._source = source
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        """Yield the source's items; after `close` there are none."""
        while not self._closed.is_set():
            item, error = self._ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    def close(self) -> None:
        """End the thread; what it has fetched and nobody took is dropped."""
        self._closed.set()
        try:
            self._ready.get_nowait()
        except queue.Empty:
            pass
        self._thread.join(self._CLOSING_S)
        self._source = iter(())

    def _fetch(self) -> None:
        try:
            for item in self._source:
                self._ready.put((item, None))
                if self._closed.is_set():
                    return
            end: BaseException = StopIteration()
        except BaseException as error:  # noqa: BLE001 (it is raised in the consumer's thread)
            end = error
        if not self._closed.is_set():
            self._ready.put((None, end))
