"""Training beside other programs: how the threads of PyTorch wait, and how many there are.

    python benchmarks/busy_machine.py                    (about 20 minutes on two cores)

A thread of OpenMP that has nothing to do spins for a while before it sleeps. On a quiet machine
that saves the time of waking it; beside other programs it takes the very core that the thread it
waits for needs. Every setting trains the quickstart's model in a process of its own, on batches of
random tokens, once on the machine as it is and once beside one busy loop per core; all settings in
turn, in several rounds of another order. Reported are steps per second, as the ratio to today's
default (spinning, a thread per core) and as the share of what the cores could give: beside one busy
loop per core, half of the quiet rate is the fair share.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

from _common import RESULTS, machine, save, spread, synthetic_folder

VOCAB_SIZE = 8192
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is set in the environment of a training process."""

    name: str
    environment: dict[str, str]


def settings(cores: int) -> list[Setting]:
    """Return what is compared; the first is what PyTorch does when nothing is set."""
    every = {"OMP_NUM_THREADS": str(cores)}
    return [
        Setting(name=f"{cores} threads, spinning", environment=every),
        Setting(
            name=f"{cores} threads, spin 10,000", environment=every | {"GOMP_SPINCOUNT": "10000"}
        ),
        Setting(
            name=f"{cores} threads, spin 1,000", environment=every | {"GOMP_SPINCOUNT": "1000"}
        ),
        Setting(
            name=f"{cores} threads, passive", environment=every | {"OMP_WAIT_POLICY": "PASSIVE"}
        ),
        Setting(name="1 thread", environment={"OMP_NUM_THREADS": "1"}),
    ]


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Run programs beside this one that want a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rate(setting: Setting, shards: Path, options: argparse.Namespace) -> float:
    """Train in a process of its own; its steps per second."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING_VARIABLES}
    command = [sys.executable, str(Path(__file__).resolve()), "--train", str(shards)]
    command += ["--steps", str(options.steps)]
    done = subprocess.run(
        command,
        env=environment | setting.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{setting.name} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["steps_per_s"])


def train(shards: Path, steps: int) -> dict[str, float]:
    """Train a model of the quickstart's size, loader included; what it did per second."""
    from _fits import FitRival, fit, make_module

    options = argparse.Namespace(
        encoder="nano", vocab_size=VOCAB_SIZE, dropout=0.0, tokens_per_step=32 * 128,
        num_workers=1, device="cpu", warmup=max(2, steps // 4), steps=steps,
    )  # fmt: skip
    rival = FitRival(kind="ponet", precision="32")
    found = fit(make_module(rival, 128, options), rival, shards, 128, options)
    return {"steps_per_s": 1 / found["wall_s"]}


def measure(shards: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per setting: its rates alone and beside busy loops, and their ratios."""
    cores = os.cpu_count() or 1
    compared = settings(cores)
    loads = {"quiet": 0, "busy": cores}
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(options.rounds):
        for load, loops in loads.items():
            for setting in random.Random(number).sample(compared, len(compared)):
                with busy_loops(loops):
                    found = rate(setting, shards, options)
                rates.setdefault((setting.name, load), []).append(found)
                print(
                    f"round {number + 1}, {load}, {setting.name}: {found:.2f} steps/s", flush=True
                )
    rows = []
    for setting in compared:
        row: dict[str, Any] = {"name": setting.name, "environment": setting.environment}
        for load in loads:
            own, first = rates[setting.name, load], rates[compared[0].name, load]
            row[f"{load}_steps_per_s"] = spread(own)
            row[f"{load}_ratio"] = spread([a / b for a, b in zip(own, first, strict=True)])
        quiet = rates[compared[0].name, "quiet"]
        busy = rates[setting.name, "busy"]
        row["share_when_busy"] = spread([b / q for b, q in zip(busy, quiet, strict=True)])
        rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Draw quiet and busy rates side by side, as shares of today's default on a quiet machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    base = rows[0]["quiet_steps_per_s"]["median"]
    figure, axes = plt.subplots(figsize=(8.0, 1.4 + 0.6 * len(rows)))
    for offset, load, colour in ((-0.2, "quiet", "#1b6ca8"), (0.2, "busy", "#d1495b")):
        shares = [100 * row[f"{load}_steps_per_s"]["median"] / base for row in rows]
        places = [number + offset for number in range(len(rows))]
        drawn = axes.barh(places, shares, height=0.38, color=colour, label=load)
        axes.bar_label(drawn, fmt=lambda value: f"{value:.0f} %", padding=3)
    axes.axvline(50, color="#555555", linestyle=":", linewidth=1)
    axes.text(50, len(rows) - 0.45, "fair share when busy", fontsize=8, ha="center", va="top")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set(xlabel="steps per second, % of the first setting on a quiet machine")
    axes.set_title("Training beside one busy loop per core", loc="left")
    axes.legend(loc="lower right", frameon=False)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path = folder / "busy_machine.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def main() -> None:
    """Measure, write the JSON and the plot, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120, help="timed steps of each process")
    parser.add_argument("--short", action="store_true", help="one round of few steps")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train, options.steps)))
        return
    if options.short:
        options.rounds, options.steps = 1, 4
    with tempfile.TemporaryDirectory() as folder:
        shards = synthetic_folder(
            Path(folder) / "shards",
            num_sentences=40_000,
            vocab_size=VOCAB_SIZE,
            validation_sentences=4_000,
        )
        before = machine()
        rows = measure(shards, options)
    content = {"machine": before, "rounds": options.rounds, "steps": options.steps, "rows": rows}
    path = save("busy_machine", content, options.output)
    for row in rows:
        print(
            f"{row['name']:24s} quiet x {row['quiet_ratio']['median']:.3f}, "
            f"busy x {row['busy_ratio']['median']:.2f}, "
            f"share when busy {100 * row['share_when_busy']['median']:.0f} %"
        )
    print(f"wrote {path} and {plot(rows, options.output)}")


if __name__ == "__main__":
    main()
