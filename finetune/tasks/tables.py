"""Rows with text and label from CSV, TSV and JSONL files, as streams.

Invariant: a row is used as it stands, is an error with file and line, or is counted as left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.tasks.dialect import PLAIN_TSV, Dialect, csv_cells
from finetune.tasks.lines import file_lines, table_format

Lined = tuple[int, dict[str, Any]]
OnBadRow = Callable[[int, str], None]


def read_table(
    path: str | Path,
    *,
    names: Sequence[str] = (),
    dialect: Dialect | None = None,
    notes: Counter[str] | None = None,
    bad: OnBadRow | None = None,
) -> Iterator[Lined]:
    """Yield (line, column -> value) for every row of a file, in order.

    Args:
        path: .csv, .tsv or .jsonl, each also .gz or .zst.
        names: Columns of a .csv or .tsv file without a header line; empty: its first line has them.
        dialect: How cells are parted; None: commas and quotes in .csv, tabs alone in .tsv.
        notes: Gets the number of rows that were read in another way than the ending says.
        bad: Called with line and reason of a row that cannot be read; None: an error.

    Raises:
        ValueError: No such file, unknown format, damage, or no rows; names file and line.
    """
    path = Path(path)
    ending = table_format(path)
    usual = PLAIN_TSV if ending == ".tsv" else Dialect()
    dialect = dialect or usual
    rows = _jsonl_rows(path, bad) if ending == ".jsonl" else _named(path, dialect, names, bad)
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count and bad is None:
        raise ValueError(f"{path}: has no rows; one or more are needed")
    is_usual = (dialect.separator, dialect.has_quotes) == (usual.separator, usual.has_quotes)
    if notes is not None and not is_usual:
        quotes = ", with quotes as in CSV" * (dialect.has_quotes and ending == ".tsv")
        notes[f"rows with columns parted by {dialect.name}s{quotes}"] += count


def column_value(
    values: Mapping[str, Any], name: str, place: str, *, option: str = "", hint: str = ""
) -> Any:
    """Return the value of a column.

    Raises:
        ValueError: There is no such column; the message ends with `hint` or names the option.
    """
    if name not in values:
        advice = hint
        if option:
            advice = (
                f"Name the right one with --{option}; the first line of .csv and .tsv files holds "
                "the names"
            )
        shown = ", ".join(repr(column[:60]) for column in values)
        raise ValueError(f"{place}: no column {name!r}; it has {shown}. {advice}".rstrip())
    return values[name]


def text_value(
    values: Mapping[str, Any], name: str, place: str, *, option: str = "", hint: str = ""
) -> str:
    """Return the text of a column without the white space around it.

    Raises:
        ValueError: No such column, no text, or an empty one.
    """
    text = column_value(values, name, place, option=option, hint=hint)
    if not isinstance(text, str):
        raise ValueError(f"{place}: {name!r} is {_shown(text)}; a text is needed")
    text = text.strip()
    if not text:
        raise ValueError(f"{place}: {name!r} is empty; write a text or take the row out")
    return encodable(text, name, place)


def label_name(
    values: Mapping[str, Any], name: str, place: str, *, option: str = "", hint: str = ""
) -> str:
    """Return the label of a column as a name: a text, a whole number, or true and false.

    Raises:
        ValueError: No such column, or no label.
    """
    label = column_value(values, name, place, option=option, hint=hint)
    if isinstance(label, bool):
        label = "true" if label else "false"
    elif isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(
            f"{place}: label {name!r} is {_shown(label)}; a non-empty text or a whole number is "
            "needed"
        )
    return encodable(str(label).strip(), name, place)


def encodable(text: str, name: str, place: str) -> str:
    """Return `text` if it can be written as UTF-8.

    Raises:
        ValueError: It holds half a surrogate pair, which a JSON escape can smuggle in.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: {name!r} holds half a surrogate pair; repair it") from error
    return text


def _shown(value: Any) -> str:
    return json.dumps(value, default=repr)[:80]


def _jsonl_rows(path: Path, bad: OnBadRow | None) -> Iterator[Lined]:
    for number, text in file_lines(path):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
            message = "is no JSON object with columns as keys"
        except (ValueError, RecursionError) as error:
            values, message = None, f"is not JSON ({error})"
        if isinstance(values, dict):
            yield number, values
        elif bad is None:
            raise ValueError(f"{path}, line {number}: {message}")
        else:
            bad(number, message)


def _plain_cells(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, text in file_lines(path):
        if text.strip(" \r\n"):
            yield number, text.rstrip("\r\n").split(separator)


def _header(path: Path, number: int, cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}, line {number}: a column name occurs twice: {names}")
    return names


def _without_empty(cells: list[str], dialect: Dialect, *, keep: int) -> list[str]:
    """Return cells without the empty ones at the end, but for the first `keep` of them."""
    if not dialect.drops_empty:
        return cells
    end = len(cells)
    while end > keep and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _named(
    path: Path, dialect: Dialect, names: Sequence[str], bad: OnBadRow | None
) -> Iterator[Lined]:
    read = csv_cells if dialect.has_quotes else _plain_cells
    fields = read(path, dialect.separator)
    if dialect.has_separator_line:
        next(fields)
    columns = list(names)
    for number, found in fields:
        cells = _without_empty(found, dialect, keep=len(columns) or 1)
        if not columns:
            columns = _header(path, number, cells)
            continue
        if len(cells) == len(columns):
            yield number, dict(zip(columns, cells, strict=True))
            continue
        message = _wrong_width(len(cells), columns, dialect, has_header=not names)
        if bad is None:
            raise ValueError(f"{path}, line {number}: {message}")
        bad(number, message)


def _wrong_width(found: int, columns: list[str], dialect: Dialect, *, has_header: bool) -> str:
    if not has_header:
        return f"has {found} columns but {len(columns)} are needed: {', '.join(columns)}"
    message = (
        f"has {found} columns, parted by {dialect.name}s, but the first line names {len(columns)}; "
    )
    if dialect.has_quotes:
        return message + "put a text that holds the separator or a quote into double quotes"
    return message + (
        "quotes count as characters here, because they do not fit as those of CSV; take tabs and "
        "line breaks out of the texts, or write .csv or .jsonl"
    )
