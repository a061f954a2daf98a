"""ListOps: the generator against the grammar, an evaluator and samples of the original one."""

import csv
import random

import numpy as np
import pytest

from finetune.lra.listops import (
    LENGTHS,
    TOKENS,
    UNKNOWN,
    apply,
    draw_block,
    draw_tree,
    evaluate,
    read_listops,
)  # fmt: skip


def ids_of(text: str) -> list[int]:
    return [TOKENS.index(token) for token in text.split()]


@pytest.mark.parametrize(("text", "value"), [
    ("7", 7), ("[MIN 3 1 9 ]", 1), ("[MAX 3 [MIN 8 9 ] 1 ]", 8), ("[MED 1 9 4 ]", 4),
    ("[MED 1 4 5 9 ]", 4), ("[MED 2 3 ]", 2), ("[SM 9 9 5 ]", 3),
    ("[SM [MED 4 8 ] [MAX 0 2 ] [MIN 5 7 ] ]", 3),
])  # fmt: skip
def test_hand_worked_trees(text, value):
    assert evaluate(ids_of(text)) == value


@pytest.mark.parametrize("text", ["", "[MIN 3", "3 4", "[MIN ]", "]", "[MIN 3 ] ]"])
def test_what_is_no_tree_is_refused(text):
    with pytest.raises(ValueError, match=r"tree|several"):
        evaluate(ids_of(text))


def by_recursion(tokens):
    """Another evaluator: text to nested lists, then recursion."""
    token = tokens.pop(0)
    if not token.startswith("["):
        return int(token)
    values = []
    while tokens[0] != "]":
        values.append(by_recursion(tokens))
    tokens.pop(0)
    if token == "[MED":
        return int(np.median(values))
    return {"[MIN": min, "[MAX": max, "[SM": lambda v: sum(v) % 10}[token](values)


@pytest.fixture(scope="module")
def drawn():
    return draw_block(7, 0, 400)


def test_every_label_is_what_two_evaluators_say(drawn):
    for ids, label in drawn:
        assert evaluate(ids) == label == by_recursion([TOKENS[number] for number in ids])


def test_samples_are_a_function_of_seed_and_block(drawn):
    assert draw_block(7, 0, 50) == drawn[:50]
    assert draw_block(7, 1, 5) != drawn[:5] and draw_block(8, 0, 5) != drawn[:5]
    assert len({ids for ids, _ in drawn}) == 400
    assert all(LENGTHS[0] < len(ids) < LENGTHS[1] for ids, _ in drawn)


def test_the_distribution_is_that_of_the_original(drawn):
    """400 samples against the published figures of 5,000; bounds are 4 standard errors.

    A generator whose mean length is off by 90 of 1,033 tokens fails with 99 % power.
    """
    lengths = np.array([len(ids) for ids, _ in drawn])
    assert abs(lengths.mean() - 1033.4) < 4 * lengths.std() / 20
    counts = np.bincount(np.concatenate([np.frombuffer(ids, "u1") for ids, _ in drawn]))
    shares = counts / counts.sum()
    assert np.allclose(shares[1:11], 0.0715, atol=0.002)
    assert np.allclose(shares[11:15], 0.0355, atol=0.001) and abs(shares[15] - 0.142) < 0.002
    roots = np.bincount([ids[0] for ids, _ in drawn], minlength=16)[11:15]
    assert (abs(roots - 100) < 4 * np.sqrt(75)).all()
    majority = np.bincount([label for _, label in drawn], minlength=10)[0] / 400
    assert abs(majority - 0.177) < 4 * np.sqrt(0.177 * 0.823 / 400)


def test_eight_per_cent_of_trees_are_kept():
    generator = random.Random(3)
    trees = [draw_tree(generator) for _ in range(4000)]
    kept = sum(tree is not None and LENGTHS[0] < len(tree[0]) < LENGTHS[1] for tree in trees)
    assert abs(kept / 4000 - 0.083) < 4 * np.sqrt(0.083 * 0.917 / 4000)


def test_released_files_are_read(tmp_path):
    path = tmp_path / "basic_val.tsv"
    path.write_text("Source\tTarget\r\n( ( ( [MAX 2 ) 9 ) ] )\t9\r\n3\t3\r\n", newline="")
    assert [(ids.tolist(), label) for ids, label in read_listops(path)] == [
        (ids_of("[MAX 2 9 ]"), 9), (ids_of("3"), 3),
    ]  # fmt: skip
    path.write_text("\ufeffSource\tTarget\n3\t3\n\n", encoding="utf-8")
    assert [label for _, label in read_listops(path)] == [3]
    for content, message in (
        ("a\tb\n", "header"), ("Source\tTarget\n1 2\n", "line 2"),
        ("Source\tTarget\n1\t12\n", "line 2"), ("Source\tTarget\n()\t1\n", "empty"),
        ("Source\tTarget\n[MEDIAN 2 ]\t2\n", r"line 2: token '\[MEDIAN'; .*\[MED \[SM"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            list(read_listops(path))


def test_a_row_of_any_length_is_read_and_one_that_is_no_csv_is_named(tmp_path):
    path, whole = tmp_path / "basic_val.tsv", csv.field_size_limit()
    path.write_text("Source\tTarget\n[MAX " + "3 " * 70_000 + "]\t3\n")
    try:
        csv.field_size_limit(131_072)
        ((ids, label),) = read_listops(path)
    finally:
        csv.field_size_limit(whole)
    assert (len(ids), label) == (70_002, 3)
    for row in ("3\r3\t3\n", '"3\t3\n', '"3"3\t3\n'):
        path.write_text("Source\tTarget\n3\t3\n" + row, newline="")
        with pytest.raises(ValueError, match=r"basic_val.tsv, line 3: is not valid CSV"):
            list(read_listops(path))


def test_samples_of_the_original_generator_have_our_values(shared_dir):
    folder = shared_dir / "data" / "lra_listops_sample"
    if not folder.is_dir():
        pytest.skip(f"samples of the original generator not found: {folder} does not exist")
    samples = [row for name in ("train", "val", "test")
               for row in read_listops(folder / f"basic_{name}.tsv")]  # fmt: skip
    assert len(samples) == 200
    assert all(evaluate(ids.tolist()) == label for ids, label in samples)
    assert all(UNKNOWN not in ids for ids, _ in samples)


def test_the_median_of_an_even_count_is_rounded_down():
    assert apply(2, [1, 2]) == 1 and apply(2, [3, 6, 9, 4]) == 5
