"""Evaluations of anything but a run's last state, data and split are not its own scores."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pretrain_corpora import make_folder, random_documents, tiny_options

from pretrain.cli import main
from pretrain.comparison import differences_from_bundle
from training.metrics_file import run_rows
from training.reports.runs import read_run


@pytest.fixture(scope="module")
def trained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps; for all tests of this file."""
    root = tmp_path_factory.mktemp("trained")
    assert main(["fit", *tiny_options(tiny_shards, root)]) == 0
    return root / "tiny"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "tiny", symlinks=True)


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def test_a_limited_split_is_said_to_be_limited_and_is_no_score_of_the_whole_one(
    tiny_run: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = ["--data.eval_batch_size", "4", "--trainer.limit_test_batches", "2"]
    assert main(["test", *tiny_run, *limit]) == 0
    (record,) = evaluations(run)
    size = record["split_examples"]
    shown = capsys.readouterr().out
    assert f"first 8 of {size} examples of the validation split: MLM loss" in shown
    assert record["examples"] == 8 < size and record["baselines"]["eval_examples"] == 8
    assert read_run(run).last("test/mlm_loss") is None
    assert main(["test", *tiny_run]) == 0
    record = evaluations(run)[-1]
    assert record["examples"] == size == record["baselines"]["eval_examples"]
    assert read_run(run).last("test/mlm_loss") == record["metrics"]["test/mlm_loss"]


@pytest.mark.parametrize(
    ("command", "name"), [("validate", "val"), ("test", "test"), ("predict", "predict")]
)
@pytest.mark.parametrize("limit", ["0", "0.0"])
def test_an_evaluation_of_nothing_is_refused(
    command: str,
    name: str,
    limit: str,
    tiny_run: list[str],
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([command, *tiny_run, f"--trainer.limit_{name}_batches", limit]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"limit_{name}_batches is {limit}: nothing would be read; give 1 or more" in line


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("tiny/checkpoints/step-00000002.ckpt", 2),
        ("other/checkpoints/last.ckpt", 4),
        ("other/bundle", 4),
        ("tiny", 4),
    ],
)
def test_scores_of_other_weights_are_not_those_of_the_run(
    path: str, step: int, tiny_run: list[str], run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "other", symlinks=True)
    assert main(["test", *tiny_run, "--ckpt_path", str(tmp_path / path)]) == 0
    (record,) = evaluations(run)
    assert record["step"] == step and record["differs_from_training"] == []
    assert not [row for row in run_rows(run) if "test/loss" in row]


def test_a_run_that_was_made_longer_has_no_score_until_it_is_tested_again(
    tiny_run: list[str], run: Path
) -> None:
    longer = [*tiny_run, "--trainer.max_steps", "5"]
    assert main(["test", *tiny_run]) == 0 == main(["fit", *longer])
    assert read_run(run).last("test/mlm_loss") is None
    assert main(["test", *longer]) == 0
    (row,) = [row for row in run_rows(run) if "test/loss" in row]
    assert row["step"] == 5


def test_a_bundle_is_compared_with_the_data_of_its_training(
    tiny_run: list[str], run: Path, tmp_path: Path
) -> None:
    documents = random_documents(9, vocab_size=60)
    other = make_folder(tmp_path / "other", documents, vocab_size=65, num_continuations=6)
    options = ["--ckpt_path", str(run), "--data.folder", str(other), "--data.max_len", "24"]
    assert main(["test", *tiny_run, *options]) == 0
    data, length = evaluations(run)[0]["differs_from_training"]
    assert data.startswith("data was of digest ") and length == "max_len was 32, now 24"


def test_what_a_bundle_does_not_tell_is_not_known() -> None:
    data = {"data": "a", "max_len": 32, "segments": {"rule": "sentence", "tokens_per_segment": 32}}
    known = {"data_digest": "a", "max_len": 32}
    assert differences_from_bundle(known, data) == []
    assert differences_from_bundle({}, data) == [
        "data is not known of the weights",
        "max_len is not known of the weights",
    ]
    (segments,) = differences_from_bundle(known, {**data, "segments": {"rule": "text"}})
    assert segments == "segments was {'rule': 'sentence'}, now {'rule': 'text'}"
