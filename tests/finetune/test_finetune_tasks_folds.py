"""Carved splits and folds: pure functions of the texts."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tasks.folds import (
    DUPLICATES,
    carve,
    fold_splits,
    strata,
    stratified_folds,
    stratified_parts,
    stratified_subset,
    without_duplicates,
)
from finetune.tasks.spec import Row, SplitRows, TaggedText


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


@given(st.lists(st.integers(0, 3), min_size=5, max_size=60))
@settings(max_examples=30, deadline=None)
def test_different_texts_are_dealt_one_fold_after_the_other(labels) -> None:
    """So it was before texts could stand twice: folds of published results stay what they are."""
    rows = make(labels).rows

    def order(number: int) -> tuple[int, bytes]:
        text = f"fold 0\0{rows[number].key}".encode()
        return labels[number], hashlib.blake2b(text, digest_size=16).digest()

    dealt = sorted(range(len(rows)), key=order)
    expected = [sorted(dealt[fold::5]) for fold in range(5)]
    assert stratified_folds(rows, num_folds=5, repeat=0) == expected


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 1)), min_size=40, max_size=90))
@settings(max_examples=30, deadline=None)
def test_rows_with_one_text_share_a_fold_and_folds_stay_alike(drawn) -> None:
    texts = [f"text {number}" for number, _ in drawn] + [f"once {k}" for k in range(40)]
    labels = [label for _, label in drawn] + [0, 1] * 20
    folds = stratified_folds(make(labels, texts=texts).rows, num_folds=4, repeat=1)
    assert sorted(number for fold in folds for number in fold) == list(range(len(texts)))
    found = [{texts[number] for number in fold} for fold in folds]
    assert sum(map(len, found)) == len(set(texts))
    most = max(Counter(texts).values())
    assert max(map(len, folds)) - min(map(len, folds)) <= most


def test_each_fold_has_one_of_any_texts_with_neighbouring_scores() -> None:
    values = [float(number) for number in range(40)]
    random.Random(0).shuffle(values)
    dealt = strata(make(values).rows, kind="regression", num_folds=4)
    assert [row.target for row in dealt] == [value // 4 for value in values]
    for fold in stratified_folds(dealt, num_folds=4, repeat=0):
        assert sorted(values[number] // 4 for number in fold) == list(range(10))
    twice = make([1, 9, 5, 3], texts=["a", "A", "b", "c"])  # a text counts once
    dealt = strata(twice.rows, kind="regression", num_folds=3)
    assert [row.target for row in dealt] == [0, 0, 0, 0]


TARGETS = {
    "classification": st.integers(0, 2).map(float),
    "regression": st.integers(-3, 3).map(lambda score: score / 8),
    "multilabel": st.sets(st.integers(0, 3)).map(lambda labels: tuple(sorted(labels))),
    "tagging": st.sampled_from(["", "a", "b"]),
}


@pytest.mark.parametrize("kind", TARGETS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_dealt_where_does_not_depend_on_the_order_of_the_file(kind, data) -> None:
    drawn = data.draw(
        st.lists(st.tuples(st.integers(0, 12), TARGETS[kind]), min_size=30, max_size=60)
    )
    drawn += [(number, drawn[0][1]) for number in range(20, 25)]
    found = []
    for order in (drawn, data.draw(st.permutations(drawn))):
        rows = tuple(
            Row(line, "", f"text {number}", "", target)
            if kind != "tagging"
            else Row(line, "", f"text {number}", "", None, words(f"text {number}", target))
            for line, (number, target) in enumerate(order)
        )
        split = SplitRows(source="rows.jsonl", rows=rows)
        parts = [fold_splits(split, num_folds=3, fold=f, repeat=0, kind=kind) for f in range(3)]
        found.append([{row.text for row in part["test"].rows} for part in parts])
        if kind == "classification":
            found[-1].append({row.text for row in carve(split, 0.2)[0].rows})
    assert found[0] == found[1]


def words(text: str, label: str) -> TaggedText:
    return TaggedText(0, "", tuple(text.split()), None, label or None, text, ((0, 4), (5, 6)))


def test_of_unlike_labels_of_a_text_one_counts_whatever_their_order() -> None:
    def dealt(kind, *targets):
        rows = make([0] * 4, texts=["a", "A", "b", "c"]).rows
        rows = [row._replace(target=t) for row, t in zip(rows, targets, strict=True)]
        return [row.target for row in strata(rows, kind=kind, num_folds=3)]

    assert dealt("multilabel", (0,), (1,), (0,), (0, 2)) == [1, 1, 0, 2]
    assert dealt("multilabel", (1,), (), (1,), (0, 2)) == [1, 1, 1, 0]


def test_the_rarest_label_of_a_text_decides_and_a_text_without_labels_is_a_stratum() -> None:
    several = [(0,), (0, 1), (1, 0), (0, 2), (), (0, 1, 2)]
    rows = [row._replace(target=t) for row, t in zip(make([0] * 6).rows, several, strict=True)]
    dealt = strata(rows, kind="multilabel", num_folds=3)
    assert [row.target for row in dealt] == [0, 1, 1, 2, -1, 2]


def test_more_folds_than_texts_are_an_error() -> None:
    twice = make([0, 1, 0, 1], texts=["a", "b", "A", "b "])
    with pytest.raises(
        ValueError, match=r"rows\.jsonl: has 2 different texts, too few for 3 folds"
    ):
        fold_splits(twice, num_folds=3, fold=0, repeat=0)


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
