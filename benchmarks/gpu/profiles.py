"""Where the time goes: the kernels of an encoder's step, and of a whole pretraining step.

A step lasts as long as the slower of the two: the device, computing, or the processor, which
launches what it computes. Of whole steps both are told.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from benchmarks import pretraining
from benchmarks.gpu.cells import Sizes
from benchmarks.harness import wait
from benchmarks.report import Options, Row
from benchmarks.rivals import Rival, Setting, Subject

MOST_KERNELS = 25
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
"""Beginnings of the names of what starts kernels."""


def profiler() -> torch.profiler.profile:
    """Return a profiler of the processor, and of the device where there is one."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


def device_us(event: Any, sizes: Sizes) -> float:
    """Return the microseconds of an event itself on the device."""
    found: float = event.self_cpu_time_total if sizes.is_dry else event.self_device_time_total
    return found


def is_kernel(event: Any) -> bool:
    """Return whether an event is a kernel: no operator and no named part of a step, whose are."""
    named = getattr(event, "is_user_annotation", False)
    return str(event.device_type).endswith("CUDA") and not named


def longest(events: Sequence[Any], sizes: Sizes, *, steps: int = 1) -> list[Row]:
    """Return the events that take the most time of a step, of the events of some steps."""
    events = sorted(events, key=lambda event: -device_us(event, sizes))
    return [
        {"name": e.key[:120], "us": device_us(e, sizes) / steps, "calls": e.count}
        for e in events[:MOST_KERNELS]
    ]


def encoder_kernels(sizes: Sizes, rival: Rival, num_tokens: int) -> list[Row]:
    """Return the kernels that take the most time of an encoder's step, all layers, no loss."""
    shape = (max(1, sizes.tokens // num_tokens), num_tokens)
    form: Any = {"size": sizes.encoder, "precision": "bf16", "device": sizes.device}
    setting = Setting(part="model", mode="training", **form)
    step = Subject(rival, setting, [shape]).step(num_tokens)
    step()
    with profiler() as taken:
        step()
    return longest(taken.key_averages(), sizes)


@dataclass
class Profiled(Callback):
    """Profiles the steps of a fit after its first ones."""

    sizes: Sizes
    warmup: int
    steps: int
    rows: list[Row] = field(default_factory=list)

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        device = pl_module.device.type
        if trainer.global_step == self.warmup:
            wait(device)
            self._taken, self._begin = profiler(), time.perf_counter()
            self._taken.start()
        if trainer.global_step == self.warmup + self.steps:
            wait(device)
            seconds = time.perf_counter() - self._begin
            self._taken.stop()
            self.rows = self._found(seconds)

    def _found(self, seconds: float) -> list[Row]:
        events = self._taken.key_averages()
        launches = sum(e.count for e in events if e.key.startswith(LAUNCHES))
        kernels = [e for e in events if self.sizes.is_dry or is_kernel(e)]
        total = sum(device_us(event, self.sizes) for event in kernels)
        each = {"profiled_s": seconds / self.steps, "launches": launches / self.steps}
        whole = {**each, "device_s": 1e-6 * total / self.steps}
        return [whole, *longest(kernels, self.sizes, steps=self.steps)]


def step_kernels(
    sizes: Sizes, preset: str, shards: Path, rivals: Sequence[Rival], options: Options
) -> list[Row]:
    """Return what whole steps spend on the device: in all, then kernel by kernel.

    `profiled_s` is the time of a step beside the profiler, longer than without; `device_s` that
    in which the device computed, `launches` how often something was started there.
    """
    found = []
    for rival in rivals:
        taken = Profiled(sizes, options.warmup, options.steps)
        module = pretraining.make_module(rival, sizes.lengths[0], options)
        pretraining.fit(module, rival, shards, sizes.lengths[0], options, callbacks=[taken])
        found += [{"encoder": preset, "rival": rival.label, **row} for row in taken.rows]
    return found
