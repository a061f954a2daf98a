"""Runs that a table would average must differ in their seed alone."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from training.reports.alike import differences, facts_of
from training.run_config import CONFIG_FILE

CONFIG = {
    "seed_everything": 1,
    "trainer": {"max_steps": -1, "devices": 1, "limit_train_batches": None},
    "model": {"encoder": "runs/a", "optimizer": {"lr": 1e-3, "beta1": 0.9}, "pairs": {"rows": 0}},
    "data": {
        "train": "a.csv",
        "validation_fraction": 0.1,
        "fold": 0,
        "micro_batch_size": 32,
        "segments": "auto",
    },
    "run": {"name": "a"},
}


def write(folder: Path, key: str = "", value: object = None, *, digest: str = "1") -> Path:
    config = copy.deepcopy(CONFIG)
    *groups, name = key.split(".")
    place = config
    for group in groups:
        place = place[group]
    if key:
        place[name] = value
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config))
    inputs = {"the train file": {"path": f"{folder}.csv", "sha256": digest}}
    (folder / "inputs.json").write_text(json.dumps(inputs))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.optimizer.beta1", 0.5),
        ("model.pairs.rows", 4096),
        ("data.validation_fraction", 0.2),
        ("trainer.limit_train_batches", 3),
        ("trainer.max_steps", 7),
    ],
)
def test_what_changes_the_experiment_is_named_with_both_values(tmp_path: Path, key, value):
    first, second = write(tmp_path / "a"), write(tmp_path / "b", key, value)
    (found,) = differences(facts_of(first), facts_of(second))
    assert found.startswith(f"{key} (") and found.endswith(f"and {value})")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed_everything", 2),
        ("run.name", "b"),
        ("data.fold", 1),
        ("data.micro_batch_size", 8),
        ("data.segments", "sentences"),
        ("data.train", "./a.csv"),
        ("model.encoder", "/elsewhere/a"),
        ("trainer.devices", 2),
    ],
)
def test_repetitions_places_and_speed_are_no_difference(tmp_path: Path, key, value):
    first, second = write(tmp_path / "a"), write(tmp_path / "b", key, value)
    assert differences(facts_of(first), facts_of(second)) == []


def test_files_of_other_content_are_a_difference_and_unknown_runs_none(tmp_path: Path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b", digest="2")
    assert differences(facts_of(first), facts_of(second)) == ["the train file"]
    assert differences(facts_of(first), facts_of(tmp_path / "no configuration")) == []
