"""Carved splits and folds: pure functions of the texts."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tasks.folds import (
    DUPLICATES,
    carve,
    fold_splits,
    stratified_folds,
    stratified_parts,
    stratified_subset,
    without_duplicates,
)
from finetune.tasks.spec import Row, SplitRows


def make(labels: list[int], *, texts: list[str] | None = None) -> SplitRows:
    texts = texts or [f"text {number}" for number in range(len(labels))]
    rows = (
        Row(number + 1, str(number), text, "", float(label))
        for number, (text, label) in enumerate(zip(texts, labels, strict=True))
    )
    return SplitRows(source="rows.jsonl", rows=tuple(rows))


@given(st.lists(st.integers(0, 2), min_size=5, max_size=60), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_folds_partition_the_rows_and_keep_the_label_shares(labels, repeat) -> None:
    split = make(labels)
    folds = stratified_folds(split.rows, num_folds=5, repeat=repeat)
    assert sorted(number for fold in folds for number in fold) == list(range(len(labels)))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for label in set(labels):
        counts = [sum(labels[number] == label for number in fold) for fold in folds]
        assert max(counts) - min(counts) <= 1


def test_each_fold_is_test_once_and_validation_once() -> None:
    split = make([0, 1] * 25)
    all_tests, all_validations = Counter[str](), Counter[str]()
    for fold in range(5):
        parts = fold_splits(split, num_folds=5, fold=fold, repeat=0)
        all_tests.update(row.id for row in parts["test"].rows)
        all_validations.update(row.id for row in parts["validation"].rows)
        assert sum(len(part.rows) for part in parts.values()) == 50
    assert all_tests == all_validations == Counter(row.id for row in split.rows)


def test_another_repeat_deals_other_folds() -> None:
    rows = make([0, 1] * 25).rows
    assert stratified_folds(rows, num_folds=5, repeat=0) != stratified_folds(
        rows, num_folds=5, repeat=1
    )


def test_carved_rows_do_not_depend_on_the_order_of_the_file() -> None:
    split = make([0, 1, 1, 1] * 50)
    shuffled = list(split.rows)
    random.Random(0).shuffle(shuffled)
    first, _ = carve(split, 0.1)
    second, _ = carve(SplitRows(source="other", rows=tuple(shuffled)), 0.1)
    assert {row.text for row in first.rows} == {row.text for row in second.rows}
    assert Counter(row.target for row in first.rows) == {0: 5, 1: 15}


def test_rows_with_the_same_text_are_carved_together() -> None:
    texts = [f"text {number // 2}" for number in range(200)]
    validation, train = carve(make([0] * 200, texts=texts), 0.1)
    assert not {row.text for row in validation.rows} & {row.text for row in train.rows}
    assert len(validation.rows) == 20


def test_parts_have_their_shares_and_leave_the_rest() -> None:
    parts = stratified_parts(make([0] * 100 + [1] * 50).rows, [0.1, 0.2], "x")
    assert [len(part) for part in parts] == [15, 30, 105]
    assert sorted(sum(parts, [])) == list(range(150))


def test_a_text_in_two_splits_is_kept_once_and_counted() -> None:
    first = make([0, 1], texts=["One text", "Another"])
    second = make([0, 1], texts=["one  TEXT", "A third"])
    whole = without_duplicates([first, second])
    assert [row.text for row in whole.rows] == ["One text", "Another", "A third"]
    assert whole.repairs == {DUPLICATES: 1}


def test_one_text_with_two_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: has the text of .* another label"):
        without_duplicates([make([0], texts=["same"]), make([1], texts=["same"])])


def labelled(counts: dict[float | None, int]) -> list[Row]:
    targets = [target for target, count in counts.items() for _ in range(count)]
    return [Row(n, str(n), f"text {n}", "", target) for n, target in enumerate(targets)]


def test_a_subset_keeps_the_share_of_every_label_and_the_order() -> None:
    rows = labelled({0.0: 600, 1.0: 300, 2.0: 100})
    places = stratified_subset(rows, 100)
    assert places == sorted(set(places))
    targets = [rows[place].target for place in places]
    assert [targets.count(target) for target in (0.0, 1.0, 2.0)] == [60, 30, 10]


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), num_rows=st.integers(0, 120))
def test_a_subset_has_the_size_asked_for(counts, num_rows) -> None:
    rows = labelled({float(target): count for target, count in enumerate(counts)})
    expected = num_rows if 0 < num_rows < len(rows) else len(rows)
    assert len(stratified_subset(rows, num_rows)) == expected


def test_a_subset_of_scores_or_of_rows_without_labels_goes_by_hash_alone() -> None:
    scored = [Row(n, str(n), f"text {n}", "", n / 7) for n in range(50)]
    blank = labelled({None: 50})
    assert len(stratified_subset(scored, 20)) == len(stratified_subset(blank, 20)) == 20
    assert stratified_subset(scored, 20) == [
        place for place in range(50) if place in stratified_subset(scored, 20)
    ]


def test_a_subset_does_not_depend_on_the_place_of_rows() -> None:
    rows = labelled({0.0: 40, 1.0: 40})
    kept = {rows[place].id for place in stratified_subset(rows, 20)}
    turned = rows[::-1]
    assert {turned[place].id for place in stratified_subset(turned, 20)} == kept
