"""What parts the columns of a user's own table, and whether its quotes are those of CSV.

Invariant: a file is looked at as a whole before one row of it is used, so all rows are read alike.
"""

import csv
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from finetune.tasks.lines import file_lines, table_format

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_NATIVE = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a line of a .csv or .tsv file is cut into cells."""

    separator: str = ","
    """One character."""
    has_quotes: bool = True
    """Whether double quotes hold a cell together, as in CSV; False: they are characters."""
    drops_empty: bool = False
    """Whether empty cells beyond the header are dropped, as spreadsheets leave them."""
    has_separator_line: bool = False
    """Whether the first line is `sep=` and the separator, as spreadsheets write it."""

    @property
    def name(self) -> str:
        """The separator in words."""
        return _SEPARATORS.get(self.separator, repr(self.separator))


PLAIN_TSV = Dialect(separator="\t", has_quotes=False)
"""GLUE's own files: no quoting at all."""


def find_dialect(path: str | Path) -> Dialect | None:
    """Return how a user's own file is written; None for .jsonl.

    The separator is that of a `sep=` line, else the one that cuts the header into most columns, of
    equals the one that belongs to the file's ending. Quotes count as in CSV, but in a .tsv file
    with tabs only where every quote fits: where the rows that CSV reads are all as wide as the
    header, and no tab-separated row of the right width would be joined to the next one.

    Raises:
        ValueError: No such file, unknown format, or damage; names file and line.
    """
    path = Path(path)
    ending = table_format(path)
    if ending == ".jsonl":
        return None
    with closing(file_lines(path)) as lines:
        first = next((text for _, text in lines if text.strip()), "")
    bare = first.strip(' "\r\n')
    if bare.casefold().startswith("sep=") and len(bare) == 5:
        return Dialect(separator=bare[-1], drops_empty=True, has_separator_line=True)
    native = _NATIVE[ending]
    candidates = [native, *(mark for mark in _SEPARATORS if mark != native)]
    separator = max(candidates, key=lambda mark: _width(first, mark))
    has_quotes = separator != "\t" or ending != ".tsv" or _quotes_fit(path)
    return Dialect(separator=separator, has_quotes=has_quotes, drops_empty=True)


def _width(line: str, separator: str) -> int:
    return len(next(csv.reader([line.rstrip("\r\n")], delimiter=separator), []))


def _quotes_fit(path: Path) -> bool:
    """Return whether a .tsv file with quotes reads well as CSV, and better than without quotes."""
    csv.field_size_limit(sys.maxsize)
    num_plain, is_plain, has_quotes, width = 0, True, False, 0
    with closing(file_lines(path)) as lines:
        for _, text in lines:
            if text.strip(" \r\n"):
                cells = text.rstrip("\r\n").split("\t")
                width = width or len(cells)
                num_plain += 1
                is_plain = is_plain and len(cells) == width
                has_quotes = has_quotes or any(cell.startswith('"') for cell in cells)
    if not has_quotes:
        return False
    num_quoted, width = 0, 0
    try:
        for _, cells in csv_cells(path, PLAIN_TSV.separator):
            width = width or len(cells)
            num_quoted += 1
            if len(cells) != width:
                return False
    except ValueError:
        return False
    joins_rows = num_quoted < num_plain
    return not (joins_rows and is_plain and width > 1)


def csv_cells(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every row that is not empty, quotes as in CSV.

    Raises:
        ValueError: Quotes that do not fit; names file and line.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    texts = (text for _, text in file_lines(path))
    reader = csv.reader(texts, delimiter=separator, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {number}: is not valid CSV ({error}); a text with quotes, line "
                "breaks or the separator must stand in double quotes, each quote inside twice"
            ) from error
        if cells is None:
            return
        if cells:
            yield number, cells
