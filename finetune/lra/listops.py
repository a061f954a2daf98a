"""ListOps: nested list operations, made by a seeded generator or read from the released files.

Invariant: sample i of a seed is a function of (seed, i) and of what came before it in its block of
1,000; a label always equals what `evaluate` says.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.table_rows import file_lines
from data_prep.text_lines import quoted_rows

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
TOKENS = ("<pad>", *map(str, range(10)), *OPERATORS, "]", "<unknown>")
"""By id: a written-down order, where the released code draws one for every process."""
CLOSE = TOKENS.index("]")
UNKNOWN = TOKENS.index("<unknown>")
MAX_DEPTH = 10
MOST_ARGUMENTS = 10
DIGIT_PROB = 0.75
LENGTHS = (500, 2000)
"""Samples are longer than the first and shorter than the second."""
BLOCK = 1000
"""Samples of a block of generated data."""
FIRST_OPERATOR = TOKENS.index(OPERATORS[0])
_IDS = {token: number for number, token in enumerate(TOKENS)}
_KNOWN = {*TOKENS[1:UNKNOWN]}


def evaluate(ids: Sequence[int]) -> int:
    """Return the value of a sample, 0 to 9, by one stack.

    MED is the median, of an even count the mean of the two middle values rounded down; SM the sum
    modulo 10.

    Raises:
        ValueError: The ids are no whole tree.
    """
    stack: list[tuple[int, list[int]]] = [(0, [])]
    for number in ids:
        if 1 <= number < FIRST_OPERATOR:
            stack[-1][1].append(number - 1)
        elif FIRST_OPERATOR <= number < CLOSE:
            stack.append((number, []))
        elif number == CLOSE and len(stack) > 1 and stack[-1][1]:
            operator, values = stack.pop()
            stack[-1][1].append(apply(operator - FIRST_OPERATOR, values))
        else:
            raise ValueError(f"token {number} does not fit; a whole ListOps tree is needed")
    if len(stack) != 1 or len(stack[0][1]) != 1:
        raise ValueError("the ids end inside a tree, or are several")
    return stack[0][1][0]


def apply(operator: int, values: list[int]) -> int:
    """Return what an operator, by its place in OPERATORS, makes of values."""
    if operator == 0:
        return min(values)
    if operator == 1:
        return max(values)
    if operator == 3:
        return sum(values) % 10
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


def draw_tree(generator: random.Random) -> tuple[list[int], int] | None:
    """Return the ids and value of one tree, or None as soon as it is too long.

    Source:
        The grammar of google-research/long-range-arena: a digit with probability 3/4 above depth
        10 and always there, else an operator of 2 to 10 arguments, all uniform.
    """
    ids: list[int] = []
    uniform = generator.random

    def grow(depth: int) -> int:
        if depth == MAX_DEPTH or uniform() < DIGIT_PROB:
            digit = int(uniform() * 10)
            ids.append(digit + 1)
            return digit
        place = len(ids)
        ids.append(0)
        values = []
        for _ in range(2 + int(uniform() * (MOST_ARGUMENTS - 1))):
            if len(ids) >= LENGTHS[1]:
                raise _TooLong
            values.append(grow(depth + 1))
        operator = int(uniform() * len(OPERATORS))
        ids[place] = FIRST_OPERATOR + operator
        ids.append(CLOSE)
        return apply(operator, values)

    try:
        value = grow(1)
    except _TooLong:
        return None
    return ids, value


class _TooLong(Exception):
    """The tree will not be kept."""


def draw_block(seed: int, block: int, count: int = BLOCK) -> list[tuple[bytes, int]]:
    """Return (ids as bytes, label) of one block of samples, no two alike.

    Args:
        seed: Of the data set.
        block: Its number.
        count: Samples.
    """
    generator = random.Random(f"listops {seed} {block}")
    kept: dict[bytes, int] = {}
    while len(kept) < count:
        drawn = draw_tree(generator)
        if drawn is not None and LENGTHS[0] < len(drawn[0]) < LENGTHS[1]:
            kept.setdefault(bytes(drawn[0]), drawn[1])
    return list(kept.items())


def read_listops(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Yield (ids, label) of the samples of a released file, `basic_train.tsv` and the like.

    Raises:
        ValueError: Another header, a row without two columns, another token or label; names
            file and line.
    """
    rows = quoted_rows(file_lines(path), path, "\t")
    _, header = next(rows, (0, []))
    if header != ["Source", "Target"]:
        text = "\t".join(header)
        given = f"{text[:30]!r}" + " ..." * (len(text) > 30)
        raise ValueError(f"{path}: its header is {given}; Source and Target are needed")
    for line, columns in rows:
        if len(columns) != 2 or columns[1] not in set("0123456789"):
            raise ValueError(f"{path}, line {line}: no source and target digit, parted by a tab")
        words = columns[0].replace("(", " ").replace(")", " ").split()
        if not words:
            raise ValueError(f"{path}, line {line}: the source is empty")
        if unknown := {*words} - _KNOWN:
            raise ValueError(
                f"{path}, line {line}: token {min(unknown)!r}; ListOps of Long Range Arena has "
                f"{' '.join(TOKENS[1:UNKNOWN])}"
            )
        yield np.array([_IDS[word] for word in words], np.uint8), int(columns[1])
