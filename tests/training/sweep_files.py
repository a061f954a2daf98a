"""Sweep files for tests, and a program that stands in for a run: no torch, a few milliseconds."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent

FAKE_RUN = """
import json, os, pathlib, signal, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(given["run.root"]) / given["run.name"]
with open(folder / "starts.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
alone = folder / "running"
os.close(os.open(alone, os.O_CREAT | os.O_EXCL))  # fails if the trial runs twice at once
def stop(number, frame):
    alone.unlink()
    (folder / "checkpoint").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
wanted = given.get("end", "0")
starts = len((folder / "starts.txt").read_text().splitlines())
if wanted == "wait" and not (folder / "checkpoint").exists():
    (folder.parent / "waiting").touch()
    time.sleep(60)
time.sleep(float(given.get("seconds", "0")))
row = {"step": starts, "elapsed_s": 1.0, "val/mlm_accuracy": float(given.get("x", "0"))}
(folder / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
alone.unlink()
if wanted == "fail":
    print("the reason"), sys.exit(3)
sys.exit(75 if wanted == "again" and starts < 3 else 0)
"""


def write_sweep(folder: Path, parameters: Mapping[str, Any], **keys: Any) -> Path:
    """A sweep file whose trials are the stand-in's."""
    (folder / "fake_run.py").write_text(FAKE_RUN, encoding="utf-8")
    content = {
        "program": str(folder / "fake_run.py"),
        "method": "grid",
        "metric": {"name": "val/mlm_accuracy", "goal": "maximize"},
        "command": ["${env}", "${interpreter}", "${program}", "${args}"],
        "parameters": dict(parameters),
        **keys,
    }
    path = folder / "sweep_file.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def starts(output: Path) -> dict[str, int]:
    """How often each trial of a sweep was started."""
    return {
        path.parent.name: len(path.read_text().splitlines()) for path in output.glob("*/starts.txt")
    }


def record(folder: Path) -> dict[str, Any]:
    """trial.json of a trial."""
    return json.loads((folder / "trial.json").read_text(encoding="utf-8"))


def start_sweep(file: Path, output: Path, *options: str) -> "subprocess.Popen[str]":
    """`python -m pretrain sweep` in a process of its own."""
    words = [sys.executable, "-m", "pretrain", "sweep", str(file), "--output", str(output)]
    return subprocess.Popen(
        [*words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
