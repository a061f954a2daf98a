"""`tune batch_size`: time and memory of one micro-batch size after the other.

Lightning's own finder does not fit here: it doubles (128 does not divide a global batch of 192),
keeps the accumulation of the first size, so the global batch would change with the size, returns
its upper bound without having run it, and knows nothing of a CPU's memory. So each size gets a
short fit of its own by Lightning's Trainer, and Lightning's test tells running out of memory from
other errors. Sizes ascend: a CPU process only knows the highest memory it ever had.
"""

import gc
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.memory import is_oom_error

from pretrain.loader import accumulation_steps
from training.interruption import say
from training.reports.figures import COLOURS, GREY
from training.run_config import check_numbers
from training.utilisation import peak_resident

GIB = 1024**3
_SIZE_GROWTH = 1.4
_AS_FAST = 0.95
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, kw_only=True)
class BatchSizeSearch:
    """The batch-size finder's own options."""

    output: Path = Path("tuned_micro_batch_size.yaml")
    """YAML file to write, a further --config of `fit`; the plot goes beside it as PNG."""
    max_batch_size: int = 0
    """Largest micro-batch to try, > 0; 0: the whole global batch of one device. A CPU has no
    out-of-memory error to stop at, so there it bounds the time of the search."""
    memory_share: float = 0.9
    """Share of the memory that a size may need, in (0, 1]: of the GPU's, or on a CPU of the
    machine's (or container's), where a size expected to need more is not tried."""
    steps_per_size: int = 4
    """Optimiser steps per size, at least 2; the first is not timed."""
    choose: Literal["fastest", "largest"] = "fastest"
    """Among the sizes that fit: the smallest within 5 % of the fastest, or the largest."""

    def __post_init__(self) -> None:
        check_numbers(self, ">= 0", "max_batch_size")
        check_numbers(self, "in (0, 1]", "memory_share")
        if self.steps_per_size < 2:
            raise ValueError(f"steps_per_size must be at least 2, got {self.steps_per_size}")


@dataclass(frozen=True, kw_only=True)
class SizeTrial:
    """One micro-batch size, measured."""

    size: int
    """Examples per device and forward pass."""
    examples_per_s: float = 0.0
    """Examples per second and device at the real global batch, without loading; 0: not run."""
    memory: int = 0
    """Peak bytes: of the GPU, or of the process on a CPU."""
    problem: str = ""
    """Why it cannot be used: out of memory, or above the limit; empty: it can."""

    def __str__(self) -> str:
        """Its line of the table that is printed."""
        speed = f"{self.examples_per_s:.1f}" if self.examples_per_s else "-"
        memory = f"{self.memory / GIB:.2f}" if self.memory else "-"
        return f"{self.size:>11}{speed:>12}{memory:>10}  {self.problem}".rstrip()


def candidate_sizes(per_device: int, largest: int) -> list[int]:
    """Sizes to try, ascending: divisors of `per_device`, so that accumulation keeps it.

    Each is at least 1.4 times the one before; the largest divisor allowed is always among them,
    up to `largest` (0: no bound).
    """
    bound = min(per_device, largest or per_device)
    divisors = [size for size in range(1, bound + 1) if per_device % size == 0]
    sizes = [1]
    for size in divisors[1:]:
        if size >= _SIZE_GROWTH * sizes[-1] or size == divisors[-1]:
            sizes.append(size)
    return sizes


def expected_memory(points: Sequence[tuple[int, int]], size: int) -> float:
    """Bytes that a size will need, on the line through the last two (size, bytes) points."""
    (size_before, bytes_before), (last_size, last_bytes) = points[-2:]
    per_example = max(0.0, (last_bytes - bytes_before) / (last_size - size_before))
    return last_bytes + per_example * (size - last_size)


def chosen_size(trials: Sequence[SizeTrial], choose: Literal["fastest", "largest"]) -> SizeTrial:
    """Choose among the sizes that fit, in ascending order; an error if none does.

    `fastest` is the smallest size within 5 % of the fastest, `largest` the last.
    """
    fitting = [trial for trial in trials if not trial.problem]
    if not fitting:
        raise ValueError(
            f"not even a micro-batch of {trials[0].size} fits ({trials[0].problem}): use a smaller "
            "encoder, a shorter data.max_len or trainer.precision bf16-mixed"
        )
    if choose == "largest":
        return fitting[-1]
    best = max(trial.examples_per_s for trial in fitting)
    return next(trial for trial in fitting if trial.examples_per_s >= _AS_FAST * best)


class MicroBatchTimer(Callback):
    """Seconds of each micro-batch, loading not counted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._start = _now(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Stop it."""
        self.seconds.append(_now(pl_module) - self._start)

    def step_seconds(self, accumulation: int) -> float:
        """Seconds of an optimiser step of this many micro-batches, from measured steps of 1 or 2.

        The first step is left out: it warms up.
        """
        measured = min(2, accumulation)
        places = (measured, 2 * measured - 1)  # of a micro-batch inside a step, and of its last
        inside, closing = (statistics.median(self.seconds[place::measured]) for place in places)
        return closing + (accumulation - 1) * inside


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def peak_memory(device: str) -> int:
    """Most bytes: reserved on the GPU since the last reset, or of this process since it began."""
    return torch.cuda.max_memory_reserved() if device == "cuda" else peak_resident()


def total_memory(device: str) -> int:
    """Bytes of the GPU, of main memory, or of what the container may use if that is less."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[1]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return total


def find_batch_size(cli: Any) -> None:
    """Measure, print and plot the sizes, write `data.micro_batch_size`; `cli` is a `TuneCLI`."""
    search, global_batch_size = cli.search, cli.datamodule.global_batch_size
    sizes = SizeTrials(cli)
    trials = sizes.run()
    print(f"{'micro-batch':>11}{'examples/s':>12}{'peak GiB':>10}", *trials, sep="\n")
    if sizes.device == "cpu" and not trials[-1].problem:
        say(
            "a CPU has no out-of-memory error to find: the sizes ended at the global batch or "
            "--max_batch_size; memory is this process's peak, loader processes excluded"
        )
    chosen = chosen_size(trials, search.choose)
    with cli.drawn(2) as axes:
        _draw(trials, chosen, sizes.limit, axes)
    cli.write(
        f"{chosen.size} is the {search.choose} of the sizes that fit the {sizes.device} "
        f"({chosen.examples_per_s:.1f} examples/s, {chosen.memory / GIB:.2f} GiB; tried "
        f"{trials[0].size} to {trials[-1].size}, global batch {global_batch_size} on "
        f"{cli.world_size} device(s))",
        {"data": {"micro_batch_size": chosen.size}},
    )


class SizeTrials:
    """Tries micro-batch sizes on one device, with one or two micro-batches to a step.

    None of the texts is cut short on purpose, as some of a run are.
    """

    def __init__(self, cli: Any) -> None:
        self._cli, self._data = cli, cli.datamodule
        # Joined texts are as many tokens as they are long: a run must fit its fullest step.
        self._data.packing = replace(self._data.packing, short_prob=0.0)
        self.device = cli.make_trainer(Callback(), 1).strategy.root_device.type
        self.limit = int(cli.search.memory_share * total_memory(self.device))
        """Bytes that a size may need."""
        self._per_device = accumulation_steps(self._data.global_batch_size, 1, cli.world_size)

    def run(self) -> list[SizeTrial]:
        """Measure ascending sizes until one does not fit: at least one, all but the last fit."""
        points, trials = [(0, peak_memory(self.device))], list[SizeTrial]()
        for size in candidate_sizes(self._per_device, self._cli.search.max_batch_size):
            need = int(expected_memory(points, size)) if trials else 0
            # On a CPU running out ends the process from outside, without an error to catch.
            if self.device == "cpu" and need > self.limit:
                return [*trials, SizeTrial(size=size, memory=need, problem="not tried: memory")]
            trials.append(self._try(size))
            points.append((size, trials[-1].memory))
            if trials[-1].problem:
                break
        return trials

    def _try(self, size: int) -> SizeTrial:
        accumulation = self._per_device // size
        self._data.micro_batch_size = size
        self._data.global_batch_size = size * min(2, accumulation)
        timer = MicroBatchTimer()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch.compiler.reset()  # each size is a shape of its own, and compiled shapes are counted
        try:
            trainer = self._cli.make_trainer(timer, self._cli.search.steps_per_size)
            trainer.fit(self._cli.model, datamodule=self._data)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            return SizeTrial(size=size, problem="out of memory")
        self._data.verify_shards = False  # once is enough
        memory = peak_memory(self.device)
        if memory > self.limit:
            return SizeTrial(size=size, memory=memory, problem="above the memory limit")
        speed = self._per_device / timer.step_seconds(accumulation)
        return SizeTrial(size=size, examples_per_s=speed, memory=memory)


def _draw(trials: Sequence[SizeTrial], chosen: SizeTrial, limit: int, axes: Sequence[Any]) -> None:
    run = [trial for trial in trials if not trial.problem]
    values = ([t.examples_per_s for t in run], [t.memory / GIB for t in run])
    labels = ("examples per second and device", f"peak memory (GiB; limit {limit / GIB:.1f})")
    for axis, value, label in zip(axes, values, labels, strict=True):
        axis.plot([t.size for t in run], value, "o-", color=COLOURS[0])
        mark = {"color": COLOURS[1], "ms": 9, "label": f"chosen: {chosen.size}"}
        axis.plot(chosen.size, value[run.index(chosen)], "o", **mark)
        for trial in trials[len(run) :]:
            text = f"{trial.size}: {trial.problem}"
            axis.axvline(trial.size, color=GREY, ls=":", label=text)
        axis.set_xscale("log", base=2)
        axis.set_xticks([trial.size for trial in trials], [str(trial.size) for trial in trials])
        axis.set(xlabel="micro-batch size (examples per device)", ylabel=label)
        axis.set_ylim(0, 1.08 * max(value))
