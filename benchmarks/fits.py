"""Runs of `pretrain fit` in process groups of their own, to be killed at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.report import REPOSITORY
from training.metrics_file import read_metrics

Process = subprocess.Popen[bytes]


def start_fit(options: list[str], root: Path, name: str) -> Process:
    """Start a fit, its output added to `<root>/<name>.log`."""
    root.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pretrain", "fit", *options]
    command += ["--run.root", str(root.resolve()), "--run.name", name]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with (root / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=environment
        )


def kill(process: Process) -> None:
    """End a fit with its data workers, as a machine that goes down does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_step(run: Path) -> int:
    """Return the newest optimiser step in a run's metrics, 0 if there is none."""
    path = run / "metrics.jsonl"
    if not path.exists() or not path.read_text():
        return 0
    return max((int(row["step"] or 0) for row in read_metrics(path)), default=0)
