"""Two ranks train and score as one does, also where their shares of a split differ in size."""

from pathlib import Path
from typing import Any

import pytest
from finetune_ranks import run_on_two_ranks
from finetune_runs import (
    FaultAt,
    fit_arguments,
    interrupt,
    json_lines,
    result_of,
    run_fit,
    with_callback,
)
from finetune_taggers import run_tag_fit, tag_arguments, write_tagged
from safetensors.torch import load_file

from finetune.cli import main

OPTIONS = [
    *("--model.dropout_prob", "0", "--data.eval_batch_size", "7", "--data.micro_batch_size", "5"),
    *("--trainer.gradient_clip_val", "0.5", "--model.optimizer.lr", "2e-3"),
]


@pytest.fixture(scope="module")
def ranks(
    bundle: Path, tokenizer_json: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    files: dict[str, Any] = {"num_train": 155, "test": True}
    assert run_fit(bundle, folder, "one", *OPTIONS, **files) == 0
    two = fit_arguments(bundle, folder, "two", *OPTIONS, "--trainer.devices", "2", **files)
    moved = fit_arguments(bundle, folder, "moved", *OPTIONS, **files)
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, FaultAt(interrupt, epoch=1, batch=14))
        assert main(moved) == 130
    moved += ["--trainer.devices", "2"]
    lost = ["--model.optimizer.lr", "1e38", "--trainer.gradient_clip_val", "1e30"]
    lost = fit_arguments(bundle, folder, "lost", "--trainer.devices", "2", *lost, **files)
    again = ["test", "--run.root", str(folder), "--run.name", "one", "--trainer.devices", "2"]
    write_tagged(folder / "test.jsonl", num_rows=41, seed=3)
    options = [*OPTIONS, "--model.optimizer.eps", "1e-3"]  # no noise is amplified
    assert run_tag_fit(folder, tokenizer_json, "mixer", *options).exists()
    tags = tag_arguments(folder, tokenizer_json, "mixer", *options, "--run.name", "tags")
    tags += ["--trainer.devices", "2"]
    return {"folder": folder, "codes": run_on_two_ranks(folder, [two, again, lost, moved, tags])}


@pytest.mark.parametrize(("name", "job"), [("two", 0), ("moved", 3), ("tags", 4)])
def test_scores_and_weights_are_those_of_one_rank(
    ranks: dict[str, Any], name: str, job: int
) -> None:
    one, two = (ranks["folder"] / run for run in ("mixer" if name == "tags" else "one", name))
    assert [rank["code"] for rank in ranks["codes"][job]] == [0, 0], ranks["codes"][job]
    ours, theirs = result_of(one), result_of(two)
    assert ours["best_step"] == theirs["best_step"]
    assert ours["evaluation"]["test"]["num_rows"] == theirs["evaluation"]["test"]["num_rows"] == 41
    for split, values in ours["evaluation"].items():
        assert theirs["evaluation"][split] == pytest.approx(values, abs=1e-5)
    weights = [load_file(run / "classifier/model.safetensors") for run in (one, two)]
    assert all((weights[0][k] - weights[1][k]).abs().max() < 1e-4 for k in weights[0])


def test_the_logged_losses_are_those_of_one_rank(ranks: dict[str, Any]) -> None:
    ours, theirs = (
        json_lines(ranks["folder"] / f"{name}/metrics.jsonl") for name in ("one", "two")
    )
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        del row["elapsed_s"], other["elapsed_s"]
        assert other == pytest.approx(row, abs=1e-5)


def test_a_finished_run_is_scored_on_two_ranks(ranks: dict[str, Any]) -> None:
    assert [rank["code"] for rank in ranks["codes"][1]] == [0, 0], ranks["codes"][1]


def test_a_run_that_diverges_ends_on_both_ranks(ranks: dict[str, Any]) -> None:
    first, second = ranks["codes"][2]
    assert (first["code"], second["code"]) == (77, 0)
    assert "diverged" in first["stderr"] and result_of(ranks["folder"] / "lost")["diverged"]
