"""From the values of a table to `Row`, the same for every source of every task.

Invariant: a row that is damaged in any way is a ValueError with its place, or is counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.tasks.lines import COMPRESSIONS
from finetune.tasks.spec import Row, SplitRows
from finetune.tasks.tables import column_value, encodable, text_value

EMPTY_LEFT_OUT = "labelled rows with an empty text left out"
EMPTY_FILLED = "empty texts without a label read as a full stop"


class MissingSplit(ValueError):
    """A split is not where it was looked for."""


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """Turns table rows into `Row`s."""

    text: str
    """Column of the text."""
    text_pair: str = ""
    """Column of the second text; empty: single texts."""
    label: str = ""
    """Column of the label; empty: the rows are unlabelled."""
    labels: tuple[str, ...] = ()
    """Classes as the source writes them, in the order of the logits; empty: a score."""
    score_range: tuple[float, float] | None = None
    """Least and greatest allowed score."""
    id_column: str = ""
    """Column of the name; empty: the number from 0 among the rows that are used."""
    decode: Callable[[str], str] | None = None
    """What undoes the escapes of the distribution."""
    allows_gaps: bool = False
    """See `TaskSpec.allows_gaps`."""
    hint: str = "Is this the original distribution?"
    """What a message about a missing column ends with."""

    def split(
        self,
        table: Iterable[tuple[int, Mapping[str, Any]]],
        source: str,
        repairs: Counter[str] | None = None,
    ) -> SplitRows:
        """Return all rows.

        Args:
            table: (line, column -> value).
            source: File or data set, for messages.
            repairs: What was counted already, also while `table` is read.

        Raises:
            ValueError: A damaged row, or no row at all.
        """
        counts: Counter[str] = Counter() if repairs is None else repairs
        rows: list[Row] = []
        for line, values in table:
            place = f"{source}, line {line}"
            texts = self._texts(values, place, counts)
            if texts is not None:
                name = ""
                if self.id_column:
                    name = str(column_value(values, self.id_column, place, hint=self.hint))
                target = self._target(values, place)
                rows.append(Row(line, name or str(len(rows)), *texts, target))
        if not rows:
            raise ValueError(f"{source}: has no rows; one or more are needed")
        return SplitRows(source=source, rows=tuple(rows), repairs=dict(counts))

    def _texts(
        self, values: Mapping[str, Any], place: str, counts: Counter[str]
    ) -> tuple[str, str] | None:
        texts = []
        for name in filter(None, (self.text, self.text_pair)):
            value = column_value(values, name, place, hint=self.hint)
            if self.decode is not None and isinstance(value, str):
                value = self.decode(value)
            if self.allows_gaps and (value is None or not str(value).strip()):
                if self.label:
                    counts[EMPTY_LEFT_OUT] += 1
                    return None
                counts[EMPTY_FILLED] += 1
                value = "."
            texts.append(text_value({name: value}, name, place))
        return texts[0], texts[1] if self.text_pair else ""

    def _target(self, values: Mapping[str, Any], place: str) -> float | None:
        if not self.label:
            return None
        value = column_value(values, self.label, place, hint=self.hint)
        if self.labels:
            return class_target(value, self.labels, place)
        return score_target(value, self.score_range, place)


def class_target(value: Any, labels: tuple[str, ...], place: str) -> float:
    """Return the place of a label, given by name or as that place itself.

    Raises:
        ValueError: It is not one of `labels`.
    """
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int) and 0 <= value < len(labels):
        return float(value)
    if isinstance(value, str) and value.strip() in labels:
        return float(labels.index(value.strip()))
    raise ValueError(f"{place}: unknown label {value!r}; allowed: {', '.join(map(repr, labels))}")


def score_target(value: Any, score_range: tuple[float, float] | None, place: str) -> float:
    """Return a score as the float32 it is trained with, which is also what the Hub stores.

    Raises:
        ValueError: It is no number, is NaN or infinite, or is outside of `score_range`.
    """
    try:
        is_number = not isinstance(value, bool) and value is not None
        with np.errstate(over="ignore"):  # becomes infinite and is refused below
            score = float(np.float32(float(value))) if is_number else math.nan
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(
            f"{place}: score {value!r} is no finite number; write one, with a point "
            "for decimals and without thousands marks or units"
        )
    if score_range is not None and not score_range[0] <= score <= score_range[1]:
        raise ValueError(
            f"{place}: score {score:g} is outside of [{score_range[0]:g}, {score_range[1]:g}]"
        )
    return score


def find_file(folder: Path, names: Iterable[str], what: str) -> Path:
    """Return the first file of `folder` with one of the names, plain, .gz or .zst.

    Raises:
        MissingSplit: None is there; says what was looked for.
    """
    names = list(names)
    for name in names:
        for compression in COMPRESSIONS:
            path = folder / f"{name}{compression}"
            if path.is_file():
                return path
    raise MissingSplit(
        f"{folder}: no {' or '.join(names)} (also .gz or .zst) for {what}; "
        "is this a folder in the original layout?"
    )


def read_text_file(path: Path) -> str:
    """Return a whole text file without the white space around it.

    Raises:
        ValueError: It is not UTF-8; names the file.
    """
    try:
        return encodable(path.read_bytes().decode("utf-8-sig").strip(), "text", str(path))
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: is not UTF-8 ({error}); convert the file with iconv"
        ) from error
