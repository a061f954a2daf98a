"""Cross-validation of own files: how every kind is cut, and what a run of a fold keeps to."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetune_runs import json_lines, result_of, run_fit, write_reviews
from finetune_sentences import write_documents
from finetune_taggers import write_tagged

from finetune.cli import main
from finetune.data.inspection import inspect_task
from finetune.grid import Grid, plan
from finetune.tasks.own import OwnFiles
from finetune.tasks.registry import load_task
from finetune.tasks.selection import Selection
from finetune.tasks.spec import SplitRows, Wanted
from training.reports.finetuning import GridReport
from training.reports.trials import find_trials

SPLITS = {"train", "validation", "test"}


def write(path: Path, rows: list[tuple[str, Any]], label: str = "label") -> str:
    lines = [json.dumps({"text": text, label: value}) for text, value in rows]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return str(path)


def all_folds(num_folds: int = 3, **files: Any) -> list[Mapping[str, SplitRows]]:
    own = OwnFiles(num_folds=num_folds, **files)
    return [load_task("own", own=own, fold=fold).splits for fold in range(num_folds)]


def some_files(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / "own.jsonl"
    if kind == "tags":
        write_tagged(path, num_rows=40, seed=1)
    elif kind == "sentences":
        write_documents(path, num_rows=40, seed=1)
    elif kind == "multilabel":
        write(path, [(f"text {n}", ["ab"[n % 2], "c"][: n % 3]) for n in range(40)], "labels")
    else:
        write(path, [(f"text {n}", n % 3) for n in range(40)])
    return {"train": str(path), "kind": kind}


KINDS = {
    "classification": Wanted(labels=("0", "1", "2")),
    "regression": Wanted(labels=()),
    "multilabel": Wanted(labels=("a", "b", "c")),
    "tags": Wanted(labels=(), tags=("O", "B-praise")),
    "sentences": Wanted(tags=("blame", "praise")),
}
"""What a model of each kind answers."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_every_kind_is_tested_once_and_no_text_is_in_two_splits(
    tmp_path: Path, kind: str
) -> None:
    files = some_files(tmp_path, kind)
    folds = all_folds(**files)
    tested = Counter(row.line for splits in folds for row in splits["test"].rows)
    assert tested == Counter(range(1, 41))
    for number, splits in enumerate(folds):
        assert set(splits) == SPLITS
        texts = {name: {row.key for row in split.rows} for name, split in splits.items()}
        assert not texts["train"] & (texts["validation"] | texts["test"])
        assert not texts["validation"] & texts["test"]
        following = folds[(number + 1) % 3]["test"].rows
        assert [r.line for r in splits["validation"].rows] == [r.line for r in following]
    own = OwnFiles(num_folds=3, **files)
    again = load_task("own", own=own, wanted=KINDS[kind], fold=1, stage="test")
    assert list(again.splits) == ["test"]
    assert [r.line for r in again.splits["test"].rows] == [r.line for r in folds[1]["test"].rows]


def test_classes_have_equal_shares_and_tagged_texts_those_of_their_label(tmp_path: Path) -> None:
    rows = [(f"text {n}", "rare" if n < 6 else "often") for n in range(30)]
    for splits in all_folds(train=write(tmp_path / "c.jsonl", rows)):
        assert Counter(row.target for row in splits["test"].rows) == {1: 2, 0: 8}
    (tmp_path / "t").mkdir()
    words = [{"words": [f"w{n}"], "tags": ["O"], "label": "ab"[n < 6]} for n in range(30)]
    path = tmp_path / "t" / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in words))
    for splits in all_folds(train=str(path), kind="tags"):
        labels = Counter(row.tagged.label for row in splits["test"].rows if row.tagged)
        assert labels == {"b": 2, "a": 8}


def test_rows_that_stand_twice_all_stay_and_share_a_fold(tmp_path: Path) -> None:
    rows = [(f"text {n // 2}", "ab"[n % 4 == 0]) for n in range(60)]  # some with two labels
    train = write(tmp_path / "own.jsonl", rows)
    folds = all_folds(train=train)
    assert all(sum(len(split.rows) for split in splits.values()) == 60 for splits in folds)
    task = load_task("own", own=OwnFiles(train=train, num_folds=3))
    found = inspect_task(task, {}, max_len=0)
    assert {count for name, count in found["overlaps"].items() if " in train" in name} == {0, 10}
    assert found["overlaps"]["test in train"] == found["overlaps"]["validation in train"] == 0
    assert any("stand in train with unlike labels" in hint for hint in found["hints"])


def test_labels_with_fewer_texts_than_folds_are_counted(tmp_path: Path) -> None:
    rows = [(f"text {n}", "a") for n in range(20)] + [
        ("x", "b"),
        ("y", "b"),
        ("Y", "b"),
        ("z", "c"),
    ]
    train = write(tmp_path / "own.jsonl", rows)
    task = load_task("own", own=OwnFiles(train=train, num_folds=3), fold=1)
    hints = inspect_task(task, {}, max_len=0)["hints"]
    assert any(
        "2 labels with fewer texts than the 3 folds: 'b' (2), 'c' (1), so" in h for h in hints
    )
    whole = load_task("own", own=OwnFiles(train=train, validation=train))
    assert not any("folds" in hint for hint in inspect_task(whole, {}, max_len=0)["hints"])
    alone = write(tmp_path / "two.jsonl", [*rows[:20], ("x", "b")])
    said = r"two\.jsonl: all training rows of fold \d, repeat 0 have the label 'a'"
    with pytest.raises(ValueError, match=said):
        all_folds(train=alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_folds": 1}, "data.num_folds is 1; give 3 or more"),
        ({"num_folds": 2}, "data.num_folds is 2; give 3 or more"),
        ({"num_folds": -3}, "data.num_folds is -3; give 3 or more"),
        ({"num_folds": 3, "fold": 3}, "fold 3, repeat 0: own has the folds 0 to 2"),
        ({"num_folds": 31}, r"own\.jsonl: has 30 different texts, too few for 31 folds"),
        ({"num_folds": 3, "test": "t.csv"}, "leave out data.test .what else is to be cut belongs"),
        ({"num_folds": 3, "validation": "v.csv"}, "cuts data.train .* leave out data.validation"),
        ({"num_folds": 3, "validation_fraction": 0.1}, "leave out data.validation_fraction"),
        ({}, "name it with --data.validation, .* or cut all rows into folds with"),
        ({"fold": 1}, "no use for data.fold; .* have folds with data.num_folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    train = write(tmp_path / "own.jsonl", [(f"text {n}", "ab"[n % 2]) for n in range(30)])
    with pytest.raises(ValueError, match=message):
        selection = Selection(train=train, **options)
        selection.check_selection()
        selection.load_rows("fit")


def test_a_run_of_a_fold_is_scored_on_that_fold_alone(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_reviews(tmp_path / "own.csv", num_rows=60, seed=1)
    given = ["--data.train", str(path), "--data.validation=", "--data.num_folds", "3"]
    more = ["--data.fold", "1", "--data.repeat", "2", "--trainer.max_epochs", "1"]
    assert run_fit(bundle, tmp_path, "one", *given, *more) == 0
    assert "one run, seed 42, fold 1 of 3, repeat 2, from" in capsys.readouterr().out
    result = result_of(tmp_path / "one")
    assert result["task_facts"]["num_folds"] == 3
    assert (result["settings"]["fold"], result["settings"]["repeat"]) == (1, 2)
    stored = yaml.safe_load((tmp_path / "one" / "run_config.yaml").read_text())["data"]
    assert [stored[name] for name in ("num_folds", "fold", "repeat")] == [3, 1, 2]

    start = ["--run.root", str(tmp_path), "--run.name", "one"]
    moved = tmp_path / "moved.csv"
    moved.write_bytes(path.read_bytes())
    assert main(["test", *start, "--data.train", str(moved)]) == 0
    (record,) = json_lines(tmp_path / "one" / "evaluations.jsonl")
    assert record["evaluation"]["test"] == pytest.approx(result["evaluation"]["test"])

    moved.write_text(path.read_text() + "a new good film,x,yes,no,1.5\n")
    for options, message in (
        (["--data.num_folds", "4"], "data.num_folds is 4, but .* was trained with 3"),
        (["--data.num_folds", "0", "--data.fold", "0"], "data.num_folds is 0, but"),
        (["--data.repeat", "0"], "data.repeat is 0, but .* rows that it was trained on would"),
        (["--data.text", "text2"], "data.text is text2, but .* was trained with text"),
        (["--data.train", str(moved)], r"moved\.csv does not hold what .*one was trained on"),
        (["--data.test", str(moved)], "leave out data.test"),
    ):
        capsys.readouterr()
        assert main(["test", *start, *options]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_a_grid_trains_the_kth_fold_with_the_kth_seed_and_a_baseline_on_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    values: dict[str, Any] = {"tasks": ("own",), "encoders": (f"random:{encoder}",), "lrs": (1e-3,)}
    fit = {"data": {"train": "own.csv", "num_folds": 3, "max_len": 16}}
    two = Grid(**values, fit=fit, seeds=(7, 8), output=tmp_path)
    assert [(t.parameters["seed"], t.parameters["fold"]) for t in plan(two)] == [(7, 0), (8, 1)]
    assert "note: own has 3 folds but is given 2 seeds, the k-th" in capsys.readouterr().out
    fit["data"] |= {"num_folds": 2}
    with pytest.raises(ValueError, match="data.num_folds is 2; give 3 or more"):
        plan(two)


def test_baselines_on_folds_are_one_row_of_a_report_and_other_folds_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_reviews(tmp_path / "own.csv", num_rows=60, seed=1)
    start = ["baseline", "--data.train", str(path), "--run.root", str(tmp_path / "runs")]
    for num_folds, fold in ((3, 0), (3, 1), (3, 2), (4, 0)):
        cut = ["--data.num_folds", str(num_folds), "--data.fold", str(fold)]
        assert main([*start, *cut, "--run.name", f"of{num_folds}/{fold}"]) == 0
    report = GridReport(found=find_trials([tmp_path / "runs" / "of3"]))
    (entry,) = report.entries
    found = [result_of(tmp_path / "runs" / "of3" / str(k))["evaluation"]["test"] for k in range(3)]
    assert list(entry.by_seed.values()) == [one["accuracy"] for one in found]
    assert entry.estimate.n == 3 and entry.estimate.high is not None
    assert "own (3 folds): the scores are of the folds" in report.text("md")
    with pytest.raises(ValueError, match="but with 3 and 4 folds: report their folders separately"):
        find_trials([tmp_path / "runs"])


def test_a_baseline_from_before_there_were_folds_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_reviews(tmp_path / "own.csv", num_rows=60, seed=1))
    start = ["baseline", "--data.train", path, "--run.root", str(tmp_path / "runs")]
    plain = [*start, "--data.validation", path, "--run.name", "plain"]
    assert main(plain) == 0
    config = tmp_path / "runs" / "plain" / "run_config.yaml"
    stored = yaml.safe_load(config.read_text())
    del stored["data"]["num_folds"]  # as an earlier version wrote it
    config.write_text(yaml.safe_dump(stored))
    assert main(plain) == 0
    assert "is complete" in capsys.readouterr().err
