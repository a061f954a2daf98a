"""Training beside other programs: how the threads of PyTorch wait, and how many there are.

    python -m benchmarks.busy_machine                    (about 20 minutes on two cores)

A thread of OpenMP that has nothing to do spins for a while before it sleeps. On a quiet machine
that saves the time of waking it; beside other programs it takes the very core that the thread it
waits for needs. Every setting trains the quickstart's model in a process of its own, on batches of
random tokens, once on the machine as it is and once beside one busy loop per core; all settings in
turn, in several rounds of another order. Reported are steps per second, as the ratio to today's
default (spinning, a thread per core) and as the share of what the cores could give: beside one busy
loop per core, half of the quiet rate is the fair share.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import in_rounds, spread
from benchmarks.report import REPOSITORY, ROUNDS, Option, Options, Row
from benchmarks.runs import shards_in
from training.command_line import DECIDED_BY

VOCAB_SIZE = 8192
OPTIONS = {
    "rounds": Option(5, ROUNDS, short=1),
    "steps": Option(120, "timed steps of each process", short=4),
    "train": Option(None, "shards to train on once; for the processes of this one", kind=Path),
}
KEYS = (
    ("quiet_ratio", "quiet", "quiet"),
    ("busy_ratio", "busy", "busy"),
    ("share_when_busy", "busy", "quiet"),
)
"""Name of a ratio, its load, and the load of the first setting that it is formed with."""


def settings(cores: int) -> dict[str, dict[str, str]]:
    """Return name -> environment; the first is what PyTorch does when nothing is set."""
    every = {"OMP_NUM_THREADS": str(cores)}
    return {
        f"{cores} threads, spinning": every,
        f"{cores} threads, spin 10,000": every | {"GOMP_SPINCOUNT": "10000"},
        f"{cores} threads, spin 1,000": every | {"GOMP_SPINCOUNT": "1000"},
        f"{cores} threads, passive": every | {"OMP_WAIT_POLICY": "PASSIVE"},
        "1 thread": {"OMP_NUM_THREADS": "1"},
    }


@contextlib.contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run programs beside this one that want a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(environment: dict[str, str], shards: Path, steps: int) -> float:
    """Train in a process of its own; its steps per second."""
    waiting = (*DECIDED_BY, "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in waiting}
    command = [sys.executable, "-m", "benchmarks.busy_machine", "--train", str(shards)]
    done = subprocess.run(
        [*command, "--steps", str(steps)],
        env={**inherited, **environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{environment} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def train(shards: Path, steps: int) -> float:
    """Train a model of the quickstart's size, loader included; its steps per second."""
    from benchmarks.pretraining import fit, make_module
    from benchmarks.rivals import Rival

    options = Options(
        encoder="nano", vocab_size=VOCAB_SIZE, dropout=0.0, tokens_per_step=32 * 128,
        num_workers=1, device="cpu", warmup=max(2, steps // 4), steps=steps,
    )  # fmt: skip
    rival = Rival(kind="ponet", precision="32")
    return 1 / fit(make_module(rival, 128, options), rival, shards, 128, options)["wall_s"]


def measure(shards: Path, options: Options) -> list[Row]:
    """Return one row per setting: its rates alone and beside busy loops, and their ratios."""
    cores = os.cpu_count() or 1
    compared = settings(cores)

    def trained(name: str, loops: int) -> float:
        with busy_loops(loops):
            return rate(compared[name], shards, options.steps)

    tried = {
        (name, load): lambda name=name, loops=loops: trained(name, loops)
        for load, loops in (("quiet", 0), ("busy", cores))
        for name in compared
    }
    rates = in_rounds(tried, options.rounds, note="busy_machine")
    first, rows = next(iter(compared)), []
    for name, environment in compared.items():
        row: Row = {"name": name, "environment": environment}
        for key, load, base in KEYS:
            pairs = zip(rates[name, load], rates[first, base], strict=True)
            row[f"{load}_steps_per_s"] = spread(rates[name, load])
            row[key] = spread([own / other for own, other in pairs])
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    if options.train:
        print(json.dumps(train(options.train, options.steps)))
        return
    sizes = {"num_sentences": 40_000, "validation_sentences": 4_000, "vocab_size": VOCAB_SIZE}
    with shards_in(None, **sizes) as (shards, _):
        rows = measure(shards, options)
    report.finish("busy_machine", {"rows": rows}, options)
    keys = {"quiet_ratio": "quiet", "share_when_busy": "busy; 0.5 is the fair share"}
    series = {label: {row["name"]: row[key] for row in rows} for key, label in keys.items()}
    panels = {"Training beside one busy loop per core": series}
    unit = "steps per second, as a share of the first setting's on a quiet machine"
    report.bar_chart(panels, options.output / "busy_machine.png", unit=unit)


if __name__ == "__main__":
    main()
