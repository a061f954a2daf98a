"""The batch-size finder: time and memory of one micro-batch size after the other.

Lightning's own finder does not fit here: it doubles (128 does not divide a global batch of 192),
keeps the accumulation of the first size, so the global batch would change with the size, returns
its upper bound without having run it, and knows nothing of a CPU's memory. So each size gets a
short fit of its own by Lightning's Trainer, and Lightning's test tells running out of memory from
other errors. Sizes ascend: a CPU process only knows the highest memory it ever had.
"""

import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.memory import is_oom_error

from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.sampler import BatchGeometry
from pretrain.tuning.searches import (
    BatchSizeSearch,
    SizeTrial,
    candidate_sizes,
    expected_memory,
)

MakeTrainer = Callable[[Callback, int], Trainer]
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class MicroBatchTimer(Callback):
    """Seconds of each micro-batch after the first optimiser step, loading not counted."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        """Of micro-batches that end no optimiser step."""
        self.closing: list[float] = []
        """Of micro-batches that end one."""
        self._start = 0.0
        self._step = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._step, self._start = trainer.global_step, self._now(pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop it."""
        seconds = self._now(pl_module) - self._start
        if self._step:
            (self.inside if trainer.global_step == self._step else self.closing).append(seconds)

    @staticmethod
    def _now(module: LightningModule) -> float:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        return time.perf_counter()

    def step_seconds(self, accumulation: int) -> float:
        """Seconds of an optimiser step of this many micro-batches."""
        closing = statistics.median(self.closing)
        return closing + (accumulation - 1) * statistics.median(self.inside or [closing])


def find_batch_size(
    make_trainer: MakeTrainer,
    module: PretrainModule,
    datamodule: PretrainDataModule,
    search: BatchSizeSearch,
    *,
    world_size: int,
) -> tuple[list[SizeTrial], int]:
    """Measure micro-batch sizes on one device, ascending, until one does not fit.

    Args:
        make_trainer: Makes a trainer for one device from a callback and a number of steps.
        module: Trained for a few steps at every size.
        datamodule: Gets every size in turn, with one or two micro-batches to a step.
        search: Which sizes, and how much memory they may need.
        world_size: Devices of the run that the size is for; each has its share of the global batch.

    Returns:
        The sizes tried, at least one, of which all but the last fit; and the limit in bytes.
    """
    geometry = BatchGeometry(
        global_batch_size=datamodule.global_batch_size, micro_batch_size=1, world_size=world_size
    )
    device = make_trainer(Callback(), 1).strategy.root_device
    meter = GpuMemory() if device.type == "cuda" else CpuMemory()
    limit = int(search.memory_share * meter.total)
    points, trials = [(0, meter.peak())], list[SizeTrial]()
    for size in candidate_sizes(geometry.accumulation, search.max_batch_size):
        if len(trials) and meter.must_predict and expected_memory(points, size) > limit:
            need = expected_memory(points, size)
            trials.append(SizeTrial(size=size, memory=int(need), problem="not tried: memory"))
            break
        trial = _try(make_trainer, module, datamodule, search, (size, geometry.accumulation), meter)
        if not trial.problem and trial.memory > limit:
            trial = SizeTrial(size=size, memory=trial.memory, problem="above the memory limit")
        trials.append(trial)
        points.append((size, trial.memory))
        if trial.problem:
            break
    return trials, limit


def _try(
    make_trainer: MakeTrainer,
    module: PretrainModule,
    datamodule: PretrainDataModule,
    search: BatchSizeSearch,
    sizes: tuple[int, int],
    meter: "CpuMemory | GpuMemory",
) -> SizeTrial:
    size, per_device = sizes
    accumulation = per_device // size
    datamodule.micro_batch_size = size
    datamodule.global_batch_size = size * min(2, accumulation)
    timer = MicroBatchTimer()
    meter.reset()
    torch.compiler.reset()  # each size is a shape of its own, and compiled shapes are counted
    try:
        make_trainer(timer, search.steps_per_size).fit(module, datamodule=datamodule)
    except RuntimeError as error:
        if not is_oom_error(error):
            raise
        return SizeTrial(size=size, problem="out of memory")
    datamodule.verify_shards = False  # once is enough
    speed = per_device / timer.step_seconds(accumulation)
    return SizeTrial(size=size, examples_per_s=speed, memory=meter.peak())


class GpuMemory:
    """What PyTorch reserves on the current GPU."""

    must_predict = False
    """Running out is an error that can be caught."""

    def __init__(self) -> None:
        self.total = torch.cuda.mem_get_info()[1]

    def reset(self) -> None:
        """Start the next peak."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Most bytes since the last reset."""
        return torch.cuda.max_memory_reserved()


class CpuMemory:
    """What this process ever had in main memory; loader processes are not counted."""

    must_predict = True
    """Running out ends the process from outside, without an error to catch."""

    def __init__(self) -> None:
        self.total = machine_memory()

    def reset(self) -> None:
        """Free what is unused; the highest value stays."""
        gc.collect()

    def peak(self) -> int:
        """Most bytes since the process began."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine_memory() -> int:
    """Bytes of main memory, or of what the container may use if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total
