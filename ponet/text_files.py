"""Texts of a file, by the kind of file that its name says: lines, JSON lines, or a column.

Invariant: a file is read as what it is or refused by name; every error names file and line.
"""

import csv
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

from data_prep.readers import ReadLog, open_binary

STDIN = "-"
DEFAULT_FIELD = "text"
_LINES, _TABLES = (".txt", ".text", ""), (".jsonl", ".csv", ".tsv")
_COMPRESSIONS = (".gz", ".zst")


class TextFile:
    """The texts of one file, in order; iterating reads it from its beginning.

    Args:
        source: .txt or no ending: a text in every line, also an empty one. .jsonl: an object in
            every line; .csv, .tsv: a row, with the columns' names in the first one (a .tsv has no
            quotes); blank lines are left out. Each also .gz or .zst. "-": lines from stdin.
        field: Key or column of the text, where there are any; None: "text".

    Raises:
        ValueError: If there is no such file, its kind is not known, or it has no fields and one is
            named.
    """

    def __init__(self, source: str, *, field: str | None = None) -> None:
        """Look at the name alone."""
        self.source = source
        path = Path(source)
        if source != STDIN and (path.is_dir() or not path.exists()):
            what = "is a folder" if path.is_dir() else "does not exist"
            raise ValueError(f"{source} {what}; give a file of texts, or - for stdin")
        self.is_stream = source == STDIN or not path.is_file()
        """It can be read once only."""
        self._kind, self._compression = _kind_of(source)
        if field is not None and self._kind not in _TABLES:
            raise ValueError(
                f"--field {field} would do nothing: {source} holds a text in every line; fields "
                f"are in {', '.join(_TABLES)} files"
            )
        self.field = field or DEFAULT_FIELD

    def __iter__(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            ValueError: If a line is not UTF-8 or is no row with such a text, or the file is
                damaged; names the line.
        """
        readers = {".jsonl": self._objects, ".csv": self._csv, ".tsv": self._tsv}
        yield from readers.get(self._kind, self._plain)()

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of every line, with its end; only line feeds end lines."""
        with ExitStack() as stack:
            stream = self._open(stack)
            number = 0
            while True:
                number += 1
                try:
                    raw = stream.readline()
                except (EOFError, OSError, zlib.error) as error:
                    raise self._error(number, f"cannot be read ({error})") from error
                if not raw:
                    return
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise self._error(
                        number, f"is not UTF-8 ({error}); convert the file with iconv"
                    ) from error

    def _open(self, stack: ExitStack) -> BinaryIO:
        if self.source == STDIN:
            return sys.stdin.buffer
        log = ReadLog()
        stream = open_binary(Path(self.source), log)
        stack.callback(cast(BinaryIO, log.raw).close)
        return stream

    def _plain(self) -> Iterator[str]:
        for _, line in self._lines():
            yield line.rstrip("\r\n")

    def _objects(self) -> Iterator[str]:
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._error(number, f"is not valid JSON ({error})") from error
            if not isinstance(row, dict) or not isinstance(row.get(self.field), str):
                raise self._error(
                    number, f"has no text under {self.field!r}; name its key by --field"
                )
            yield row[self.field]

    def _csv(self) -> Iterator[str]:
        csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
        reader = csv.reader((line for _, line in self._lines()), strict=True)

        def rows() -> Iterator[tuple[int, list[str]]]:
            while True:
                number = reader.line_num + 1
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise self._error(number, f"is not valid CSV ({error})") from error
                if cells is None:
                    return
                if cells:
                    yield number, cells

        return self._column(rows(), "quote texts that hold commas")

    def _tsv(self) -> Iterator[str]:
        rows = (
            (number, line.rstrip("\r\n").split("\t"))
            for number, line in self._lines()
            if line.strip(" \r\n")
        )
        return self._column(rows, "a .tsv has no quotes; save texts with tabs or lines as .csv")

    def _column(self, rows: Iterator[tuple[int, list[str]]], advice: str) -> Iterator[str]:
        number, header = next(rows, (1, []))
        place = self._place(number, header)
        for number, cells in rows:
            if len(cells) != len(header):
                raise self._error(
                    number,
                    f"has {len(cells)} columns, but the first line names {len(header)}; {advice}",
                )
            text = cells[place]
            if self._kind == ".tsv" and text.startswith('"') and text.count('"') % 2:
                if len(header) == 1:  # more columns would not fit where a quoted line break is
                    raise self._error(number, f"begins with a quote that is left open; {advice}")
            yield text

    def _place(self, number: int, header: Sequence[str]) -> int:
        names = [name.strip() for name in header]
        if names.count(self.field) == 1:
            return names.index(self.field)
        if self.field in names:
            raise self._error(number, f"names the column {self.field!r} more than once")
        separator = "a comma" if self._kind == ".csv" else "a tab"
        raise self._error(
            number,
            f"names no column {self.field!r}; it has {', '.join(map(repr, names)) or 'none'}. "
            f"Name the text's by --field; columns are separated by {separator}",
        )

    def _error(self, number: int, what: str) -> ValueError:
        return ValueError(f"{self.source}:{number} {what}")


def _kind_of(source: str) -> tuple[str, str]:
    """Return ending and compression of a name, both in lower case."""
    path = Path(source)
    if source == STDIN or not path.is_file():
        return "", ""
    compression = path.suffix.lower() if path.suffix.lower() in _COMPRESSIONS else ""
    kind = (path.with_suffix("") if compression else path).suffix.lower()
    if kind not in (*_LINES, *_TABLES):
        allowed = ", ".join(name for name in (*_LINES, *_TABLES) if name)
        raise ValueError(
            f"{source}: {kind} files are not read; give {allowed} (also .gz or .zst), or lines by "
            "stdin: -"
        )
    return kind, compression
