"""`model.freeze`: what is frozen is left as it is, what is not learns, and a run says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_runs import (
    FaultAt,
    assert_same_story,
    fit_arguments,
    interrupt,
    json_lines,
    result_of,
    run_fit,
    with_callback,
    write_bundle,
    write_reviews,
)
from finetune_sentences import fit_documents
from finetune_taggers import run_tag_fit
from grid_fakes import make_result, write
from pytorch_lightning import Callback
from safetensors.torch import load_file

from finetune.cli import main
from training.reports.finetuning import GridReport
from training.reports.trials import find_trials
from training.result import read_result

DECAYS = ("--model.optimizer.weight_decay", "0.1", "--data.micro_batch_size", "4")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    """A bundle of two blocks."""
    return write_bundle(tmp_path_factory.mktemp("deep") / "bundle", tokenizer_json, num_layers=2)


class Watch(Callback):
    """Keeps what the optimiser steps, and the weights before the first step."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        known = {id(p): name for name, p in pl_module.classifier.named_parameters()}
        groups = trainer.optimizers[0].param_groups
        self.stepped = {known[id(p)] for group in groups for p in group["params"]}
        self.before = {k: v.clone() for k, v in pl_module.classifier.state_dict().items()}


def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch the fits from now on."""
    watched = Watch()
    with_callback(monkeypatch, watched)
    return watched


def assert_frozen(run: Path, watched: Watch, *starts: str) -> None:
    """The parameters with these names, and no others, were left as they were, to the bit."""
    after = load_file(run / "classifier/model.safetensors")
    frozen = {name for name in watched.before if name.startswith(starts)}
    assert frozen and watched.stepped == watched.before.keys() - frozen
    assert all(torch.equal(after[name], watched.before[name]) for name in frozen)
    changed = {n for n in watched.stepped if not torch.equal(after[n], watched.before[n])}
    assert {"encoder", "pooler", "classifier"} >= {name.partition(".")[0] for name in changed}
    assert "classifier.weight" in changed


@pytest.mark.parametrize(
    ("freeze", "starts", "said"),
    [
        ("embeddings", ["encoder.embeddings."], "embeddings"),
        ("1", ["encoder.embeddings.", "encoder.layers.0."], "embeddings and 1 of 2 blocks"),
        ("encoder", ["encoder."], "encoder"),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_learns(
    deep: Path, tmp_path: Path, freeze: str, starts: list[str], said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    watched = watch(monkeypatch)
    assert run_fit(deep, tmp_path, "x", *DECAYS, "--model.freeze", freeze) == 0
    printed = capsys.readouterr()
    assert f"frozen: {said}; " in printed.err and "WARNING" not in printed.err
    assert f"seed 42, from {deep} with model.freeze {freeze}; " in printed.out
    assert_frozen(tmp_path / "x", watched, *starts)
    settings = result_of(tmp_path / "x")["settings"]
    assert settings["freeze"] == (1 if freeze == "1" else freeze)
    pretrained = load_file(deep / "model.safetensors")
    for name, value in watched.before.items():
        if name.startswith(tuple(starts)):
            assert torch.equal(value, pretrained[name])


def test_a_frozen_run_goes_on_to_the_bit_and_not_with_another_part(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = (*DECAYS, "--model.freeze", "1", "--model.gradient_checkpointing", "true")
    assert run_fit(deep, tmp_path, "whole", *options) == 0
    arguments = fit_arguments(deep, tmp_path, "cut", *options)
    with_callback(monkeypatch, FaultAt(interrupt, epoch=1, batch=9))
    assert main(arguments) == 130
    with_callback(monkeypatch, None)
    capsys.readouterr()
    assert main([*arguments, "--model.freeze", "encoder"]) == 2
    assert "model.freeze was 1, is encoder" in capsys.readouterr().err
    assert main(arguments) == 0
    assert_same_story(tmp_path / "cut", tmp_path / "whole")


def test_a_frozen_run_is_scored_and_labels_texts_as_any_other(deep: Path, tmp_path: Path) -> None:
    assert run_fit(deep, tmp_path, "x", "--model.freeze", "encoder") == 0
    assert main(["validate", "--run.root", str(tmp_path), "--run.name", "x"]) == 0
    (record,) = json_lines(tmp_path / "x/evaluations.jsonl")
    expected = result_of(tmp_path / "x")["evaluation"]["validation"]
    assert record["evaluation"]["validation"] == pytest.approx(expected, abs=1e-5)
    rows = write_reviews(tmp_path / "new.csv", num_rows=5, seed=9)
    output = tmp_path / "labels.jsonl"
    options = ["--input", str(rows), "--output", str(output)]
    assert main(["predict", "--model", str(tmp_path / "x"), *options]) == 0
    assert len(json_lines(output)) == 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("3", "model.freeze is 3, but {encoder} has 2 layers; give 0 (nothing), embeddings, 1 to 2 "
              "(they and as many first blocks), or encoder (all but pooler and last layer)"),
        ("-1", "model.freeze is -1; give 0 (nothing), embeddings, 1 to the number of its layers"),
        ("head", "embeddings"),
        ("true", "embeddings"),
        ("1.5", "embeddings"),
    ],
)  # fmt: skip
def test_a_part_that_there_is_not_is_refused(
    deep: Path, tmp_path: Path, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(deep, tmp_path, "x", "--model.freeze", value) == 2
    error = capsys.readouterr().err
    assert message.format(encoder=deep) in error and "Traceback" not in error
    assert not (tmp_path / "x" / "run_config.yaml").exists()


def test_random_weights_that_are_frozen_are_warned_of(
    deep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model.random_init", "true", "--model.freeze", "encoder")
    assert run_fit(deep, tmp_path, "x", *options) == 0
    assert (
        "WARNING: model.freeze is encoder, but the encoder has no trained weights: what is frozen "
        "stays as it was drawn" in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["mixer", "ponet"])
def test_frozen_encoders_of_tags_train_their_heads(
    name: str, tmp_path: Path, tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, options = watch(monkeypatch), ("--model.decoder", "crf", "--model.freeze", "encoder")
    run = run_tag_fit(tmp_path, tokenizer_json, name, *options)
    after = load_file(run / "classifier/model.safetensors")
    assert not any(part.startswith("encoder.") for part in watched.stepped)
    assert {"tagger.weight", "crf.transitions"} <= watched.stepped
    same = {n for n, value in watched.before.items() if torch.equal(after[n], value)}
    assert {n for n in watched.before if n.startswith("encoder.")} <= same
    assert "tagger.weight" not in same


def test_frozen_encoders_label_sentences(tmp_path: Path, tokenizer_json: Path) -> None:
    assert fit_documents(tmp_path, tokenizer_json, "ponet", "--model.freeze", "1") == 0
    assert result_of(tmp_path / "ponet")["settings"]["freeze"] == 1


def test_long_range_arena_has_no_such_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = Path("configs/encoder/lra_ponet.yaml").absolute()
    options = ["--data.task", "listops", "--run.root", str(tmp_path), "--run.name", "x"]
    given = ["lra", "fit", "--model.encoder", str(encoder), *options, "--model.freeze", "encoder"]
    assert main(given) == 2
    assert "freeze" in capsys.readouterr().err


def markdown(folder: Path) -> str:
    return GridReport(found=find_trials([folder])).text("md")


def test_reports_name_what_is_frozen_and_never_merge_two_settings(tmp_path: Path) -> None:
    for number, freeze in enumerate((0, 1, "encoder")):
        for seed in (1, 2):
            result = make_result(score=0.3 + number / 10, seed=seed, freeze=freeze)
            write(tmp_path / f"three/{number}", result)
    text = markdown(tmp_path / "three")
    assert "3 settings" in text and ", encoder frozen" in text
    (entry,) = GridReport(found=find_trials([tmp_path / "three"])).entries
    assert dict(entry.runs[0].setting)["freeze"] == "encoder" and len(entry.runs) == 2
    write(tmp_path / "one", make_result(freeze=1))
    assert "embeddings, 1 block frozen" in markdown(tmp_path / "one")
    write(tmp_path / "none", make_result())
    assert "frozen" not in markdown(tmp_path / "none")


def test_results_of_earlier_versions_had_nothing_frozen(tmp_path: Path) -> None:
    result, path = make_result(), tmp_path / "result.json"
    del result["settings"]["freeze"]
    path.write_text(json.dumps(result))
    assert read_result(path)["settings"]["freeze"] == 0
