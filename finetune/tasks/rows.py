"""From the values of a table to `Row`, the same for every file and data set of every task.

Invariant: a row that is damaged in any way is a ValueError with its place, or is counted.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.table_rows import file_lines, find_file, place_of, reached, read_table
from finetune.tasks.spec import UNSEEN, Columns, HubSource, Row, SplitRows, TaskSpec

EMPTY_LEFT_OUT = "labelled rows with an empty text left out"
EMPTY_FILLED = "empty texts without a label read as a full stop"
UNSEEN_LABELS = "labels that training never saw: they count as errors"
EMPTY_ROWS = "rows without any content left out"
JOINED = "texts that are lists of strings, joined as paragraphs"
WRONG_WIDTH = "rows with a wrong number of columns left out"
_MISSING = object()


class MissingSplit(ValueError):
    """A split is not where it was looked for."""


def name_it(option: str) -> str:
    """Return the advice about a column of a user's own file; {} stands for text, label, ..."""
    return (
        f"Name the right one with --{option}; the first line of .csv and .tsv files holds the names"
    )


def rows_of(
    columns: Columns,
    table: Iterable[tuple[int, Mapping[str, Any]]],
    source: str,
    repairs: Counter[str] | None = None,
) -> SplitRows:
    """Return all rows of a table.

    Args:
        columns: What its columns mean.
        table: (line, column -> value).
        source: File or data set, for messages.
        repairs: What was counted already, also while `table` is read.

    Raises:
        ValueError: A damaged row, or no row at all.
    """
    counts = Counter[str]() if repairs is None else repairs
    rows: list[Row] = []
    for line, found in table:
        place = place_of(source, line)
        values = with_whole_texts(columns, found, counts)
        texts = row_texts(columns, values, place)
        num_empty = texts.count("") - (not columns.text_pair)
        if num_empty and columns.label:
            counts[EMPTY_LEFT_OUT] += 1
            continue
        if num_empty:
            counts[EMPTY_FILLED] += num_empty
            texts = texts[0] or ".", texts[1] or "." * bool(columns.text_pair)
        name = ""
        if columns.id and (columns.id in values or not columns.label):
            name = str(column_value(values, columns.id, place, columns.advice))
        target = _target(columns, values, place)
        counts[UNSEEN_LABELS] += target.count(UNSEEN) if isinstance(target, tuple) else 0
        rows.append(Row(line, name or str(len(rows)), *texts, target))
    if not rows:
        raise ValueError(f"{source}: has no rows; one or more are needed")
    return SplitRows(source=source, rows=tuple(rows), repairs=dict(+counts))


def is_empty_row(values: Mapping[str, Any]) -> bool:
    """Return whether no cell of a row holds anything, as spreadsheets leave rows."""
    return all(isinstance(value, str) and not value.strip() for value in values.values())


def with_whole_texts(
    columns: Columns, values: Mapping[str, Any], notes: Counter[str]
) -> Mapping[str, Any]:
    """Return values with each text under its column's name, in one piece.

    A list of strings, as the Hub has them, becomes its paragraphs, with an empty line between two,
    which is counted; and a field inside of a field is fetched.
    """
    for name in filter(None, (columns.text, columns.text_pair)):
        text = reached(values, name)
        if isinstance(text, list) and text and all(isinstance(part, str) for part in text):
            text = "\n\n".join(part for part in text if part.strip())
            notes[JOINED] += 1
        if text is not None and text is not values.get(name):
            values = {**values, name: text}
    return values


def row_texts(columns: Columns, values: Mapping[str, Any], place: str) -> tuple[str, str]:
    """Return text and second text without the white space around them; empty ones are gaps."""
    texts = ["", ""]
    for number, option in enumerate(("text", "text_pair")):
        name = getattr(columns, option)
        if not name:
            continue
        text = column_value(values, name, place, columns.advice, option)
        if text is None and columns.allows_gaps:
            continue
        if not isinstance(text, str):
            raise ValueError(f"{place}: {name!r} is {_shown(text)}; a text is needed")
        text = (columns.decode(text) if columns.decode else text).strip()
        if not text and not columns.allows_gaps:
            raise ValueError(f"{place}: {name!r} is empty; write a text or take the row out")
        texts[number] = encodable(text, name, place)
    return texts[0], texts[1]


def column_value(
    values: Mapping[str, Any], name: str, place: str, advice: str, option: str = ""
) -> Any:
    """Return the value of a column; an error says which there are, with advice on the option."""
    value = reached(values, name, missing=_MISSING)
    if value is _MISSING:
        shown = ", ".join(repr(column[:60]) for column in values)
        raise ValueError(f"{place}: no column {name!r}; it has {shown}. {advice.format(option)}")
    return value


def label_name(columns: Columns, values: Mapping[str, Any], place: str) -> str:
    """Return the label of a row as a name: a text, a whole number, or true and false."""
    label = column_value(values, columns.label, place, columns.advice, "label")
    return _as_name(columns, label, place)


def label_names(columns: Columns, values: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Return the labels of a row as names, each once: one, or with `several` any number.

    Several are a list, or in a table a JSON list or names parted by |; an empty cell has none.
    """
    if not columns.several:
        return (label_name(columns, values, place),)
    given = column_value(values, columns.label, place, columns.advice, "label")
    if isinstance(given, str):
        try:
            is_json = given.lstrip().startswith("[")
            given = json.loads(given) if is_json else [n for n in given.split("|") if n.strip()]
        except ValueError as error:
            raise ValueError(f"{place}: {columns.label!r} is no JSON list ({error})") from None
    if not isinstance(given, list):
        raise ValueError(
            f"{place}: {columns.label!r} is {_shown(given)}; a list of labels is needed, or []"
        )
    return tuple(dict.fromkeys(_as_name(columns, label, place) for label in given))


def _as_name(columns: Columns, label: Any, place: str) -> str:
    if isinstance(label, bool):
        label = "true" if label else "false"
    elif isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int) or not str(label).strip():
        advice = "rows without labels are for `predict`"
        if isinstance(label, list):
            advice = "several labels a text: --data.kind multilabel"
        raise ValueError(
            f"{place}: label {columns.label!r} is {_shown(label)}; a non-empty text or a whole "
            f"number is needed ({advice})"
        )
    return encodable(str(label).strip(), columns.label, place)


def _target(
    columns: Columns, values: Mapping[str, Any], place: str
) -> float | tuple[int, ...] | None:
    if not columns.label:
        return None
    if columns.several:
        names = label_names(columns, values, place)
        places = {label: number for number, label in enumerate(columns.labels)}
        return tuple(sorted(places.get(name, UNSEEN) for name in names))
    value = column_value(values, columns.label, place, columns.advice, "label")
    if not columns.labels:
        return _score(value, columns.score_range, place)
    if columns.has_places and type(value) is int:
        target = value if 0 <= value < len(columns.labels) else None
    else:
        name = label_name(columns, values, place)
        target = columns.labels.index(name) if name in columns.labels else None
    if target is None:
        allowed = ", ".join(map(repr, columns.labels))
        raise ValueError(f"{place}: unknown label {value!r}; allowed: {allowed}")
    return float(target)


def _score(value: Any, score_range: tuple[float, float] | None, place: str) -> float:
    """Return a score as the float32 it is trained with, which is also what the Hub stores."""
    try:
        with np.errstate(over="ignore"):  # becomes infinite and is refused below
            score = math.nan if isinstance(value, bool) else float(np.float32(float(value)))
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


def _shown(value: Any) -> str:
    return json.dumps(value, default=repr)[:80]


def encodable(text: str, name: str, place: str) -> str:
    """Return a text, unless it holds half a surrogate pair, which a JSON escape can smuggle in."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"half a surrogate pair ({error.object[error.start]!a})"
        raise ValueError(f"{place}: {name!r} holds {half}; repair it") from error
    return text


@dataclass(frozen=True, kw_only=True)
class TableFolder:
    """A folder with one table for each split, in the layout of a distribution."""

    title: str
    """What messages call the data set."""
    folder: str
    """Its folder below the one that is given, which may also be that one itself."""
    columns: Mapping[str, Columns]
    """Ending of a file (.csv, .tsv, .jsonl), the first one first -> what its columns mean."""
    stems: Mapping[str, str] = field(default_factory=dict)
    """Split -> name of its file without the ending, where that is not the split's own, which .jsonl
    may have too."""
    header: tuple[str, ...] = ()
    """Columns of labelled files that have no header line; empty: the first line has them."""
    unlabelled: tuple[str, ...] = ()
    """Splits whose labels are never read."""
    unlabelled_id: str = ""
    """Column of their names in .tsv files."""
    has_cut_rows: bool = False
    """Whether labelled rows with a wrong number of columns are counted and left out."""

    def __call__(self, folder: Path, split: str) -> SplitRows:
        """Return the rows of a split.

        Raises:
            MissingSplit: The split has no file.
            ValueError: No such folder, or a damaged row; names file and line.
        """
        path = self._file(below(folder, self.folder), split)
        ending = next(ending for ending in self.columns if ending in path.suffixes)
        columns, is_labelled = self.columns[ending], split not in self.unlabelled
        is_json = ending == ".jsonl"
        if not is_labelled:
            columns = replace(columns, label="", id="" if is_json else self.unlabelled_id)
        repairs: Counter[str] = Counter()
        skips = self.has_cut_rows and is_labelled and not is_json
        table = read_table(
            path,
            names=self.header if is_labelled else (),
            bad=(lambda line, why: repairs.update([WRONG_WIDTH])) if skips else None,
        )
        return rows_of(columns, table, str(path), repairs)

    def names(self, split: str) -> list[str]:
        """Return the names that the file of a split may have, the first one first."""
        names = [f"{self.stems.get(split, split)}{ending}" for ending in self.columns]
        return list(dict.fromkeys([*names, *[f"{split}.jsonl"] * (".jsonl" in self.columns)]))

    def _file(self, folder: Path, split: str) -> Path:
        names = self.names(split)
        if path := find_file(folder, *names):
            return path
        raise MissingSplit(
            f"{folder}: no {' or '.join(names)} (also .gz or .zst) for {self.title}'s split "
            f"{split}; is this a folder in the original layout?"
        )


def below(folder: Path, name: str) -> Path:
    """Return folder/name if it exists, else the folder, which may be that folder itself."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one that holds {name}/")
    return folder / name if (folder / name).is_dir() else folder


def read_text_file(path: Path) -> str:
    """Return a whole text file without the white space around it; it must be UTF-8."""
    return "".join(text for _, text in file_lines(path)).strip()


def read_hub(spec: TaskSpec, split: str) -> SplitRows:
    """Return a split of a task from the Hugging Face Hub: the same rows as from a folder."""
    hub = spec.hub
    if hub is None:
        raise ValueError(
            f"{spec.name} is not on the Hub in a form that can be loaded; get the original files "
            "and name their folder with --data.folder"
        )
    columns = replace(
        hub.columns,
        label="" if split in hub.unlabelled else hub.columns.label,
        advice=f"Does revision {hub.revision} of {hub.id} still have the known columns?",
    )
    name = hub.splits.get(split, split)
    return rows_of(columns, enumerate(_download(hub, name), 1), f"{hub.id} {hub.config} {name}")


def _download(hub: HubSource, split: str) -> Any:
    """Return the rows of a split as dicts; the pinned commit makes them the same for ever."""
    import datasets

    arguments: dict[str, Any] = {
        "path": hub.id,
        "name": hub.config or None,
        "revision": hub.revision,
    }
    if hub.files:
        pattern = f"hf://datasets/{hub.id}@{hub.revision}/{hub.files.format(split=split)}"
        arguments = {"path": "parquet", "data_files": {split: pattern}}
    try:
        return datasets.load_dataset(**arguments, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"{hub.id} (configuration {hub.config!r}, revision {hub.revision}, split {split}) "
            f"cannot be loaded from the Hub: {reason} Check the network, or name a folder with the "
            "original files with --data.folder."
        ) from error
