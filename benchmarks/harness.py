"""Interleaved timing, memory at its height, and the rates that the machine itself reaches.

Every round takes all rivals in a new order, so that a disturbance meets each of them alike; a ratio
is formed within a round and only then is the median taken.
"""

import contextlib
import gc
import math
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.report import Option

Step = Callable[[], object]
Cell = tuple[str, int]
"""A rival and the tokens of a text."""
Sample = Mapping[str, float] | None
Spread = dict[str, float]
Name = TypeVar("Name")
Result = TypeVar("Result")
LIMITS = {
    "slow_s": Option(10.0, "what takes longer is left out of every second round"),
    "limit_s": Option(120.0, "of a case's first step"),
    "limit_gib": Option(6.0, "of a step, on a CPU"),
}
"""Options of `measure_steps`."""
SHORTEST_S = {"cpu": 0.02, "cuda": 0.05}
"""A sample repeats its step until it takes about this long."""


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def in_rounds(
    rivals: Mapping[Name, Callable[[], Result]], rounds: int, *, note: str = ""
) -> dict[Name, list[Result]]:
    """Call every rival once per round, in an order that changes; `note` is printed after each."""
    found: dict[Name, list[Result]] = {name: [] for name in rivals}
    for number in range(rounds):
        for name in random.Random(number).sample(list(rivals), len(rivals)):
            found[name].append(rivals[name]())
        gc.collect()
        if note:
            print(f"{note}: round {number + 1} of {rounds}", flush=True)
    return found


def interleaved(rivals: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, Any]:
    """Return the spread of every rival's figure and all of them; a first round is thrown away."""
    found = in_rounds(rivals, rounds + 1)
    return {name: {**spread(values[1:]), "all": values[1:]} for name, values in found.items()}


def times(samples: Sequence[Sample], key: str) -> dict[str, Any]:
    """Return median, lowest and highest seconds and all of them."""
    values = [sample[key] for sample in samples if sample is not None]
    return {**spread(values), "all": values}


def ratio(numerator: Sequence[Sample], denominator: Sequence[Sample], key: str) -> Spread | None:
    """Return the spread of the round-by-round ratios; None without a round that has both."""
    pairs = zip(numerator, denominator, strict=True)
    values = [one[key] / two[key] for one, two in pairs if one is not None and two is not None]
    return spread(values) if values else None


def rows_of(samples: Mapping[Cell, Sequence[Sample]], key: str) -> dict[Cell, dict[str, Any]]:
    """Return times and ratios of every rival at every length, formed of the time called `key`."""
    rows = {}
    for (rival, tokens), own in samples.items():
        others = [name for name, length in samples if length == tokens and name != rival]
        shortest = min(length for name, length in samples if name == rival)
        rows[rival, tokens] = {
            "rival": rival,
            "num_tokens": tokens,
            "time": key,
            "s": times(own, key),
            **{name: times(own, name) for name in ("wall_s", "cpu_s")},
            "times_as_fast_as": {n: ratio(samples[n, tokens], own, key) for n in others},
            "time_to_shortest": ratio(own, samples[rival, shortest], key),
        }
    return rows


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


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


def run_rounds(
    steps: Mapping[Name, Step], *, rounds: int, clock: Clock, slow_s: float = math.inf
) -> dict[Name, list[Sample]]:
    """Time every step once per round, after one that warms up and sets the repeats.

    Steps that take longer than `slow_s` are left out of every second round: None.
    """

    def rival(step: Step) -> Callable[[], Sample]:
        step()  # compiles, fetches memory
        seconds = clock.sample(step, 1)["wall_s"]
        repeats = max(1, round(SHORTEST_S[clock.device] / max(seconds, 1e-6)))
        turns = iter(range(rounds))

        def sample() -> Sample:
            if next(turns) % 2 and seconds > slow_s:
                return None
            gc.disable()  # it would pause whoever is being timed
            try:
                return clock.sample(step, repeats)
            finally:
                gc.enable()

        return sample

    return in_rounds({name: rival(step) for name, step in steps.items()}, rounds)


def guarded(name: Name, call: Callable[[], Result], errors: dict[Name, str]) -> Result | None:
    """Return what a call returns; None if it fails or has failed before, which `errors` then says.

    One rival that does not compile or does not fit into memory must not end a measurement.
    """
    if name in errors:
        return None
    try:
        return call()
    except Exception as error:  # whatever a compiler or a driver raises
        errors[name] = told(error)
        print(f"{name}: {errors[name]}", flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    return None


def first_calls(steps: Mapping[Name, Step]) -> tuple[dict[Name, Step], dict[Name, str]]:
    """Call every step once; return those that can be timed, and what was wrong with the others."""
    errors: dict[Name, str] = {}
    for name, step in steps.items():
        guarded(name, step, errors)
    return {name: step for name, step in steps.items() if name not in errors}, errors


def told(error: BaseException) -> str:
    """Return an error in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def measure_steps(steps: Mapping[Cell, Step], options: Any) -> list[dict[str, Any]]:
    """Return the rows of `rows_of` for the steps that stay within `LIMITS`, with their memory.

    `over` says which limit a step has passed ("": none).
    """
    rows = {}
    for cell, step in steps.items():
        rows[cell] = {"rival": cell[0], "num_tokens": cell[1], **_first_step(step, options)}
        print(*cell, rows[cell], flush=True)
    alive = {cell: step for cell, step in steps.items() if not rows[cell]["over"]}
    clock = Clock(device=options.device, threads=options.threads)
    samples = run_rounds(alive, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    for cell, found in rows_of(samples, clock.deciding).items():
        rows[cell] |= found
    return list(rows.values())


def _first_step(step: Step, options: Any) -> dict[str, Any]:
    """Return by how much a step raises the memory, or which limit it passes."""
    start = time.perf_counter()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if held := linux_gib("/proc/self/status", "VmData"):
        most = int((held + options.limit_gib) * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        peak = peak_bytes(step, options.device)
    except RuntimeError as error:  # also a GPU's OutOfMemoryError
        if "memory" not in str(error):
            raise
        return {"over": "memory"}
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    seconds = time.perf_counter() - start
    over = f"{options.limit_s:g} s" if seconds > options.limit_s else ""
    return {"over": over, "first_s": seconds, "peak_mib": peak / 2**20}


def linux_gib(file: str, key: str) -> float:
    """Return GiB as one of Linux's tables has them, 0 where there is none."""
    lines = Path(file).read_text().splitlines() if Path(file).exists() else []
    return sum(int(line.split()[1]) / 2**20 for line in lines if line.startswith(key))


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
    with _silent(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        step()
    live = peak = 0
    for event in profile.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drop what libraries print to the error stream: the profiler writes lines at start and end."""
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
