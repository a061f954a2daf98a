r"""One run left alone and its twin, killed again and again: the same curve and the same weights?

    python -m benchmarks.killed_run --kills 10 --root runs/killed -- \\
        --config configs/pretrain/small.yaml --config configs/encoder/ponet_small.yaml \\
        --data.folder data/<corpus> --model.encoder.vocab_size 8192

What follows `--` are options of `pretrain fit`. The twin gets SIGKILL (with its data workers, as
from a machine that goes down) at random steps, and the same command is started again each time.
Both runs go at once, so give them a thread each: OMP_NUM_THREADS=1 on two cores.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Option
from benchmarks.runs import kill, last_step, start_fit
from training.checkpoints.storage import load_checkpoint, saved_checkpoints
from training.metrics_file import read_metrics, series

CLOCK = {"elapsed_s", "train/tokens_per_s", "train/mfu", "train/memory_gib"}
CLOCK |= {"train/data_wait_share"}
"""Columns that tell the time, and so differ between runs that are alike."""
OPTIONS = {
    "kills": Option(10, short=2),
    "max_steps": Option(600, short=60),
    "seed": Option(1),
    "root": Option(Path("runs/killed_run"), "folder of both runs"),
}
TWINS = ("alone", "killed")


def run_killed(options: list[str], root: Path, steps: list[int], seed: int) -> list[dict[str, Any]]:
    """Run `killed`, with SIGKILL a random moment after each of the steps; what happened."""
    jitter, kills = random.Random(seed), []
    for target in [*sorted(steps), None]:
        process = start_fit(options, root, "killed")
        while process.poll() is None:
            if target is not None and last_step(root / "killed") >= target:
                time.sleep(jitter.uniform(0, 3))
                kill(process)
                kept = saved_checkpoints(root / "killed" / "checkpoints")
                step = last_step(root / "killed")
                kills.append({"step": step, "checkpoint": kept[-1].step if kept else 0})
                print(f"killed after step {step}; newest checkpoint: {kills[-1]['checkpoint']}")
                break
            time.sleep(0.2)
        if target is None and process.returncode:
            raise SystemExit(f"the run ended with {process.returncode}: {root / 'killed.log'}")
    return kills


def differences(root: Path) -> dict[str, int]:
    """How many metric lines and weights of the two runs differ; 0 means to the bit."""
    stories, states = [], []
    for name in TWINS:
        rows = read_metrics(root / name / "metrics.jsonl")
        stories.append([{k: v for k, v in row.items() if k not in CLOCK} for row in rows])
        newest = saved_checkpoints(root / name / "checkpoints")[-1]
        states.append(load_checkpoint(newest.path)["state_dict"])
    lines = sum(a != b for a, b in zip(*stories, strict=False))
    return {
        "metric_lines": len(stories[0]),
        "different_lines": lines + abs(len(stories[0]) - len(stories[1])),
        "weights": len(states[0]),
        "different_weights": sum(not v.equal(states[1][k]) for k, v in states[0].items()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    settings = report.parse(__doc__, OPTIONS, arguments, rest="options")
    root, given = settings.root, settings.options
    fit = [*given, "--trainer.max_steps", str(settings.max_steps)]
    steps = random.Random(settings.seed).sample(range(1, settings.max_steps), settings.kills)
    alone = start_fit(fit, root, "alone")
    kills = run_killed(fit, root, steps, settings.seed)
    if alone.wait():
        raise SystemExit(f"the run ended with {alone.returncode}: {root / 'alone.log'}")
    found = differences(root)
    folder = given.index("--data.folder") + 1 if "--data.folder" in given else None
    settings.options = [Path(o).name if n == folder else o for n, o in enumerate(given)]
    targets = [
        report.target(f"{key.replace('_', ' ')} between the twins", found[key], at_most=0)
        for key in ("different_lines", "different_weights")
    ]
    content = {"kills": kills, **found, "targets": targets}
    report.finish("killed_run", content, settings)
    lines = {}
    for name in TWINS:
        rows = read_metrics(root / name / "metrics.jsonl")
        for key, label in (("train/loss", "training"), ("val/loss", "validation")):
            points = zip(*series(rows, key), strict=True)
            lines[f"{name}, {label}"] = [(x, report.only(y)) for x, y in points]
    report.line_chart(
        {"loss (nats); red: from the last checkpoint to a kill": lines},
        settings.output / "killed_run.png",
        title=f"Killed {len(kills)} times: {found['different_lines']} of {found['metric_lines']} "
        f"lines and {found['different_weights']} of {found['weights']} weights differ",
        xlabel="optimiser step",
        spans=[(each["checkpoint"], each["step"]) for each in kills],
    )


if __name__ == "__main__":
    main()
