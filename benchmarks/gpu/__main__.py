"""Everything that is measured on a GPU, in order of worth and within the time.

    python -m benchmarks.gpu --minutes 9 --output runs/gpu
    python -m benchmarks.gpu --minutes 4 --output runs/gpu      (goes on with what is missing)
    python -m benchmarks.gpu --dry_run --output /tmp/gpu        (any CPU, tiny sizes, no figures)

The stages: `machine` (rates, products, which attention PyTorch runs), `correct` (kernels against
definitions in float64), `kernels` (pools beside a copy, sizes of tiles), `steps` (whole pretraining
steps with their share of the peak), `lra` (the setting of the paper's Table 2), `fit` (a short
pretraining with its curve; a killed run and its twin), `layers` (one layer of every rival). Each is
a process of its own with a time limit; it appends every measurement to `<output>/<stage>.jsonl` as
it ends, so a cut run loses one measurement at most, and one that fails is written down and passed
over. In the end: `gpu.json`, `gpu.tar.gz`, and a table.

No network is needed and no data; of packages torch, triton and pytorch-lightning, not jsonargparse.
Exit code: how many stages are not complete.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.gpu import correct, fit, machine, summary, work
from benchmarks.gpu.cells import BROKEN_DEVICE, DRY, GPU, Cell, Log, Sizes, run_cells
from benchmarks.report import REPOSITORY
from benchmarks.runs import run_within

STAGES: dict[str, tuple[float, Callable[[Sizes], list[Cell]]]] = {
    "machine": (40, machine.cells),
    "correct": (60, correct.cells),
    "kernels": (40, work.kernel_cells),
    "steps": (330, work.step_cells),
    "lra": (60, work.table_2_cells),
    "fit": (120, fit.cells),
    "layers": (140, work.layer_cells),
}
"""Stage -> seconds in which it starts new cells, in one call; its cells."""
GRACE_S = 90.0
"""How long a stage's last cell may go on beyond that: one of whole steps takes minutes, and writes
what it has measured when all of it has been."""
LEAST_S = 20.0
"""No stage starts with less."""
AT_THE_END_S = 8.0
"""Kept for table and archive."""


def missing(folder: Path, stage: str, sizes: Sizes) -> int:
    """Return how many cells of a stage have not ended."""
    ended = Log(folder, stage).ended()
    return sum(what not in ended for what, _ in STAGES[stage][1](sizes))


def start_stage(stage: str, folder: Path, sizes: Sizes, seconds: float, most: float) -> int:
    """Run a stage in a process of its own; its exit code, -9 if it was ended for its time."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--stage", stage, "--output", str(folder)]
    command += ["--minutes", str(seconds / 60), *(["--dry_run"] if sizes.is_dry else [])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    with (folder / f"{stage}.log").open("ab") as log:
        return run_within(most, command, log, env=environment)


def run_all(folder: Path, stages: Sequence[str], sizes: Sizes, minutes: float) -> None:
    """Run the stages that are not complete, one after the other, until the time is over."""
    over_at = time.monotonic() + 60 * minutes - AT_THE_END_S
    for stage in stages:
        until = time.monotonic() + STAGES[stage][0]
        code = BROKEN_DEVICE
        while code == BROKEN_DEVICE and missing(folder, stage, sizes):
            left = over_at - time.monotonic()
            seconds = min(until - time.monotonic(), left - LEAST_S / 2)
            if min(left, seconds + GRACE_S) < LEAST_S:
                break
            begin = time.monotonic()
            most = min(left, seconds + GRACE_S)
            code = start_stage(stage, folder, sizes, max(1.0, seconds), most)
            took, lacks = time.monotonic() - begin, missing(folder, stage, sizes)
            print(f"{stage}: {took:.0f} s, exit code {code}, {lacks} cells missing", flush=True)
            summary.write(folder, list(STAGES), sizes)


def run_here(folder: Path, stages: Sequence[str], sizes: Sizes, seconds: float) -> None:
    """Run stages in this process; in a dry run what would be compiled runs as it is."""
    plain = patch.object(nn.Module, "compile", lambda *_, **__: None)
    plans = patch.object(torch, "compile", lambda function, **_: function)
    with contextlib.ExitStack() as as_it_is:
        for each in (plain, plans) if sizes.is_dry else ():
            as_it_is.enter_context(each)
        for stage in stages:
            left = run_cells(STAGES[stage][1](sizes), Log(folder, stage), seconds=seconds)
            print(f"{stage}: {left} cells missing", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--minutes", type=float, default=9.0, help="in all (default: 9)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--stage", choices=STAGES, help="this alone, in this process")
    parser.add_argument("--dry_run", action="store_true", help="on a CPU: does everything run?")
    options = parser.parse_args(arguments)
    folder: Path = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sizes = DRY if options.dry_run else GPU
    if options.stage:
        run_here(folder, [options.stage], sizes, 60 * options.minutes)
        return 0
    if options.dry_run:
        run_here(folder, options.stages, sizes, 60 * options.minutes)
    elif machine.has_gpu():
        run_all(folder, options.stages, sizes, options.minutes)
    else:
        print("no CUDA device here; --dry_run shows that everything runs", file=sys.stderr)
        return len(STAGES)
    content = summary.write(folder, list(STAGES), sizes)
    print("\n".join(summary.table(content)))
    print(summary.pack(folder))
    return sum(missing(folder, stage, sizes) > 0 for stage in STAGES)


if __name__ == "__main__":
    sys.exit(main())
