r"""One run left alone and its twin, killed again and again: the same curve and the same weights?

    python benchmarks/killed_run.py --kills 10 --root runs/killed -- \\
        --config configs/pretrain/small.yaml --config configs/encoder/ponet_small.yaml \\
        --data.folder data/<corpus> --model.encoder.vocab_size 8192 --trainer.max_steps 600

What follows `--` are options of `pretrain fit`. The twin gets SIGKILL (with its data workers, as
from a machine that goes down) at random steps, and the same command is started again each time.
Both runs go at once, so give them a thread each: OMP_NUM_THREADS=1 on two cores.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

from _common import RESULTS, machine, save

from training.checkpoints.storage import load_checkpoint, saved_checkpoints
from training.metrics_file import read_metrics, series

CLOCK = (
    "elapsed_s",
    "train/tokens_per_s",
    "train/mfu",
    "train/memory_gib",
    "train/data_wait_share",
)


def start(options: list[str], root: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a fit in a process group of its own, its output in `<root>/<name>.log`."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pretrain", "fit", *options]
    command += ["--run.root", str(root), "--run.name", name]
    with (root / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def last_step(folder: Path) -> int:
    """The newest optimiser step in a run's metrics, 0 if there is none."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return 0
    lines = path.read_text().splitlines()
    rows = read_metrics(path) if lines else []
    return max((int(row["step"] or 0) for row in rows), default=0)


def run_killed(options: list[str], root: Path, steps: list[int], seed: int) -> list[dict[str, Any]]:
    """Run `killed`, with SIGKILL a random moment after each of the steps; what happened."""
    jitter, kills = random.Random(seed), []
    for target in [*sorted(steps), None]:
        process = start(options, root, "killed")
        while process.poll() is None:
            if target is not None and last_step(root / "killed") >= target:
                time.sleep(jitter.uniform(0, 3))
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kept = saved_checkpoints(root / "killed" / "checkpoints")
                reached = last_step(root / "killed")
                kills.append({"step": reached, "checkpoint": kept[-1].step if kept else 0})
                print(f"killed after step {reached}; newest checkpoint: {kills[-1]['checkpoint']}")
                break
            time.sleep(0.2)
        if target is None and process.returncode:
            raise SystemExit(f"the run ended with {process.returncode}: {root / 'killed.log'}")
    return kills


def differences(root: Path) -> dict[str, int]:
    """How many metric lines and weights of the two runs differ; 0 means to the bit."""
    stories = []
    for name in ("alone", "killed"):
        rows = read_metrics(root / name / "metrics.jsonl")
        stories.append([{k: v for k, v in row.items() if k not in CLOCK} for row in rows])
    states = [
        load_checkpoint(saved_checkpoints(root / name / "checkpoints")[-1].path)["state_dict"]
        for name in ("alone", "killed")
    ]
    lines = sum(a != b for a, b in zip(*stories, strict=False))
    return {
        "metric_lines": len(stories[0]),
        "different_lines": lines + abs(len(stories[0]) - len(stories[1])),
        "weights": len(states[0]),
        "different_weights": sum(not v.equal(states[1][k]) for k, v in states[0].items()),
    }


def plot(root: Path, kills: list[dict[str, Any]], found: dict[str, int], path: Path) -> None:
    """Draw both curves over each other, a line at every kill."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5))
    for name, style in (("alone", {"lw": 4, "alpha": 0.35}), ("killed", {"lw": 1})):
        rows = read_metrics(root / name / "metrics.jsonl")
        drawn = axes.plot(*series(rows, "train/loss"), label=f"{name}, training", **style)
        points = series(rows, "val/loss")
        axes.plot(*points, "o", color=drawn[0].get_color(), ms=style["lw"] + 4, alpha=0.6)
    for number, kill in enumerate(kills):
        label = "kill -9, and back to its last checkpoint" if not number else None
        axes.axvspan(kill["checkpoint"], kill["step"], color="crimson", alpha=0.15, label=label)
        axes.axvline(kill["step"], color="crimson", lw=0.8)
    axes.set(
        xlabel="optimiser step",
        ylabel="loss (nats)",
        title=f"Killed {len(kills)} times: {found['different_lines']} of {found['metric_lines']} "
        f"lines and {found['different_weights']} of {found['weights']} weights differ",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(facecolor="white", framealpha=0.9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(root: Path, options: list[str], kills: list[dict[str, Any]], output: Path) -> None:
    """Compare the two runs; write the JSON file and the plot."""
    found = differences(root)
    folder = options.index("--data.folder") + 1 if "--data.folder" in options else None
    shown = [Path(o).name if place == folder else o for place, o in enumerate(options)]
    result = {"machine": machine(), "options": shown, "kills": kills, **found}
    print(json.dumps(found))
    print(save("killed_run", result, output))
    plot(root, kills, found, output / "killed_run.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--max_steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--root", type=Path, default=Path("runs/killed_run"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("options", nargs="*", help="after --: options of `pretrain fit`")
    arguments = parser.parse_args()
    options = [*arguments.options, "--trainer.max_steps", str(arguments.max_steps)]
    steps = random.Random(arguments.seed).sample(range(1, arguments.max_steps), arguments.kills)
    alone = start(options, arguments.root, "alone")
    kills = run_killed(options, arguments.root, steps, arguments.seed)
    if alone.wait():
        raise SystemExit(f"the run ended with {alone.returncode}: {arguments.root / 'alone.log'}")
    report(arguments.root, options, kills, arguments.output)


if __name__ == "__main__":
    main()
