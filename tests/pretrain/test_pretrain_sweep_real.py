"""A real sweep: pretraining, what follows it, and going on from a checkpoint."""

import json
import random
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.slow
def test_a_real_sweep_ends_in_downstream_scores_and_goes_on_from_its_checkpoint(
    tiny_run: list[str], tmp_path: Path
) -> None:
    follow = ["--follow", "validate", "--follow", str(write_grid(tmp_path))]
    own = tiny_run.index("--run.root")
    options = tiny_run[:own] + tiny_run[own + 4 :]  # without --run.root and --run.name
    command = ["${env}", "${interpreter}", "-m", "${program}", "trial", *follow, "--", *options]
    content = {
        "program": "pretrain",
        "method": "grid",
        "metric": {"name": "val/mlm_accuracy"},
        "command": [*command, "${args}"],
        "parameters": {"model.objective": {"values": ["mlm"]}},
    }
    file, run = tmp_path / "real.yaml", tmp_path / "out" / "trial"
    file.write_text(yaml.safe_dump(content))
    arguments = ["sweep", str(file), "--output", str(run.parent)]
    assert main(arguments) == 0
    study = json.loads((run / "study.json").read_text())
    assert study["pretraining"]["steps"] == 4 and "val/mlm_loss" in study["pretraining"]
    assert study["downstream"]["own"]["n"] == 1
    (run / "trial.json").unlink()
    assert main(arguments) == 0
    log = (run / "trial.log").read_text()
    assert "is complete: 4 steps are done" in log and "1 done, 0 failed, 0 to run" in log
