"""The infinite stream of samples, and which of them a rank reads in a Lightning epoch.

Invariant: the whole state is one integer, the optimiser steps done. Step t reads the G samples of
the t-th window of the stream that is not skipped, on any number of ranks.

G global batch, R ranks, m micro-batch (examples per rank and forward pass).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from data_prep.shards import TokenShards
from pretrain.objectives import Objective
from pretrain.packing import PackingConfig
from pretrain.plan import EpochPlan, make_plan
from pretrain.randomness import IntArray
from training.guards import window_of

_PLANS_KEPT = 2


class SampleStream:
    """Sample number -> (epoch, row): the plans of all epochs one after the other.

    Plans are made when first needed; the last two are kept. A pickled or forked copy shares what
    its origin had made.
    """

    def __init__(
        self, shards: TokenShards, objective: Objective, packing: PackingConfig, *, seed: int
    ) -> None:
        """Make an empty stream; no plan is computed yet.

        Args:
            shards: The split to read.
            objective: Which pairs to make.
            packing: How to cut chunks.
            seed: Seed of the run.
        """
        self.shards = shards
        self._objective = objective
        self._packing = packing
        self._seed = seed
        self._plans: dict[int, EpochPlan] = {}
        self._ends: list[int] = []

    @property
    def known_sizes(self) -> list[int]:
        """Examples in each epoch planned so far, epoch 0 first."""
        return [end - start for start, end in zip([0, *self._ends], self._ends, strict=False)]

    def remember_sizes(self, sizes: list[int]) -> None:
        """Take over `known_sizes` of an equal stream, so that a resumed run need not plan again.

        Raises:
            ValueError: The sizes contradict a plan that was already made.
        """
        known = self.known_sizes
        common = min(len(known), len(sizes))
        if known[:common] != list(sizes[:common]):
            raise ValueError(
                f"the epochs of this corpus have {known[:common]} examples, the saved run had "
                f"{sizes[:common]}: it read other data or another version of this program."
            )
        if len(sizes) > len(known):
            self._ends = np.cumsum(sizes).tolist()

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch, from the cache if it is one of the last two used."""
        if epoch in self._plans:
            self._plans[epoch] = self._plans.pop(epoch)
            return self._plans[epoch]
        plan = make_plan(self.shards, self._objective, self._packing, seed=self._seed, epoch=epoch)
        self._plans[epoch] = plan
        while len(self._plans) > _PLANS_KEPT:
            del self._plans[next(iter(self._plans))]
        return plan

    def locate(self, samples: IntArray) -> tuple[IntArray, IntArray]:
        """Return epoch and row, (B,) int64 each, of sample numbers (B,) >= 0."""
        highest = int(samples.max())
        while not self._ends or self._ends[-1] <= highest:
            epoch = len(self._ends)
            self._ends.append((self._ends[-1] if epoch else 0) + len(self.plan(epoch)))
        ends = np.array(self._ends)
        epoch_B = np.searchsorted(ends, samples, side="right")
        return epoch_B, samples - np.concatenate([[0], ends])[epoch_B]


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


class StreamBatchSampler(Sampler[list[int]]):
    """Yields the micro-batches of one rank, from a step to the end of the Lightning epoch.

    A Lightning epoch is a constant number of global steps, so that its length is known and does not
    vary; the data's own epochs (new segmentation, new order) follow from the sample numbers.
    """

    def __init__(
        self,
        geometry: BatchGeometry,
        *,
        steps_per_epoch: int,
        steps_done: Callable[[], int],
        skipped: Sequence[int] = (),
    ) -> None:
        """Bind the sampler to its only state.

        Args:
            geometry: Global batch, micro-batch, ranks.
            steps_per_epoch: Global steps per Lightning epoch, at least 1.
            steps_done: Called at the start of every iteration.
            skipped: Windows of the stream that are left out, ascending.
        """
        self._geometry = geometry
        self._steps_per_epoch = max(1, steps_per_epoch)
        self._steps_done = steps_done
        self._skipped = tuple(skipped)

    def __len__(self) -> int:
        """Return the micro-batches of a full Lightning epoch, also when a part of it is done."""
        return self._steps_per_epoch * self._geometry.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of sample numbers."""
        shape, step = self._geometry, self._steps_done()
        last = (step // self._steps_per_epoch + 1) * self._steps_per_epoch
        for current in range(step, last):
            window = window_of(current, self._skipped)
            for micro_step in range(shape.accumulation):
                first = shape.first_sample(window, micro_step)
                yield list(range(first, first + shape.micro_batch_size))
