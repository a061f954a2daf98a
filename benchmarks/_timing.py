"""Interleaved timing, memory at its height, and the rates that the machine itself reaches.

Every round takes all rivals in a new order, so that a disturbance meets each of them alike; a ratio
is formed within a round and only then is the median taken.
"""

import contextlib
import gc
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import spread

Step = Callable[[], object]
SHORTEST_S = {"cpu": 0.02, "cuda": 0.05}
"""A sample repeats its step until it takes about this long."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How a step is timed: CUDA events on a GPU, CPU time of one thread, else wall time."""

    device: str
    """cpu or cuda."""
    threads: int
    """CPU threads that PyTorch may use."""

    @property
    def deciding(self) -> str:
        """The time that ratios are formed of."""
        if self.device == "cuda":
            return "device_s"
        return "cpu_s" if self.threads == 1 else "wall_s"

    def sample(self, step: Step, repeats: int) -> dict[str, float]:
        """Return seconds per step: `wall_s`, `cpu_s` (this process) and on CUDA `device_s`."""
        cuda = self.device == "cuda"
        wait(self.device)
        start, cpu_start = time.perf_counter(), time.process_time()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
        if cuda:
            events[0].record()
        for _ in range(repeats):
            step()
        if cuda:
            events[1].record()
        cpu_s = time.process_time() - cpu_start
        wait(self.device)
        found = {"wall_s": (time.perf_counter() - start) / repeats, "cpu_s": cpu_s / repeats}
        if cuda:
            found["device_s"] = events[0].elapsed_time(events[1]) / 1e3 / repeats
        return found


def cpu_features() -> dict[str, bool | None]:
    """Return whether this CPU has units for bf16 products; None where that is not known.

    Without AMX a bf16 product is no faster than an fp32 one, or slower.
    """
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else None
    names = ("amx_bf16", "avx512_bf16")
    return {name: None if flags is None else name in flags for name in names}


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def run_rounds(
    steps: Mapping[str, Step], *, rounds: int, clock: Clock, slow_s: float = math.inf
) -> dict[str, list[dict[str, float] | None]]:
    """Time every step once per round, in an order that changes from round to round.

    Args:
        steps: Name -> function that does one step.
        rounds: How many; one before them warms up, sets the repeats and is not reported.
        clock: How a step is timed.
        slow_s: Steps that take longer are left out of every second round.

    Returns:
        Name -> one sample per round, None where the step was left out.
    """
    repeats, is_slow = {}, {}
    for name, step in steps.items():
        step()  # compiles, fetches memory
        seconds = clock.sample(step, 1)["wall_s"]
        is_slow[name] = seconds > slow_s
        repeats[name] = max(1, round(SHORTEST_S[clock.device] / max(seconds, 1e-6)))
    samples: dict[str, list[dict[str, float] | None]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in random.Random(number).sample(list(steps), len(steps)):
            left_out = is_slow[name] and number % 2
            with _no_collection():
                sample = None if left_out else clock.sample(steps[name], repeats[name])
            samples[name].append(sample)
        gc.collect()
    return samples


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from pausing whoever is being timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def times(samples: Sequence[Mapping[str, float] | None], key: str) -> dict[str, Any]:
    """Return median, lowest and highest seconds and all of them."""
    values = [sample[key] for sample in samples if sample is not None]
    return {**spread(values), "all": values}


def ratio(
    numerator: Sequence[Mapping[str, float] | None],
    denominator: Sequence[Mapping[str, float] | None],
    key: str,
) -> dict[str, float] | None:
    """Return the spread of the round-by-round ratios; None without a round that has both."""
    pairs = zip(numerator, denominator, strict=True)
    values = [one[key] / two[key] for one, two in pairs if one is not None and two is not None]
    return spread(values) if values else None


def peak_bytes(step: Step, device: str) -> int:
    """Return by how many bytes one step raises what is allocated, at its height.

    On CUDA the allocator's statistics; on a CPU the sum over PyTorch's own allocations and frees as
    its profiler records them, which leaves out scratch space of the matrix library.
    """
    gc.collect()
    if device == "cuda":
        wait(device)
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        wait(device)
        return torch.cuda.max_memory_allocated() - held
    profile = torch.autograd.profiler.profile(profile_memory=True)
    with _silent():
        profile.__enter__()
    try:
        step()
    finally:
        with _silent():
            profile.__exit__(None, None, None)
    live = peak = 0
    for event in profile.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what libraries print to the error stream: the profiler writes lines at start and end."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def product(rows: int, inner: int, columns: int, *, dtype: torch.dtype, device: str) -> Step:
    """Return a step that is one matrix product of 2 x rows x inner x columns operations."""
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(inner, columns, device=device).to(dtype)
    result = torch.empty(rows, columns, device=device, dtype=dtype)
    return lambda: torch.mm(left, right, out=result)


def copying(num_bytes: int, *, device: str) -> Step:
    """Return a step that reads and writes this many bytes each."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
