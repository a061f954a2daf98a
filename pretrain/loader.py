"""Which samples a rank reads in which step, and how their batches come from the workers.

Invariant: the whole state of the stream is one integer, the optimiser steps done. Step t reads the
G samples of the t-th window of the stream that is not skipped, on any number of ranks. What the
loader yields equals what the dataset builds, name by name and in its order.

PyTorch hands every tensor of a batch over by a file descriptor of its own, each with a handshake;
for the nine small tensors of a batch that costs more than building them. So they travel together.
Even one handshake takes two milliseconds, so it is done while training is busy with the batch
before. (With pinned memory PyTorch has such a thread itself.)
"""

import math
import queue
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pretrain.batches import Batch, PretrainDataset
from training.interruption import signals_held
from training.run_config import largest_divisor

T = TypeVar("T")

_CLOSING_S = 10.0


def accumulation_steps(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the forward passes per rank and optimiser step: whole micro-batches, or an error."""
    sizes = f"global_batch_size {global_batch_size} and micro_batch_size {micro_batch_size}"
    if min(global_batch_size, micro_batch_size) < 1:
        raise ValueError(f"{sizes} must be at least 1.")
    steps, rest = divmod(global_batch_size, world_size * micro_batch_size)
    if not rest:
        return steps
    per_rank, left = divmod(global_batch_size, world_size)
    if left:
        near = f"{max(1, per_rank) * world_size} or {(per_rank + 1) * world_size}"
        advice = f"global_batch_size must be a multiple of the number of devices: try {near}"
    else:
        divisors = [str(n) for n in range(1, per_rank + 1) if per_rank % n == 0]
        advice = f"micro_batch_size may be {', '.join(divisors)}"
    raise ValueError(
        f"global_batch_size {global_batch_size} is not a multiple of {world_size} device(s) x "
        f"micro_batch_size {micro_batch_size}; {advice}."
    )


def fitting_micro_batch(global_batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the largest micro-batch, at most the given one, that several ranks' shares divide by.

    On one rank the given one, and where ranks have no equal shares: `accumulation_steps` says so.
    """
    share, left = divmod(global_batch_size, world_size)
    if world_size == 1 or left or not share:
        return micro_batch_size
    return largest_divisor(share, micro_batch_size)


class StreamBatchSampler(Sampler[list[int]]):
    """Yields the micro-batches of one rank, from a step to the end of the Lightning epoch.

    A Lightning epoch is a constant number of global steps, so that its length is known and does not
    vary; the data's own epochs (new segmentation, new order) follow from the sample numbers.

    Args:
        data: The `PretrainDataModule`; knows the steps done, and which samples a step reads.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._steps_per_epoch: int = data.steps_per_epoch

    def __len__(self) -> int:
        """Return the micro-batches of a full Lightning epoch, also when a part of it is done."""
        return self._steps_per_epoch * int(self._data.accumulation)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of sample numbers."""
        done, size = self._data.steps_done, self._data.micro_batch_size
        for step in range(done, (done // self._steps_per_epoch + 1) * self._steps_per_epoch):
            for number in range(self._data.accumulation):
                first = self._data.first_sample_of(step, number)
                yield list(range(first, first + size))


def evaluation_batches(
    num_examples: int, batch_size: int, rank: int, world_size: int
) -> list[list[int]]:
    """Return the examples of a rank, batch by batch: over all ranks every one once.

    Every rank has as many batches, for under FSDP all of them take part in each forward pass; so
    the last one may hold one example more than the others.

    Raises:
        ValueError: A rank would have no example.
    """
    own = list(range(rank, num_examples, world_size))
    borders = list(range(0, num_examples // world_size, batch_size))
    if not borders:
        raise ValueError(
            f"there are {num_examples} validation examples (data.eval_examples, or all) for "
            f"{world_size} devices, and each needs one; use fewer devices or more examples"
        )
    return [own[start:stop] for start, stop in zip(borders, [*borders[1:], None], strict=True)]


def first_examples(num_examples: int, batch_size: int, world_size: int, limit: float) -> int:
    """Return how many of so many examples Lightning evaluates under a limit: always the first ones.

    Args:
        num_examples: There are.
        batch_size: Examples per device and forward pass.
        world_size: Devices.
        limit: Batches of a device (int), or the share of them (float); see `Trainer`.
    """
    of_ranks = [
        evaluation_batches(num_examples, batch_size, rank, world_size) for rank in range(world_size)
    ]
    count = limit if isinstance(limit, int) else int(limit * len(of_ranks[0]))
    return sum(len(batch) for batches in of_ranks for batch in batches[:count])


class WholeBatches(Dataset[Batch]):
    """Batch number -> batch of a `PretrainDataset`; load it with `batch_size=1`.

    A batch sampler it cannot be: Lightning makes a `predict` a new one, and knows how of its own.

    Args:
        dataset: Makes the batches.
        batches: The sample numbers of each.
    """

    def __init__(self, dataset: PretrainDataset, batches: Sequence[Sequence[int]]) -> None:
        self._dataset, self._batches = dataset, batches

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._batches)

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        """Return the one batch that is asked for."""
        (number,) = numbers
        return self._dataset.__getitems__(self._batches[number])


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
    parts = zip(packed.layout, torch.split(packed.data, sizes), strict=True)
    return {name: part.view(dtype).view(shape) for (name, shape, dtype), part in parts}


class BatchLoader(DataLoader[Batch]):
    """A DataLoader over `PretrainDataset`: use `collate_fn=pack_batch` if there are workers."""

    _latest: "weakref.ref[Generator[Batch, None, None]] | None" = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Return the batches by name."""
        if self._latest and (left_early := self._latest()):
            left_early.close()  # it shares its workers with this iteration
        with signals_held():
            found = super().__iter__()
        named = (unpack_batch(b) if isinstance(b, Packed) else b for b in found)
        batches = read_ahead(named) if self.num_workers and not self.pin_memory else named
        self._latest = weakref.ref(batches)
        return batches

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
