"""What is counted before training: balance, lengths, overlap, the majority guess."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from finetune.data.encoding import TextEncoder
from finetune.data.inspection import (
    LENGTH_EDGES,
    contradictions,
    inspect_task,
    label_hints,
    overlaps,
    unlike_published,
)
from finetune.data.overview import overview_lines
from finetune.tasks.registry import OwnFiles, load_task
from finetune.tasks.spec import LoadedTask, Row, SplitRows, TaskSpec

NFD = unicodedata.normalize("NFD", "schön")


def spec(**changes: object) -> TaskSpec:
    values = {
        "name": "films",
        "title": "Films",
        "labels": ("bad", "good"),
        "score": ("accuracy",),
        "segments": "separators",
        "sizes": {},
    }
    return TaskSpec(**{**values, **changes})


def split(*examples: tuple[str, float | None] | tuple[str, str, float | None]) -> SplitRows:
    rows = []
    for number, (text, *pair, target) in enumerate(examples):
        rows.append(Row(number + 1, str(number), text, pair[0] if pair else "", target))
    return SplitRows(source="films.csv", rows=tuple(rows))


def films(**changes: object) -> LoadedTask:
    splits = {
        "train": split(("Good  film", 1), ("good film", 1), ("it was great", 1), ("poor", 0)),
        "validation": split(("bad", 0), ("GOOD\nfilm", 1), ("a film", 0)),
        "test": split(("Bad", 0), ("it was  great", 1)),
    }
    return LoadedTask(spec=spec(**changes), splits=splits)


@pytest.mark.parametrize(
    ("first", "second", "are_equal"),
    [
        (("A  film\n", ""), ("a film", ""), True),
        (("Straße", ""), ("STRASSE", ""), True),
        (("a film", "bad"), ("a film bad", ""), False),
        (("a film", "bad"), ("a", "film bad"), False),
        (("a film", "Bad "), (" a film", "bad"), True),
    ],
)
def test_only_case_and_white_space_are_ignored(first, second, are_equal) -> None:
    keys = [Row(1, "", *texts, None).key for texts in (first, second)]
    assert (keys[0] == keys[1]) is are_equal


def test_rows_that_stand_in_two_splits_are_counted() -> None:
    assert overlaps(films().splits) == {
        "validation in train": 1,
        "test in train": 1,
        "test in validation": 1,
        "duplicates in train": 1,
    }


def test_every_evaluated_split_is_compared(tokenizer_json) -> None:
    names = ("train", "validation", "validation_mismatched", "test", "test_mismatched")
    found = overlaps({name: split((f"a {name}", 0)) for name in names})
    assert not any(found.values())
    assert set(found) == {
        "validation in train",
        "validation_mismatched in train",
        "test in train",
        "test_mismatched in train",
        "test in validation",
        "test in validation_mismatched",
        "test_mismatched in validation",
        "test_mismatched in validation_mismatched",
        "duplicates in train",
    }


def test_the_released_hyperpartisan_split_leaks_58_of_65_test_rows(shared_dir) -> None:
    folder = shared_dir / "data" / "hyperpartisan"
    splits = {}
    for name, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
        lines = (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[name] = split(*[(json.loads(line)["text"], 0) for line in lines])
    found = overlaps(splits)
    assert (found["test in train"], found["test in validation"]) == (51, 7)
    loaded = LoadedTask(spec=spec(), splits=splits)
    lines = overview_lines(inspect_task(loaded, {}, max_len=512))
    (line,) = [line for line in lines if line.startswith("OVERLAP")]
    assert "51 of 65 test in train (78.5%), 7 of 65 test in validation (10.8%)" in line


def test_overlaps_of_a_subset_are_those_of_all_rows() -> None:
    whole = {
        "train": split(("a film", 1), ("fine", 1), ("poor", 0)),
        "validation": split(("A  film", 1), ("POOR", 0)),
    }
    used = {"train": split(("fine", 1), ("bad", 0)), "validation": split(("A  film", 1))}
    found = inspect_task(LoadedTask(spec=spec(), splits=used), {}, max_len=8, whole=whole)
    assert found["overlaps"] == {"validation in train": 2, "duplicates in train": 0}
    assert any("2 of 2 validation in train" in line for line in overview_lines(found))


def test_texts_with_unlike_labels_in_train_are_named_by_their_lines() -> None:
    alike = split(("fine", 1), ("poor", 0), ("Fine ", 1))
    assert contradictions(spec(), alike) == []
    unlike = split(("fine", 1), ("poor", 0), ("FINE", 0))
    (said,) = contradictions(spec(), unlike)
    assert said.startswith(
        "a text stands in train with unlike labels, for instance in lines 1 and 3:"
    )
    found = inspect_task(LoadedTask(spec=spec(), splits={"train": unlike}), {}, max_len=8)
    assert said in found["hints"]
    scores = replace(spec(), labels=())
    assert contradictions(scores, unlike) == []


def test_a_split_that_is_shorter_than_the_distribution_is_named() -> None:
    published = replace(spec(), sizes={"train": 8551, "validation": 1043})
    assert unlike_published(published, {"train": 8551, "validation": 1043}) == []
    found = unlike_published(published, {"train": 8000, "validation": 1043})
    assert found == ["train has 8,000 rows, the distribution 8,551"]
    carved = replace(published, carve_validation=0.1, sizes={"train": 100, "test": 50})
    assert unlike_published(carved, {"train": 90, "validation": 10, "test": 50}) == []
    assert len(unlike_published(carved, {"train": 80, "validation": 10, "test": 40})) == 2
    assert unlike_published(replace(published, num_folds=5), {"train": 3}) == []


def test_balance_lengths_and_truncation_are_counted(tokenizer_json) -> None:
    loaded = films(segments="sentences")
    encoder = TextEncoder(tokenizer_json, max_len=5, segments="sentences")
    long = split(("it was. " * 10, 1), ("bad", 0), ("a film", 0))
    long = replace(long, repairs={"rows mended": 2})
    loaded = LoadedTask(spec=loaded.spec, splits={**loaded.splits, "validation": long})
    encoded = {"validation": encoder.encode_packed(long.rows, long.source)}
    found = inspect_task(
        loaded,
        encoded,
        max_len=5,
        whole={"validation": split(*[("bad", 0)] * 9)},
    )
    validation = found["splits"]["validation"]
    assert (validation["num_rows"], validation["num_rows_whole"]) == (3, 9)
    assert validation["labels"] == {"bad": 2, "good": 1}
    assert validation["repairs"] == {"rows mended": 2}
    assert validation["lengths"]["longest"] == 32
    assert validation["lengths"]["median"] == 4
    assert validation["lengths"]["share_truncated"] == pytest.approx(1 / 3)
    assert validation["lengths"]["segments_median"] == 1
    assert len(validation["lengths"]["histogram"]) == len(LENGTH_EDGES)
    assert validation["lengths"]["histogram"][:4] == [2, 0, 1, 0]
    assert found["splits"]["train"]["lengths"] is None
    text = "\n".join(overview_lines(found))
    assert "3 of 9 rows; bad 66.7%, good 33.3%" in text
    assert "33.3% truncated" in text
    assert "2 x rows mended" in text


def test_the_majority_guess_is_scored_on_every_labelled_split() -> None:
    found = inspect_task(films(), {}, max_len=24)
    assert found["majority_answer"] == "'good'"
    assert found["majority"]["validation"]["accuracy"] == pytest.approx(1 / 3)
    assert found["majority"]["test"]["accuracy"] == 0.5
    assert found["majority"]["validation"]["score"] == pytest.approx(1 / 3)


def test_where_the_majority_label_has_no_f1_the_best_constant_label_is_scored_too() -> None:
    splits = {
        "train": split(("a", 0), ("b", 0), ("c", 1)),
        "validation": split(("d", 0), ("e", 1)),
    }
    found = inspect_task(LoadedTask(spec=spec(score=("f1",)), splits=splits), {}, max_len=24)
    assert found["majority_answer"] == "'bad'"
    assert found["majority"]["validation"]["score"] == 0.0
    assert found["best_constant_answer"] == "'good'"
    assert found["best_constant"]["validation"]["score"] == pytest.approx(2 / 3)
    by_accuracy = inspect_task(LoadedTask(spec=spec(), splits=splits), {}, max_len=24)
    assert by_accuracy["best_constant"] == {}


def test_a_regression_guesses_the_mean_and_shows_the_scores() -> None:
    splits = {
        "train": split(("a", "b", 1.0), ("c", "d", 4.0)),
        "validation": split(("a", "d", 2.5), ("b", "c", 4.5)),
        "test": split(("a", "d", None)),
    }
    regression = spec(labels=(), score=("pearson", "spearman"), score_range=(0.0, 5.0))
    found = inspect_task(LoadedTask(spec=regression, splits=splits), {}, max_len=24)
    assert found["splits"]["train"]["target_mean"] == 2.5
    assert found["splits"]["train"]["target_std"] == 1.5
    assert found["majority"]["validation"]["mse"] == pytest.approx(2.0)
    assert found["majority"]["validation"]["score"] == 0.0
    assert set(found["majority"]) == {"validation"}
    assert found["majority_answer"] == "2.500"
    text = "\n".join(overview_lines(found))
    assert "score 2.500 ± 1.500" in text
    assert "test        1 row; unlabelled texts" in text
    assert "OVERLAP     1 of 1 test in validation" in text


@pytest.mark.parametrize(
    ("label", "end"), [("", ""), (', "label": "alarm"', "; alarm 100.0%")], ids=["tags", "both"]
)
def test_of_tagged_texts_words_and_tags_are_counted(tmp_path, label: str, end: str) -> None:
    row = f'{{"words": ["wake", "me", "now"], "tags": ["O", "O", "B-time"]{label}}}\n'
    path = tmp_path / "train.jsonl"
    path.write_text(row * 2, encoding="utf-8")
    own = OwnFiles(train=str(path), validation=str(path), kind="tags")
    found = inspect_task(load_task("own", own=own), {}, max_len=24)
    expected = f"train       2 rows; 6 words, 33.3% with a tag other than O{end}"
    assert expected in overview_lines(found)


def test_without_overlap_it_says_so_and_a_warning_is_shown() -> None:
    loaded = LoadedTask(
        spec=spec(warning="leaky"), splits={"train": split(("a", 1)), "validation": split(("b", 0))}
    )
    lines = overview_lines(inspect_task(loaded, {}, max_len=24))
    assert "overlap     none between splits" in lines
    assert "warning     leaky" in lines


def test_the_result_is_plain_json(tokenizer_json) -> None:
    loaded = films()
    encoder = TextEncoder(tokenizer_json, max_len=24)
    encoded = {
        name: encoder.encode_packed(rows.rows, "films.csv") for name, rows in loaded.splits.items()
    }
    found = inspect_task(loaded, encoded, max_len=24)
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert found["overlaps"]["test in train"] == 1
    assert np.sum(found["splits"]["train"]["lengths"]["histogram"]) == 4
    assert found["length_edges"][0] == 0


@pytest.mark.parametrize(
    ("counts", "changes", "is_told"),
    [
        ((19, 1), {}, True),
        ((80, 80, 2), {"labels": ("a", "b", "c")}, True),
        ((8, 2), {}, False),
        ((19, 1), {"score": ("macro_f1",)}, False),
        ((19, 1), {"sizes": {"train": 20}}, False),
    ],
)
def test_a_rare_class_is_told_where_accuracy_chooses(counts, changes, is_told) -> None:
    task = spec(**changes)
    rows = [(f"text {k}", k) for k, count in enumerate(counts) for _ in range(count)]
    found = inspect_task(LoadedTask(spec=task, splits={"train": split(*rows)}), {}, max_len=24)
    assert [repr(task.labels[-1]) in hint for hint in found["hints"]] == [True] * is_told
    assert any(line.startswith("hint ") for line in overview_lines(found)) == is_told


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (("BAD", "Bad", "bad", "good"), ["'BAD', 'Bad', 'bad' differ in case"]),
        (("schön", NFD, "gut"), ["look the same (Unicode forms); they count as 2 classes"]),
        (("1", "1.0", "2"), ["'1', '1.0' are the same number"]),
        (("01", "1"), ["'01', '1' are the same number"]),
        (("bad", "good", "nan"), ["'nan' is what programs write for a missing value"]),
        (("N/A", "good"), ["'N/A' is what"]),
        (("bad", "bad,late", "late"), ["'bad,late' looks like several"]),
        (("bad", "bad | late"), ["'bad | late' looks like several"]),
        (("bad", "good"), []),
        (("0", "1"), []),
        (("Paris, France", "Rome, Italy"), []),
        ((), []),
    ],
)
def test_odd_labels_are_told(labels: tuple[str, ...], wanted: list[str]) -> None:
    hints = label_hints(labels)
    assert len(hints) == len(wanted)
    assert all(text in hint for text, hint in zip(wanted, hints, strict=True))
