"""A user's own CSV, TSV and JSONL files as a task, without writing code.

Invariant: the labels are those of the training rows, or of the classifier that is scored; another
one is an error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.tasks.rows import class_target, score_target
from finetune.tasks.spec import LoadedTask, Recipe, Row, SegmentRule, SplitRows, TaskSpec
from finetune.tasks.tables import Lined, column_value, label_name, read_table, text_value

RECIPE = Recipe(
    lrs=(3e-5, 5e-5, 1e-4),
    batch_sizes=(16, 32),
    epochs=4,
    max_len=128,
    source="a common choice; your data are not published",
)


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """Where a user's own rows are."""

    train: str
    """File of the training rows: .csv, .tsv or .jsonl, also .gz or .zst."""
    validation: str
    """File of the validation rows."""
    test: str = ""
    """File of the test rows, with labels; empty: none."""
    text: str = "text"
    """Column of the text."""
    text_pair: str = ""
    """Column of the second text; empty: single texts."""
    label: str = "label"
    """Column of the label: a name or whole number, or the score of a regression."""
    kind: Literal["classification", "regression"] = "classification"
    """Whether the label is one of some classes or a number."""
    segments: SegmentRule = "separators"
    """What a pooling segment of the text is."""
    labels: tuple[str, ...] | None = None
    """Classes of a classifier that is scored, empty for a regression; None: the training rows'."""


def load_own(own: OwnFiles, *, needed: Sequence[str] = ("train", "validation")) -> LoadedTask:
    """Return the task of the files; its labels are sorted, whole numbers by size.

    Args:
        own: The files.
        needed: Splits that must be there. A test file is read beside training rows, and training
            rows are read where nothing else says what the labels are.

    Raises:
        ValueError: No file, a damaged row, fewer than two classes, or a label that the training
            rows do not have; names file and line.
    """
    is_regression = own.kind == "regression"
    if own.labels is not None and is_regression == bool(own.labels):
        gives = f"the labels {', '.join(own.labels)}" if own.labels else "scores"
        raise ValueError(f"data.kind is {own.kind} but the classifier gives {gives}; leave it out")
    read = set(needed) if is_regression or own.labels else {"train", *needed}
    given = {"train": own.train, "validation": own.validation, "test": own.test}
    for split, path in given.items():
        if split in read and not path:
            raise ValueError(f"no {split} file; name it with --data.{split}")
    if own.test and "train" in needed:
        read.add("test")
    files = {split: path for split, path in given.items() if split in read}
    tables = {split: list(read_table(path)) for split, path in files.items()}
    labels = () if is_regression else own.labels or _labels(own, tables["train"])
    spec = TaskSpec(
        name="own",
        title="own",
        labels=labels,
        score=("pearson", "spearman") if is_regression else ("accuracy",),
        segments=own.segments,
        sizes={},
        recipe=RECIPE,
        has_pair=bool(own.text_pair),
    )
    splits = {
        split: SplitRows(
            source=files[split],
            rows=tuple(
                _row(own, labels, files[split], number, lined) for number, lined in enumerate(table)
            ),
        )
        for split, table in tables.items()
    }
    return LoadedTask(spec=spec, splits=splits)


def _labels(own: OwnFiles, table: list[Lined]) -> tuple[str, ...]:
    names = {
        label_name(values, own.label, f"{own.train}, line {line}", option="data.label")
        for line, values in table
    }
    if len(names) < 2:
        raise ValueError(
            f"{own.train}: all rows have the label {names.pop()!r}; two or more classes are needed"
        )
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))  # "1" and "01" may be two
    return tuple(sorted(names))


def _row(own: OwnFiles, labels: tuple[str, ...], source: str, number: int, lined: Lined) -> Row:
    line, values = lined
    place = f"{source}, line {line}"
    text = text_value(values, own.text, place, option="data.text")
    pair = ""
    if own.text_pair:
        pair = text_value(values, own.text_pair, place, option="data.text_pair")
    if labels:
        name = label_name(values, own.label, place, option="data.label")
        target = class_target(name, labels, place)
    else:
        score = column_value(values, own.label, place, option="data.label")
        target = score_target(score, None, place)
    return Row(line, str(number), text, pair, target)
