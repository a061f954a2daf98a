"""The classifier's folder: what is written comes back, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.artifact import ClassifierInfo, load_classifier, load_pretrained
from finetune.data.targets import ScoreScale
from finetune.tasks.spec import Row
from ponet import PoNetConfig, SequenceClassifier, bundle, save_bundle

ROWS = [Row(1, "0", "good film", "", None), Row(2, "1", "the awful film [SEP] it was", "", None)]
NUM_TOKENS = 19


def info(**changes: object) -> ClassifierInfo:
    values = {
        "task": "own",
        "title": "own files",
        "labels": ("no", "yes"),
        "score_range": None,
        "text": "text",
        "text_pair": "",
        "has_pair": False,
        "max_len": 16,
        "segments": "separators",
        "positions": "tile",
    }
    return ClassifierInfo(**{**values, **changes})  # type: ignore[arg-type]


def classifier(*, num_labels: int = 2, seed: int = 0) -> SequenceClassifier:
    torch.manual_seed(seed)
    sizes = PoNetConfig.preset(
        "nano", vocab_size=NUM_TOKENS, num_layers=1, hidden_size=32, ffn_size=64, max_positions=24
    )
    return SequenceClassifier(sizes, num_labels=num_labels).eval()


def save_classifier(
    folder: Path, model: SequenceClassifier, told: ClassifierInfo, *, tokenizer_json: Path
) -> Path:
    return save_bundle(folder, model, tokenizer_json=tokenizer_json, task=asdict(told))


def edit_config(folder: Path, change: Callable[[dict], dict]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.fixture
def saved(tmp_path: Path, tokenizer_json: Path) -> Path:
    run = tmp_path / "run"
    return save_classifier(run / "classifier", classifier(), info(), tokenizer_json=tokenizer_json)


def test_what_is_saved_gives_the_same_outputs(saved: Path) -> None:
    loaded = load_classifier(saved)
    assert loaded.info == info() and not loaded.model.training
    batch = loaded.encoder.batch(loaded.encoder.encode(ROWS, "rows"))
    with torch.no_grad():
        assert torch.equal(loaded.model(batch), classifier()(batch))
    assert {path.name for path in saved.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert [path.name for path in saved.parent.iterdir()] == ["classifier"]


def test_a_regression_and_a_segment_rule_come_back(tmp_path: Path, tokenizer_json: Path) -> None:
    told = info(labels=(), score_range=(0.0, 5.0), segments="sentences", positions="interpolate",
                scale=ScoreScale(mean=2.5, std=0.5))  # fmt: skip
    model = classifier(num_labels=1)
    folder = save_classifier(tmp_path / "c", model, told, tokenizer_json=tokenizer_json)
    loaded = load_classifier(folder)
    assert loaded.info == told and loaded.encoder.segments == "sentences"
    assert loaded.model.classifier.out_features == 1


def test_the_runs_folder_leads_to_its_classifier(saved: Path) -> None:
    assert load_classifier(saved.parent).info == info()
    with pytest.raises(ValueError, match="holds no classifier"):
        load_classifier(saved.parent.parent)


def test_saving_again_replaces_the_whole_folder(saved: Path, tokenizer_json: Path) -> None:
    (saved / "stale").touch()
    other = classifier(seed=1)
    save_classifier(saved, other, info(labels=("a", "b")), tokenizer_json=tokenizer_json)
    assert load_classifier(saved).info.labels == ("a", "b")
    assert not (saved / "stale").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["classifier"]


def test_a_failed_save_leaves_what_was_there(
    saved: Path, tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(bundle, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_classifier(saved, classifier(seed=1), info(), tokenizer_json=tokenizer_json)
    assert load_classifier(saved).info == info()
    assert [path.name for path in saved.parent.iterdir()] == ["classifier"]


def test_a_longer_length_extends_the_positions(saved: Path) -> None:
    loaded = load_classifier(saved, max_len=60)
    assert loaded.encoder.max_len == 60
    table = loaded.model.encoder.embeddings.position.weight
    assert table.shape[0] == 60 and torch.equal(table[24:48], table[:24])
    stretched = load_classifier(saved, max_len=60, positions="interpolate").model
    assert not torch.equal(stretched.encoder.embeddings.position.weight[24:48], table[:24])
    assert load_classifier(saved, max_len=20).model.encoder.config.max_positions == 24
    with pytest.raises(ValueError, match="max_len is 4"):
        load_classifier(saved, max_len=4)


def test_positions_that_neither_pretraining_nor_the_fit_reached_are_said(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_classifier(saved, max_len=20)  # nothing is known of its pretraining
    assert load_pretrained(saved).trained_positions == 24
    edit_config(saved, lambda c: {**c, "metadata": {"max_len": 12}})
    load_classifier(saved)
    assert load_pretrained(saved).trained_positions == 16  # the fit's own length
    assert "positions" not in capsys.readouterr().err
    load_classifier(saved, max_len=20)
    assert f"max_len is 20, but {saved} was trained on texts of 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {**c, "format_version": 9}, "format_version 9; this version reads 1"),
        (lambda c: {**c, "task": {"labels": ["a", "b"]}}, "the task has the keys labels; needed"),
        (lambda c: {k: v for k, v in c.items() if k != "task"}, "is no classifier"),
    ],
)
def test_a_config_of_another_kind_is_refused(
    saved: Path, change: Callable[[dict], dict], message: str
) -> None:
    edit_config(saved, change)
    with pytest.raises(ValueError, match=message):
        load_classifier(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_classifier(saved)


def test_damaged_missing_or_foreign_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    weights = saved / "model.safetensors"
    assert load_file(weights)
    for content in (weights.read_bytes()[:100], b""):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors"):
            load_classifier(saved)
    weights.unlink()
    with pytest.raises(ValueError, match="model.safetensors"):
        load_classifier(saved)
    shutil.rmtree(saved)
