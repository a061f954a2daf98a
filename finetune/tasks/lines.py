"""Lines of text files, plain or compressed, as streams.

Invariant: a line is UTF-8, or an error with file and line.
"""

import contextlib
import zlib
from collections.abc import Generator
from pathlib import Path

from data_prep.readers import ReadLog, open_binary

FORMATS = (".csv", ".tsv", ".jsonl")
COMPRESSIONS = ("", ".gz", ".zst")


def table_format(path: Path) -> str:
    """Return which of `FORMATS` a file has, by its name.

    Raises:
        ValueError: No such file, or another ending.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in FORMATS:
        raise ValueError(f"{path}: unknown format; allowed: {' '.join(FORMATS)}, also .gz or .zst")
    return suffixes[-1]


def file_lines(path: Path) -> Generator[tuple[int, str]]:
    """Yield (number from 1, line with its end); a file may also end all its lines in CR alone.

    Raises:
        ValueError: Not UTF-8, or damaged; names file and line.
    """
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
            if number == 1 and "\r" in text.rstrip("\r\n") and not text.endswith("\n"):
                yield from enumerate(text.replace("\r", "\n").splitlines(keepends=True), 1)
                return
            yield number, text
