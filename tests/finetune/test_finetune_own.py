"""A user's own files as a task: what is carved, chosen, standardised, and refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.data.targets import ScoreScale, balanced_weights, score_scale
from finetune.tasks.own import OwnFiles
from finetune.tasks.registry import load_task
from finetune.tasks.rows import EMPTY_ROWS, JOINED
from finetune.tasks.spec import LoadedTask, Wanted
from ponet import FNetConfig, SequenceClassifier

SIZES = FNetConfig(vocab_size=8, hidden_size=4, num_layers=1)


def write(path: Path, labels: Sequence[Any], *, start: int = 0) -> str:
    rows = [f"text {start + number},{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *rows, ""]))
    return str(path)


def load(folder: Path, labels: Sequence[Any], **options: Any) -> LoadedTask:
    train = write(folder / "train.csv", labels)
    validation = "" if "validation_fraction" in options else write(folder / "dev.csv", labels)
    return load_task("own", own=OwnFiles(train=train, validation=validation, **options))


def test_validation_rows_are_carved_by_label_and_are_the_same_every_time(tmp_path: Path) -> None:
    labels = ["a"] * 80 + ["b"] * 20
    task = load(tmp_path, labels, validation_fraction=0.1)
    validation, train = task.splits["validation"].rows, task.splits["train"].rows
    assert [sum(row.target == k for row in validation) for k in (0, 1)] == [8, 2]
    assert len(train) == 90 and not {row.text for row in train} & {row.text for row in validation}
    files = OwnFiles(train=str(tmp_path / "train.csv"), validation_fraction=0.1)
    again = load_task("own", own=files, wanted=Wanted(labels=("a", "b")), stage="validate")
    assert list(again.splits) == ["validation"]
    assert again.splits["validation"].rows == validation


def test_scores_are_carved_although_each_occurs_once(tmp_path: Path) -> None:
    task = load(tmp_path, range(50), kind="regression", validation_fraction=0.2)
    assert len(task.splits["validation"].rows) == 10 and len(task.splits["train"].rows) == 40


def test_a_metric_and_a_label_of_f1_are_chosen(tmp_path: Path) -> None:
    labels = ["fraud", "ok", "ok"]
    spec = load(tmp_path, labels, score="f1", positive_label="fraud").spec
    assert (spec.score, spec.f1_label, spec.f1_class) == (("f1",), "fraud", 0)
    assert load(tmp_path, labels).spec.f1_label == "ok"
    assert load(tmp_path, [1, 2], kind="regression", score="r2").spec.score == ("r2",)


def test_rows_that_a_spreadsheet_left_empty_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,,\na,x,,\nb,y,,\n,,,\n,,,\n")
    path = str(tmp_path / "t.csv")
    split = load_task("own", own=OwnFiles(train=path, validation=path)).splits["train"]
    assert [row.text for row in split.rows] == ["a", "b"] and split.repairs == {EMPTY_ROWS: 2}
    (tmp_path / "e.csv").write_text("text,label\n,\n")
    with pytest.raises(ValueError, match=r"e\.csv: has no rows"):
        load_task("own", own=OwnFiles(train=str(tmp_path / "e.csv"), validation=path))


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("ab", {"positive_label": "c"}, "positive_label is 'c'; it must be one of two labels"),
        ("abc", {"positive_label": "a"}, "there are 'a', 'b', 'c'"),
        ((1, 2), {"kind": "regression", "positive_label": "1"}, "there are scores"),
        ("ab", {"validation_fraction": 1.0}, r"must be in \[0, 1\)"),
        ("ab", {"validation_fraction": 0.1}, "leaves 0 of the 2 rows"),
        ("ab", {"validation_fraction": 0.5, "validation": "x"}, "both given"),
        (("3,5", "1"), {"kind": "regression"}, "has 3 columns, parted by commas"),
        (
            ('"3,5"', "1"),
            {"kind": "regression"},
            "score '3,5' is no finite number; write one, with",
        ),
        (("$3", "1"), {"kind": "regression"}, "without thousands marks or units"),
        (("nan", "1"), {"kind": "regression"}, "score 'nan' is no finite number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, labels: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        if "validation" in options:
            load_task("own", own=OwnFiles(train=write(tmp_path / "t.csv", labels), **options))
        load(tmp_path, labels, **options)


def test_a_missing_validation_file_names_the_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="carve it with --data.validation_fraction"):
        load_task("own", own=OwnFiles(train=write(tmp_path / "t.csv", "ab")))


def test_scores_are_standardised_by_the_training_rows(tmp_path: Path) -> None:
    values = [250_000 + 10_000 * k for k in (1, 4, 4, 7)]
    task = load(tmp_path, values, kind="regression")
    scale = score_scale(task.spec, task.splits["train"])
    assert scale.mean == np.mean(values) and scale.std == pytest.approx(np.std(values))
    inner = scale.inner(torch.tensor(values))
    assert float(inner.mean()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(scale.outer(inner), torch.tensor(values).float())
    task = load(tmp_path, [3, 3, 3], kind="regression")
    with pytest.raises(ValueError, match=r"train\.csv: all rows have the score 3; a regression"):
        score_scale(task.spec, task.splits["train"])
    classes = load(tmp_path, "ab")
    assert score_scale(classes.spec, classes.splits["train"]) == ScoreScale()


def test_balanced_weights_by_hand() -> None:
    assert balanced_weights({"a": 1, "b": 3}) == [2.0, 2 / 3]
    for counts, message in (({}, "here are none"), ({"a": 3, "b": 0}, "none has the label b")):
        with pytest.raises(ValueError, match=message):
            balanced_weights(counts)


def test_a_model_gives_the_same_scores_on_another_scale() -> None:
    old, new = ScoreScale(mean=3.0, std=0.5), ScoreScale(mean=250.0, std=40.0)
    model, x_BD = SequenceClassifier(SIZES, num_labels=1), torch.randn(3, SIZES.hidden_size)
    with torch.no_grad():
        wanted = old.outer(model.classifier(x_BD))
        new.take_over(model, old)
        found = new.outer(model.classifier(x_BD))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


def test_a_list_of_strings_is_its_paragraphs_and_a_dotted_name_a_field_inside(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        {"meta": {"text": ["a", " ", "b"], "label": "x"}},
        {"meta": {"text": "c", "label": "y"}},
        {"meta.text": "d", "meta": {"label": "y"}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = OwnFiles(train=str(path), validation=str(path), text="meta.text", label="meta.label")
    split = load_task("own", own=files).splits["train"]
    assert [(row.text, row.target) for row in split.rows] == [("a\n\nb", 0), ("c", 1), ("d", 1)]
    assert split.repairs == {JOINED: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["a", 1], r"line 2: 'meta.text' is \[\"a\", 1\]; a text is needed"),
        ([" "], "line 2: 'meta.text' is empty"),
        ([], r"line 2: 'meta.text' is \[\]; a text is needed"),
        (None, "line 2: 'meta.text' is null; a text is needed"),
    ],
)
def test_a_field_that_is_no_text_is_named(tmp_path: Path, text: Any, message: str) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"meta": {"text": value}, "label": len(value or "")} for value in ("some", text)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        load_task("own", own=OwnFiles(train=str(path), validation=str(path), text="meta.text"))
    path.write_text('{"meta": null, "label": 1}\n{"meta": {}, "label": 2}\n')
    with pytest.raises(ValueError, match="line 1: no column 'meta.text'; it has 'meta', 'label'"):
        load_task("own", own=OwnFiles(train=str(path), validation=str(path), text="meta.text"))
