"""A user's own CSV, TSV and JSONL files as a task, without writing code.

Invariant: the labels are those of the training rows, or of the classifier that is scored; another
one is an error.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.tasks.dialect import find_dialect
from finetune.tasks.folds import carve
from finetune.tasks.rows import class_target, score_target
from finetune.tasks.spec import (
    LoadedTask,
    MetricName,
    Recipe,
    Row,
    SegmentRule,
    SplitRows,
    TaskSpec,
)
from finetune.tasks.tables import Lined, column_value, label_name, read_table, text_value

RECIPE = Recipe(
    lrs=(3e-5, 5e-5, 1e-4),
    batch_sizes=(16, 32),
    epochs=4,
    max_len=128,
    source="a common choice; your data are not published",
)
EMPTY_ROWS = "rows without any content left out"


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """Where a user's own rows are."""

    train: str
    """File of the training rows: .csv, .tsv or .jsonl, also .gz or .zst."""
    validation: str = ""
    """File of the validation rows."""
    validation_fraction: float = 0.0
    """Share of the training rows that becomes the validation split, in (0, 1); 0: the file."""
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
    score: tuple[MetricName, ...] = ()
    """Metrics whose mean chooses the epoch; empty: accuracy, or pearson and spearman."""
    positive_label: str = ""
    """Of two classes the one that F1 is of; empty: the second one."""
    segments: SegmentRule = "separators"
    """What a pooling segment of the text is."""
    labels: tuple[str, ...] | None = None
    """Classes of a classifier that is scored, empty for a regression; None: the training rows'."""


def load_own(own: OwnFiles, *, needed: Sequence[str] = ("train", "validation")) -> LoadedTask:
    """Return the task of the files; its labels are sorted, whole numbers by size.

    Args:
        own: The files.
        needed: Splits that must be there. A test file is read beside training rows, and training
            rows are read where nothing else says what the labels are, or validation rows are a
            part of them.

    Raises:
        ValueError: No file, a damaged row, fewer than two classes, or a label that the training
            rows do not have; names file and line.
    """
    _check(own)
    is_regression = own.kind == "regression"
    files = _files(own, needed)
    repairs = {split: Counter[str]() for split in files}
    tables = {split: _table(path, repairs[split]) for split, path in files.items()}
    labels = () if is_regression else own.labels or _labels(own, tables["train"])
    if own.positive_label and (len(labels) != 2 or own.positive_label not in labels):
        raise ValueError(
            f"data.positive_label is {own.positive_label!r}; it must be one of two labels, and "
            f"there are {', '.join(map(repr, labels)) or 'scores'}"
        )
    spec = TaskSpec(
        name="own",
        title="own",
        labels=labels,
        score=own.score or (("pearson", "spearman") if is_regression else ("accuracy",)),
        segments=own.segments,
        sizes={},
        recipe=RECIPE,
        has_pair=bool(own.text_pair),
        positive_label=own.positive_label,
        standardises=True,
    )
    splits = {
        split: SplitRows(
            source=files[split],
            rows=tuple(
                _row(own, labels, files[split], number, lined) for number, lined in enumerate(table)
            ),
            repairs=dict(repairs[split]),
        )
        for split, table in tables.items()
    }
    if own.validation_fraction and "train" in splits:
        train = splits.pop("train")
        splits = {**_carved(train, own, needed), **splits}
    return LoadedTask(spec=spec, splits=splits)


def _check(own: OwnFiles) -> None:
    if own.labels is not None and (own.kind == "regression") == bool(own.labels):
        gives = f"the labels {', '.join(own.labels)}" if own.labels else "scores"
        raise ValueError(f"data.kind is {own.kind} but the classifier gives {gives}; leave it out")
    if not 0 <= own.validation_fraction < 1:
        raise ValueError(
            f"data.validation_fraction is {own.validation_fraction:g}; it must be in [0, 1)"
        )
    if own.validation_fraction and own.validation:
        raise ValueError(
            "data.validation and data.validation_fraction are both given; leave one of them out"
        )


def _files(own: OwnFiles, needed: Sequence[str]) -> dict[str, str]:
    """Return the file of every split that is read."""
    given = {"train": own.train, "validation": own.validation, "test": own.test}
    read = set(needed) if own.kind == "regression" or own.labels else {"train", *needed}
    if own.validation_fraction and "validation" in read:
        read = {"train", *read} - {"validation"}
    for split, path in given.items():
        if split in read and not path:
            carve = " or carve it with --data.validation_fraction" * (split == "validation")
            raise ValueError(f"no {split} file; name it with --data.{split}{carve}")
    if own.test and "train" in needed:
        read.add("test")
    return {split: path for split, path in given.items() if split in read}


def _table(path: str, repairs: Counter[str]) -> list[Lined]:
    """Return the rows of a file; those of a spreadsheet that hold nothing are counted."""
    table = []
    for line, values in read_table(path, dialect=find_dialect(path), notes=repairs):
        if any(not isinstance(value, str) or value.strip() for value in values.values()):
            table.append((line, values))
        else:
            repairs[EMPTY_ROWS] += 1
    if not table:
        raise ValueError(f"{path}: has no rows; one or more are needed")
    return table


def _carved(train: SplitRows, own: OwnFiles, needed: Sequence[str]) -> dict[str, SplitRows]:
    validation, rest = carve(
        train, own.validation_fraction, is_stratified=own.kind == "classification"
    )
    if not validation.rows or not rest.rows:
        raise ValueError(
            f"data.validation_fraction is {own.validation_fraction:g}, which leaves "
            f"{len(validation.rows)} of the {len(train.rows)} rows of {train.source} for "
            "validation; give another share"
        )
    parts = {"train": rest, "validation": validation}
    return {split: rows for split, rows in parts.items() if split in needed}


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
