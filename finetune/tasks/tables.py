"""Rows with text and label from CSV, TSV and JSONL files, as streams.

Invariant: a row is used as it stands, is an error with file and line, or is counted as left out.
"""

import contextlib
import csv
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.readers import ReadLog, open_binary

FORMATS = (".csv", ".tsv", ".jsonl")
COMPRESSIONS = ("", ".gz", ".zst")
WRONG_WIDTH = "rows with a wrong number of columns left out"

Lined = tuple[int, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what; an empty name: there is no such column."""

    text: str
    """Column of the text."""
    text_pair: str = ""
    """Column of the second text of a pair."""
    label: str = ""
    """Column of the label."""


class TextRow(NamedTuple):
    """One example as text."""

    line: int
    """First line of the row in its file, counted from 1."""
    text: str
    text_pair: str
    """Empty without a pair."""
    label: str
    """Empty without a label."""


def read_examples(path: str | Path, columns: Columns) -> Iterator[TextRow]:
    """Yield the examples of one file in order, without the white space around texts.

    Args:
        path: .csv (quotes as usual), .tsv (tabs, quotes are plain characters; as GLUE's files) or
            .jsonl (an object per line), each also .gz or .zst. UTF-8, with column names in the
            first line of .csv and .tsv.
        columns: Names of the columns to read; others are ignored.

    Raises:
        ValueError: No such file, unknown format, damage, a missing column, or an empty or
            non-text value; names file and line.
    """
    for line, values in read_table(path):
        place = f"{path}, line {line}"
        yield TextRow(
            line,
            text_value(values, columns.text, place, option="text"),
            text_value(values, columns.text_pair, place, option="text_pair")
            if columns.text_pair
            else "",
            label_name(values, columns.label, place, option="label") if columns.label else "",
        )


def read_table(
    path: str | Path,
    *,
    names: Sequence[str] = (),
    left_out: Counter[str] | None = None,
) -> Iterator[Lined]:
    """Yield (line, column -> value) for every row of a file, in order.

    Args:
        path: As for `read_examples`.
        names: Columns of a .csv or .tsv file without a header line; empty: its first line has them.
        left_out: Where .tsv rows with a wrong number of columns are counted; None: an error.

    Raises:
        ValueError: No such file, unknown format, damage, or no rows; names file and line.
    """
    path = Path(path)
    match _table_format(path):
        case ".jsonl":
            rows = _jsonl_rows(path)
        case ".csv":
            rows = _named(path, _csv_fields(path), names, None)
        case _:
            rows = _named(path, _tsv_fields(path), names, left_out)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path}: has no rows; one or more are needed")


def _table_format(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise ValueError(f"{path}: unknown format; allowed: {' '.join(FORMATS)}, also .gz or .zst")
    return suffixes[-1]


def column_value(
    values: Mapping[str, Any], name: str, place: str, *, option: str = "", hint: str = ""
) -> Any:
    """Return the value of a column.

    Raises:
        ValueError: There is no such column; the message ends with `hint` or names the option.
    """
    if name not in values:
        advice = f"Name the right one with --{option}" if option else hint
        raise ValueError(
            f"{place}: no column {name!r}; it has {', '.join(map(repr, values))}. {advice}".rstrip()
        )
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number, log = 0, ReadLog()
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open_binary(path, log))
        if log.raw is not None:
            stack.callback(log.raw.close)
        while True:
            number += 1
            try:
                data = stream.readline()
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: is not UTF-8 ({error}); convert the file with iconv"
                ) from error
            except (EOFError, OSError, zlib.error) as error:
                raise ValueError(f"{path}, line {number}: cannot be read ({error})") from error
            if not data:
                return
            yield number, text


def _jsonl_rows(path: Path) -> Iterator[Lined]:
    for number, text in _lines(path):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}, line {number}: is no JSON object with columns as keys")
        yield number, values


def _tsv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, text in _lines(path):
        if text.strip(" \r\n"):
            yield number, text.rstrip("\r\n").split("\t")


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: is not valid CSV ({error})") from error
        if cells is None:
            return
        if cells:
            yield number, cells


def _header(path: Path, number: int, cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}, line {number}: a column name occurs twice: {names}")
    return names


def _named(
    path: Path,
    fields: Iterator[tuple[int, list[str]]],
    names: Sequence[str],
    left_out: Counter[str] | None,
) -> Iterator[Lined]:
    columns = list(names)
    for number, cells in fields:
        if not columns:
            columns = _header(path, number, cells)
        elif len(cells) == len(columns):
            yield number, dict(zip(columns, cells, strict=True))
        elif left_out is not None:
            left_out[WRONG_WIDTH] += 1
        elif names:
            raise ValueError(
                f"{path}, line {number}: has {len(cells)} columns but {len(names)} are needed: "
                f"{', '.join(names)}"
            )
        else:
            raise ValueError(
                f"{path}, line {number}: has {len(cells)} columns but the first line names "
                f"{len(columns)}; quote or escape the separator inside texts"
            )
