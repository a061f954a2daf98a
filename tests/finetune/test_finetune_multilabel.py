"""Several labels a text: files, loss, thresholds, scores, predictions."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import BAD, FILLER, GOOD, QUICK, json_lines, result_of

from finetune.artifact import load_classifier
from finetune.baselines.models import several_labels
from finetune.cli import main
from finetune.data.inspection import inspect_task
from finetune.data.targets import row_losses
from finetune.metrics import scores
from finetune.predict import Predictor
from finetune.tasks.own import OwnFiles
from finetune.tasks.registry import load_task
from finetune.tasks.spec import TaskSpec
from ponet.cli import main as ponet_main

SPEC = TaskSpec(
    name="own", title="own", labels=("a", "b", "c"), is_multilabel=True, score=("micro_f1",),
    segments="separators", sizes={},
)  # fmt: skip


def write_rows(path: Path, *, num_rows: int, seed: int) -> Path:
    """Texts that praise, blame, do both or neither; one in ten has the rare word `the`."""
    generator = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        kinds = {"praise": GOOD, "blame": BAD, "rare": ["the"]}
        labels = [k for k in kinds if generator.random() < (0.1 if k == "rare" else 0.5)]
        words = [generator.choice(kinds[k]) for k in labels] + generator.choices(FILLER, k=4)
        generator.shuffle(words)
        rows.append({"text": " ".join(words), "labels": labels})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def options(folder: Path) -> list[str]:
    files = []
    for number, split in enumerate(("train", "validation", "test")):
        path = write_rows(folder / f"{split}.jsonl", num_rows=40 if number else 200, seed=number)
        files.append(f"--data.{split}={path}")
    return [*files, "--data.kind", "multilabel"]


def fit(folder: Path, bundle: Path, *more: str) -> int:
    start = ["--model.encoder", str(bundle), "--run.root", str(folder), "--run.name", "several"]
    return main(["fit", *start, *options(folder), *QUICK, *more])


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("several")
    learns = ("--trainer.max_epochs", "12", "--model.dropout_prob", "0")
    assert fit(folder, bundle, *learns, "--model.thresholds", "per_label") == 0
    return folder / "several"


def test_scores_by_hand():
    outputs = torch.tensor([[2.0, -2.0, 0.0], [2.0, 2.0, -1.0], [-2.0, -2.0, -2.0]])
    targets = torch.tensor([[1.0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    found = scores(SPEC, outputs, targets)
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["micro_precision"] == found["micro_recall"] == pytest.approx(2 / 3)
    assert found["score"] == found["micro_f1"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx(1 / 3)  # a is right, b and c never
    assert (found["f1/a"], found["precision/b"], found["recall/c"]) == (1, 0, 0)
    lower = scores(SPEC, outputs, targets, thresholds=(0.5, 0.9, 0.2))
    assert lower["f1/b"] == 0 and lower["recall/c"] == 1 and lower["exact_match"] == 2 / 3
    nothing = scores(SPEC, -torch.ones(2, 3), torch.zeros(2, 4))
    assert nothing["micro_f1"] == nothing["exact_match"] == 1


def test_a_label_that_training_never_saw_is_counted_and_an_error(tmp_path: Path):
    train = write_rows(tmp_path / "train.jsonl", num_rows=9, seed=1)
    other = tmp_path / "dev.jsonl"
    other.write_text('{"text": "x", "labels": ["praise", "new", "newer"]}\n')
    own = OwnFiles(train=str(train), validation=str(other), kind="multilabel")
    task = load_task("own", own=own)
    split = task.splits["validation"]
    assert list(split.repairs.values()) == [2]
    targets = torch.from_numpy(task.spec.targets_of(split.rows))
    found = scores(task.spec, targets[:, :-1] - 0.5, targets)
    assert found["micro_precision"] == 1 and found["micro_recall"] == pytest.approx(1 / 3)
    assert found["exact_match"] == 0 and found["macro_f1"] == 0.5


def test_the_loss_is_the_mean_of_binary_cross_entropies():
    outputs = torch.tensor([[0.3, -1.0, 2.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    given = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
    p = outputs.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean(1)
    assert torch.allclose(row_losses(outputs, given, is_regression=False), expected)


def load(tmp_path: Path, text: str, name: str = "train.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_task("own", own=OwnFiles(train=str(path), validation=str(path), kind="multilabel"))


def test_a_cell_of_a_table_is_a_list_or_names_between_bars(tmp_path: Path):
    task = load(tmp_path, 'text,labels\nx,late|bad\ny,"[""bad"", 3]"\nz,\nw,late|late\n')
    assert task.spec.labels == ("3", "bad", "late") and task.spec.kind == "multilabel"
    rows = task.splits["train"].rows
    assert [row.target for row in rows] == [(1, 2), (0, 1), (), (2,)]
    assert task.spec.targets_of(rows)[1].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "x", "labels": {"a": 1}}', "a list of labels is needed"),
        ('{"text": "x", "labels": [1.5]}', "a non-empty text or a whole"),
        ('{"text": "x", "labels": "[a"}', "is no JSON list"),
        ('{"text": "x", "label": ["a"]}', "no column 'labels'"),
        ('{"text": "x", "labels": []}', "all rows have no label"),
    ],
)
def test_damaged_labels_are_named_with_their_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, text + "\n", "train.jsonl")
    assert "all rows" in message or "line 1" in str(caught.value)


def test_validation_rows_are_carved_where_texts_have_several_labels(tmp_path: Path):
    path = write_rows(tmp_path / "rows.jsonl", num_rows=60, seed=1)
    own = OwnFiles(train=str(path), kind="multilabel", validation_fraction=0.25)
    task = load_task("own", own=own)
    assert 8 <= len(task.splits["validation"].rows) <= 22


def test_several_labels_are_learned_and_thresholds_are_kept(
    several: Path, capsys: pytest.CaptureFixture[str]
):
    result = result_of(several)
    assert result["kind"] == "multilabel" and result["settings"]["thresholds"] == "per_label"
    found = result["evaluation"]["test"]
    assert found["micro_f1"] > 0.7 > result["majority"]["test"]["micro_f1"]
    both = result["data"]["best_constant"]["test"]["micro_f1"]
    assert 0.7 > both > result["majority"]["test"]["micro_f1"]
    assert sorted(result["data"]["best_constant_answer"].split(" and ")) == ["'blame'", "'praise'"]
    assert {"f1/praise", "f1/blame", "f1/rare", "exact_match", "macro_f1"} <= set(found)
    info = load_classifier(several).info
    assert info.is_multilabel and len(info.thresholds) == 3
    assert main(["test", "--run.root", str(several.parent), "--run.name", "several"]) == 0
    assert f"always {result['data']['best_constant_answer']}" in capsys.readouterr().out
    (record,) = json_lines(several / "evaluations.jsonl")
    assert record["evaluation"]["test"] == pytest.approx(found, abs=1e-6)


def test_a_prediction_has_the_labels_above_their_thresholds(several: Path, tmp_path: Path):
    rows, output = several.parent / "test.jsonl", tmp_path / "out.jsonl"
    command = ["predict", "--model", str(several), "--input", str(rows), "--output"]
    assert main([*command, str(output)]) == 0
    answers, info = json_lines(output), load_classifier(several).info
    for answer in answers:
        levels = dict(zip(info.labels, info.thresholds, strict=True))
        above = [name for name, p in answer["probabilities"].items() if p > levels[name]]
        assert answer["labels"] == above
    gold = [sorted(row["labels"]) for row in json_lines(rows)]
    exact = sum(a["labels"] == g for a, g in zip(answers, gold, strict=True)) / len(gold)
    assert exact == pytest.approx(result_of(several)["evaluation"]["test"]["exact_match"])
    assert main([*command, str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [json.loads(row["labels"]) for row in table] == [a["labels"] for a in answers]
    assert Predictor(load_classifier(several))(["it was a film"])[0]["labels"] == []


def test_a_model_of_several_labels_is_not_scored_as_one_of_classes(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\nx,praise\ny,blame\n")
    run = ["--run.root", str(several.parent), "--run.name", "several"]
    assert main(["test", *run, "--data.kind", "classification", f"--data.test={rows}"]) == 2
    assert "give --data.kind as in training" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_hint_at_a_label_that_looks_like_several_fits_the_kind(tmp_path: Path, kind):
    path = tmp_path / "rows.csv"
    path.write_text('text,labels\nx,a\ny,"a, b"\n')
    files = {"train": str(path), "validation": str(path), "label": "labels"}
    (hint,) = inspect_task(load_task("own", own=OwnFiles(**files, kind=kind)), {}, max_len=0)[
        "hints"
    ]
    assert "'a, b' looks like several" in hint
    assert ("parted by |" in hint) == (kind == "multilabel")


def test_transformers_gets_it_as_several_labels(several: Path, tmp_path: Path):
    pytest.importorskip("transformers")
    command = ["export", str(several), "--format", "huggingface", "--output"]
    assert ponet_main([*command, str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_a_linear_model_says_what_is_free(tmp_path: Path):
    pytest.importorskip("sklearn")
    run = ["--run.root", str(tmp_path), "--run.name", "free"]
    assert main(["baseline", *options(tmp_path), *run]) == 0
    result = result_of(tmp_path / "free")
    assert result["evaluation"]["test"]["micro_f1"] > 0.9
    assert result["encoder"]["name"] == "TF-IDF + linear"


def test_a_label_that_no_or_every_training_text_has_moves_no_threshold(recwarn):
    pytest.importorskip("sklearn")
    train, texts = [("good film", ""), ("bad film", "")] * 4, [("good film", ""), ("film", "")]
    holds = np.tile(np.array([[1, 0, 1], [0, 0, 1]], np.float32), (4, 1))
    (good, never, always), (_, *constant) = several_labels(
        train, holds, texts, letters=False
    ).values
    assert good > 0 and never < -5 and always > 5 and constant == [never, always]
    assert not recwarn.list


def test_options_without_use_are_refused(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
):
    for more, message in (
        (["--model.class_weights", "balanced"], "several labels a text"),
        (["--data.positive_label", "praise"], "data.kind is multilabel, which has no use"),
        (["--data.score", "accuracy"], "allowed are exact_match"),
    ):
        assert fit(tmp_path, bundle, *more) == 2
        assert message in capsys.readouterr().err
