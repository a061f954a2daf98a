"""Lines and rows of text files that are read to their end or refused, with their numbers.

Invariant: nothing is passed over; every error names the file and the line.
"""

import csv
import itertools
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from data_prep.readers import split_at_returns

NumberedLine = tuple[int, str]


def numbered_lines(stream: BinaryIO, where: object) -> Iterator[NumberedLine]:
    """Yield (number from 1, line with its end); a file may also end all its lines in CR alone.

    Args:
        stream: UTF-8 text, with or without a byte order mark.
        where: Name of the file, for messages.

    Raises:
        ValueError: A line is not UTF-8, or the stream is damaged.
    """
    for number in itertools.count(1):
        try:
            data = stream.readline()
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}, line {number}: is not UTF-8 ({error}); convert the file with iconv"
            ) from error
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{where}, line {number}: cannot be read ({error})") from error
        if not data:
            return
        yield from enumerate(split_at_returns(text) if number == 1 else [text], number)


def quoted_rows(
    lines: Iterable[NumberedLine], where: object, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every row of CSV that is not empty.

    Args:
        lines: Those of the file.
        where: Name of the file, for messages.
        separator: One character.

    Raises:
        ValueError: A row is no CSV.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses texts over 128 KiB
    reader = csv.reader((text for _, text in lines), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{where}, line {line}: is not valid CSV ({error}); a text with quotes, line "
                "breaks or the separator must stand in double quotes, each quote inside twice"
            ) from error
        if cells is None:
            return
        if cells:
            yield line, cells


def plain_rows(lines: Iterable[NumberedLine], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every line that is not blank, quotes as characters."""
    for line, text in lines:
        if text.strip(" \r\n"):
            yield line, text.rstrip("\r\n").split(separator)
