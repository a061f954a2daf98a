"""A real sweep: pretraining, what follows it, and going on from a checkpoint."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data_prep.files import file_lock
from pretrain.cli import main


def write_grid(folder: Path) -> Path:
    """A grid of one fit on a few texts of the tiny corpus's words."""
    generator = random.Random(0)
    for split, count in (("train", 48), ("validation", 24)):
        labels = [generator.choice(["yes", "no"]) for _ in range(count)]
        rows = [f"w{generator.randint(0, 50)} w{int(label == 'yes')},{label}" for label in labels]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    data = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    fit = {"data": {**data, "max_len": 16}, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"tasks": ["own"], "lrs": [0.005], "fit": fit}))
    return path


def write_sweep(folder: Path, trial: list[str], fit: list[str]) -> Path:
    """A sweep of one trial: the options of `trial`, and those of a fit."""
    own = fit.index("--run.root")
    options = fit[:own] + fit[own + 4 :]  # without --run.root and --run.name
    command = ["${env}", "${interpreter}", "-m", "${program}", "trial", *trial, "--", *options]
    content = {
        "program": "pretrain",
        "method": "grid",
        "metric": {"name": "val/mlm_accuracy"},
        "command": [*command, "${args}"],
        "parameters": {"model.objective": {"values": ["mlm"]}},
    }
    path = folder / "real.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_real_sweep_ends_in_downstream_scores_and_goes_on_from_its_checkpoint(
    tiny_run: list[str], tmp_path: Path
) -> None:
    follow = ["--follow", "validate", "--follow", str(write_grid(tmp_path))]
    file, run = write_sweep(tmp_path, follow, tiny_run), tmp_path / "out" / "trial"
    arguments = ["sweep", str(file), "--output", str(run.parent)]
    assert main(arguments) == 0
    study = json.loads((run / "study.json").read_text())
    assert study["pretraining"]["steps"] == 4 and "val/mlm_loss" in study["pretraining"]
    assert study["downstream"]["own"]["n"] == 1
    (run / "trial.json").unlink()
    assert main(arguments) == 0
    log = (run / "trial.log").read_text()
    assert "is complete: 4 steps done" in log and "1 done, 0 failed, 0 to run" in log


@pytest.mark.slow
def test_the_run_of_a_killed_sweep_stops_with_a_checkpoint(
    tiny_run: list[str], tmp_path: Path, repository: Path
) -> None:
    endless = [*tiny_run, "--trainer.max_steps", "1000000"]
    file, run = write_sweep(tmp_path, [], endless), tmp_path / "out" / "trial"
    command = [sys.executable, "-m", "pretrain", "sweep", str(file), "--output", str(run.parent)]
    sweep = subprocess.Popen(
        command, cwd=repository, env={**os.environ, "PYTHONPATH": str(repository)}
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    sweep.kill()
    sweep.wait()
    with file_lock(run / ".trial.lock", wait=True):  # free when the run has ended
        assert "the sweep that started this run is gone" in (run / "trial.log").read_text()
    assert list((run / "checkpoints").glob("step-*"))
