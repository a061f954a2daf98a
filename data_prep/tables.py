"""Texts of CSV and TSV files: which columns, and what becomes of a row that does not fit.

Invariant: a row is used whole, or is an error with file and line, or counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.config import LocalSource
from data_prep.readers import (
    MAX_LINE_BYTES,
    DamagedInput,
    ReadLog,
    read_lines,
    shown,
    single_lines,
    text_format,
)

DAMAGED_LINES = "lines_in_damaged_rows"
"""Counts the lines of damaged rows that extend over several."""
_USUAL = {".csv": ",", ".tsv": "\t"}
_PLAIN: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
_FOUND = ",;\t|"
_ADVICE = (
    "a text that holds the delimiter, a line break or a quote must stand in double quotes, each "
    "quote inside twice; where quotes are characters set source.quotes none, where something else "
    "parts the columns source.delimiter"
)


def table_texts(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the text of every row: the cells of its columns as paragraphs, empty ones left out.

    A cell in double quotes may hold delimiters, line breaks and doubled quotes, as in RFC 4180. A
    first line such as `sep=;` names the delimiter, as spreadsheets write it.

    Args:
        path: .csv or .tsv, also .gz or .zst.
        source: `text_field`, `delimiter`, `header` and `quotes` say how it is read.
        log: Stops at the first damaged row, or counts them.

    Raises:
        DamagedInput: A column is missing or named twice; or a row is damaged.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(path, log)
    mark = _delimiter(lines, path, source)
    width, places = 0, list[int]()
    for cells in _rows(lines, mark, has_quotes=source.quotes == "csv"):
        may_end = width or source.header  # in empty cells, which spreadsheets leave
        while may_end and len(cells) > max(1, width) and not cells[-1].strip():
            cells.pop()
        if not width:
            width, where = len(cells), f"{shown(path)}, line {lines.began}"
            places = _places(where, source.text_field, cells, mark, header=source.header)
            if source.header:
                continue
        if len(cells) == width:
            found = (cells[place] for place in places)
            yield "\n\n".join(text for text in found if text.strip())
        else:
            has = f"has {len(cells)} columns, parted by {mark!r}"
            lines.damaged(f"{has}, but the first row has {width}; {_ADVICE}")


class _Lines(Iterator[str]):
    """Lines with their ends, and the line that the present row began in."""

    def __init__(self, path: Path, log: ReadLog) -> None:
        self.texts = read_lines(path, log)
        self.began = self.number = 0
        self._log = log
        self._rest: Iterator[str] = self.texts

    def __next__(self) -> str:
        text = next(self._rest)
        self.number += 1
        if self.number == 1:
            text = text.removeprefix("\ufeff")
            if "\r" in text.removesuffix("\r"):  # lines end in CR, or some in CR and some in LF
                self._rest = single_lines(chain([text], self.texts), self._log)
                text = next(self._rest)
        return text + "\n"

    def put_back(self, text: str) -> None:
        """Give a line once more."""
        self.number -= 1
        self._rest = chain([text.removesuffix("\n")], self._rest)

    def damaged(self, reason: str) -> None:
        """Count a damaged row and its lines, or raise where it began."""
        kept, self._log.number = self._log.number, self.began
        self._log.damaged(reason, "damaged_rows")
        self._log.number = kept
        if self.number > self.began:
            self._log.counters[DAMAGED_LINES] += self.number - self.began + 1


def _rows(lines: _Lines, mark: str, *, has_quotes: bool) -> Iterator[list[str]]:
    """Yield the cells of every row that is not blank."""
    while True:
        lines.began = lines.number + 1
        try:  # a reader for every row: one that has failed cannot go on
            quoting = {} if has_quotes else _PLAIN
            row = csv.reader(lines, delimiter=mark, strict=True, **quoting)
            cells = next(row, None)
        except csv.Error as error:
            lines.damaged(f"is not valid CSV ({error}); {_ADVICE}")
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield cells


def _delimiter(lines: _Lines, path: Path, source: LocalSource) -> str:
    """Return what parts the columns: as given, as a `sep=` line says, or by header and ending."""
    given = source.delimiter.replace(r"\t", "\t")
    first = next((line for line in lines if line.strip()), "")
    named = first.rstrip("\r\n")
    if len(named) == 5 and named.lower().startswith("sep="):
        return given or named[4]
    if first:
        lines.put_back(first)
    usual = _USUAL[text_format(path)]
    if given or usual != "," or not source.header:
        return given or usual
    return max(_FOUND, key=lambda mark: len(next(csv.reader([named], delimiter=mark), [])))


def _places(
    where: str, text_field: str, cells: Sequence[str], mark: str, *, header: bool
) -> list[int]:
    """Return the places of the columns that `text_field` names: names, or numbers from 1."""
    names = [cell.strip() for cell in cells] if header else []
    columns = [text_field] if text_field in names else text_field.split(",")
    places = []
    for column in map(str.strip, columns):
        if names.count(column) == 1:
            places.append(names.index(column))
        elif column not in names and column.isdecimal() and 1 <= int(column) <= len(cells):
            places.append(int(column) - 1)
        else:
            fault = "more than one column" if column in names else "no column"
            known = f": {', '.join(names)}" if header else " without names (source.header false)"
            raise DamagedInput(
                f"{where}: has {fault} '{column}'; there are {len(cells)}, parted by {mark!r}"
                f"{known}. Set source.text_field to a name or a number from 1, or to several that "
                "are joined: title,body."
            )
    return places
