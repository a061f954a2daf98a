"""Rows with text and label from CSV, TSV and JSONL files, as streams.

Invariant: a row is used as it stands or is an error with file and line; nothing is repaired or
dropped.
"""

import contextlib
import csv
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.readers import ReadLog, open_binary

FORMATS = (".csv", ".tsv", ".jsonl")


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
    """Yield the examples of one file in order.

    Args:
        path: .csv (quotes as usual), .tsv (tabs, quotes are plain characters; as GLUE's files) or
            .jsonl (an object per line), each also .gz or .zst. UTF-8, with column names in the
            first line of .csv and .tsv.
        columns: Names of the columns to read; others are ignored.

    Raises:
        ValueError: No such file, unknown format, damage, a missing column, or an empty or
            non-text value; names file and line.
    """
    path = Path(path)
    rows = _READERS[_table_format(path)](path)
    num_rows = 0
    for line, values in rows:
        num_rows += 1
        place = f"{path}, line {line}"
        yield TextRow(
            line,
            _text(values, columns.text, "text", place),
            _text(values, columns.text_pair, "text_pair", place) if columns.text_pair else "",
            _label(values, columns.label, place) if columns.label else "",
        )
    if not num_rows:
        raise ValueError(f"{path}: has no rows; one or more are needed")


def _table_format(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise ValueError(f"{path}: unknown format; allowed: {' '.join(FORMATS)}, also .gz or .zst")
    return suffixes[-1]


def _value(values: dict[str, Any], name: str, option: str, place: str) -> Any:
    if name not in values:
        raise ValueError(
            f"{place}: no column {name!r}; it has {', '.join(map(repr, values))}. "
            f"Name the right one with --{option}"
        )
    return values[name]


def _text(values: dict[str, Any], name: str, option: str, place: str) -> str:
    text = _value(values, name, option, place)
    if not isinstance(text, str):
        raise ValueError(f"{place}: {name!r} is {json.dumps(text)[:80]}; a text is needed")
    if not text.strip():
        raise ValueError(f"{place}: {name!r} is empty; write a text or take the row out")
    return _encodable(text, name, place)


def _label(values: dict[str, Any], name: str, place: str) -> str:
    label = _value(values, name, "label", place)
    if isinstance(label, bool):
        label = "true" if label else "false"
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(
            f"{place}: label {name!r} is {json.dumps(label)[:80]}; a non-empty text or a whole "
            "number is needed"
        )
    return _encodable(str(label).strip(), name, place)


def _encodable(text: str, name: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: {name!r} holds half a surrogate pair; repair it") from error
    return text


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


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _header_rows(fields: Any) -> Any:
    def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        header: list[str] = []
        for number, cells in fields(path):
            if not header:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    raise ValueError(f"{path}, line {number}: a column name occurs twice: {header}")
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {number}: has {len(cells)} columns but the first line names "
                    f"{len(header)}; quote or escape the separator inside texts"
                )
            yield number, dict(zip(header, cells, strict=True))

    return rows


_READERS = {
    ".csv": _header_rows(_csv_fields),
    ".tsv": _header_rows(_tsv_fields),
    ".jsonl": _jsonl_rows,
}
