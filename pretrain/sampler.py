"""Which samples of the endless stream a rank reads in a Lightning epoch.

Invariant: the whole state is one integer, the optimiser steps done. Step t reads the G samples of
the t-th window of the stream that is not skipped, on any number of ranks.

G global batch, R ranks, m micro-batch (examples per rank and forward pass).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from training.guards import window_of


@dataclass(frozen=True, kw_only=True)
class BatchGeometry:
    """How a global batch is spread over ranks and forward passes."""

    global_batch_size: int
    """Examples per optimiser step over all ranks."""
    micro_batch_size: int
    """Examples per rank and forward pass."""
    world_size: int = 1
    """Number of ranks."""
    rank: int = 0
    """This rank, from 0."""

    def __post_init__(self) -> None:
        """Check that the global batch is made of whole micro-batches."""
        if min(self.global_batch_size, self.micro_batch_size, self.world_size) < 1:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} and micro_batch_size "
                f"{self.micro_batch_size} must be at least 1."
            )
        if self.global_batch_size % (self.world_size * self.micro_batch_size):
            per_rank, left = divmod(self.global_batch_size, self.world_size)
            advice = (
                f"global_batch_size must be a multiple of the number of devices: try "
                f"{max(1, per_rank) * self.world_size} or {(per_rank + 1) * self.world_size}"
                if left
                else "micro_batch_size may be "
                + ", ".join(str(n) for n in range(1, per_rank + 1) if per_rank % n == 0)
            )
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"{self.world_size} device(s) x micro_batch_size {self.micro_batch_size}; {advice}."
            )

    @property
    def accumulation(self) -> int:
        """Forward passes per rank and optimiser step."""
        return self.global_batch_size // (self.world_size * self.micro_batch_size)

    def first_sample(self, window: int, micro_step: int) -> int:
        """Return the first sample of this rank's micro-batch in a window of the stream."""
        micro_batch = micro_step * self.world_size + self.rank
        return window * self.global_batch_size + micro_batch * self.micro_batch_size


@dataclass(kw_only=True)
class StreamBatchSampler(Sampler[list[int]]):
    """Yields the micro-batches of one rank, from a step to the end of the Lightning epoch.

    A Lightning epoch is a constant number of global steps, so that its length is known and does not
    vary; the data's own epochs (new segmentation, new order) follow from the sample numbers.
    """

    geometry: BatchGeometry
    """Global batch, micro-batch, ranks."""
    steps_per_epoch: int
    """Global steps per Lightning epoch, at least 1."""
    steps_done: Callable[[], int]
    """Called at the start of every iteration: the only state."""
    skipped: Sequence[int] = ()
    """Windows of the stream that are left out, ascending."""

    def __len__(self) -> int:
        """Return the micro-batches of a full Lightning epoch, also when a part of it is done."""
        return self.steps_per_epoch * self.geometry.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of sample numbers."""
        shape, step = self.geometry, self.steps_done()
        last = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
        for current in range(step, last):
            window = window_of(current, self.skipped)
            for micro_step in range(shape.accumulation):
                first = shape.first_sample(window, micro_step)
                yield list(range(first, first + shape.micro_batch_size))
