"""A loader whose workers send each batch as one block of memory, received one batch ahead.

PyTorch hands every tensor of a batch over by a file descriptor of its own, each with a handshake;
for the nine small tensors of a batch that costs more than building them. So they travel together.
Even one handshake takes two milliseconds, so it is done while training is busy with the batch
before. (With pinned memory PyTorch has such a thread itself.)

Invariant: what the loader yields equals what the dataset builds, name by name and in its order.
"""

import math
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pretrain.batches import Batch

T = TypeVar("T")

_CLOSING_S = 10.0


class Packed(NamedTuple):
    """A batch on its way."""

    layout: list[tuple[str, list[int], torch.dtype]]
    """Name, shape and type of every tensor, the widest types first."""
    data: Tensor
    """Their bytes, one after the other."""


def pack_batch(batch: Batch) -> Packed:
    """Return the batch as one block; its tensors stand in it with the widest types first."""
    layout = [(name, list(value.shape), value.dtype) for name, value in batch.items()]
    parts = [value.flatten().view(torch.uint8) for value in batch.values()]
    return Packed(layout, torch.cat(parts))


def unpack_batch(packed: Packed) -> Batch:
    """Return the tensors of `pack_batch` as views of its bytes."""
    sizes = [math.prod(shape) * dtype.itemsize for _, shape, dtype in packed.layout]
    parts = zip(packed.layout, packed.data.split(sizes), strict=True)
    return {name: part.view(dtype).view(shape) for (name, shape, dtype), part in parts}


class BatchLoader(DataLoader[Batch]):
    """A DataLoader over `PretrainDataset`: use `collate_fn=pack_batch` if there are workers."""

    _open: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Return the batches by name."""
        if self._open is not None:
            self._open.close()  # an iteration that was left early shares its workers with this one
        named = (unpack_batch(b) if isinstance(b, Packed) else b for b in super().__iter__())
        self._open = read_ahead(named) if self.num_workers and not self.pin_memory else named
        return self._open

    def state_dict(self) -> dict[str, object]:
        """Return nothing: the data module's state is the one integer that tells the place."""
        return {}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Do nothing, for the same reason."""


def read_ahead(source: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items of `source`, the next one fetched by a thread while the last is in work.

    Errors of the source are raised where the item would have been yielded. Closing the generator
    ends the thread; what it has fetched and nobody took is dropped.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def fetch() -> None:
        end: BaseException = StopIteration()
        try:
            for item in source:
                ready.put((item, None))
                if closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 (it is raised in the consumer's thread)
            end = error
        ready.put((None, end))

    thread = threading.Thread(target=fetch, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        with suppress(queue.Empty):
            ready.get_nowait()
        thread.join(_CLOSING_S)
