"""Text files, plain, .gz or .zst: which ones a path names, their bytes, lines and documents.

Nothing is passed over in silence: files that are left out are counted, damage is an error with
file and line, or counted. What is whole but cannot be read here (no permission, a window or
dictionary that is missing) is no damage: it is an error in any case.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import gzip
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from data_prep.command import counted
from data_prep.sentences import cut_long

FORMATS = (".txt", ".jsonl", ".parquet", ".csv", ".tsv")
HIDDEN = "hidden or of the system"
INVALID_UTF8 = "invalid_utf8"
WIDE_FILES = "files_of_wide_encoding"
MAX_LINE_BYTES = 256 << 20
BLOCK = 1 << 20
BLANK_LINE = "blank_line"
"""Stands for an empty line as document separator."""
MAX_DOCUMENT_CHARS = 8_000_000
_WAIT_CHARS = 500_000
"""So far behind the limit an empty line is waited for before a document is cut at any line."""
_EXTRACTOR_LINE = re.compile(r'<doc id="[^"]*".*>|</doc>')
_MAX_WINDOW = 1 << 31
_SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}
_UTF_MARKS = {
    **{b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32"},
    **{b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"},
}

OnError = Literal["error", "skip"]


def text_format(path: str | Path) -> str:
    """Return the ending of `FORMATS` that a file has, or an empty string for other files."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes[-1:] in ([".gz"], [".zst"]):
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def shown(path: str | Path) -> str:
    r"""Return a path for people: bytes of a name that are no UTF-8 as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_files(path: str) -> tuple[list[Path], Counter[str]]:
    """Return the text files of a file name, folder or glob, and how many others are left out.

    The files are the same for a folder and a glob, sorted; those that are left out are counted by
    ending or reason. Links are followed; one that leads back to a folder above it is not, and a
    file that several names lead to is read once, under the first.
    """
    allowed = f"{' '.join(FORMATS)}, each also .gz or .zst"
    root = Path(path).expanduser()
    if root.is_file():
        if not text_format(root):
            raise ValueError(f"source path {shown(path)}: unknown format; allowed: {allowed}.")
        return [root], Counter()
    hidden: set[str] = set()
    if root.is_dir():
        found = _expand(root, ["**", "*"], hidden)
    else:
        start, parts = (Path(root.anchor), root.parts[1:]) if root.anchor else (Path(), root.parts)
        found = _expand(start, [*parts, "*"] if parts[-1:] == ("**",) else list(parts), hidden)
    files: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for item in sorted({item for item in found if not item.is_dir()}):
        if not item.is_file():
            left_out["broken link" if item.is_symlink() else "no ordinary file"] += 1
        elif text_format(item):
            files.setdefault(os.path.realpath(item), item)
        else:
            left_out[shown(item.suffix.lower()) or "without ending"] += 1
    left_out[HIDDEN] += len(hidden)
    if not files:
        rest = f" Left out there: {left_out_words(left_out)}." if +left_out else ""
        raise ValueError(
            f"source path {shown(path)}: no such file, or no text file found there; "
            f"give a file, a folder or a glob of {allowed}.{rest}"
        )
    return list(files.values()), +left_out


def left_out_words(left_out: Counter[str]) -> str:
    """Return such as `5 files (3 .csv, 2 hidden or of the system)`."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted((+left_out).items()))
    return f"{counted(left_out.total(), 'file(s)')} ({kinds})"


def _expand(
    folder: Path, parts: list[str], hidden: set[str], above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield what matches a pattern below a folder; `above` holds the folders that `**` passed."""
    if not parts:
        yield folder
        return
    first, *rest = parts
    if first != "**" and (not glob.has_magic(first) or os.path.lexists(folder / first)):
        if os.path.lexists(folder / first):
            yield from _expand(folder / first, rest, hidden)
        return
    if not folder.is_dir():
        return
    if first == "**":
        above |= {os.path.realpath(folder)}
        yield from _expand(folder, rest, hidden)
    for name in sorted(os.listdir(folder)):
        item = folder / name
        if first != "**" and not fnmatch.fnmatch(name, first):
            continue
        if name.lower() in _SYSTEM or (name.startswith(".") and not first.startswith(".")):
            if first != "**" or item.is_dir():
                hidden.add(str(item))
        elif first != "**":
            yield from _expand(item, rest, hidden)
        elif item.is_dir() and os.path.realpath(item) not in above:
            yield from _expand(item, parts, hidden, above)


class DamagedInput(ValueError):
    """Input text is damaged at a named place."""


class WideEncoding(DamagedInput):
    """A file is UTF-16 or UTF-32; known before its first line is read."""


class UnsupportedInput(ValueError):
    """A file is whole, but cannot be read here."""


@dataclass
class ReadLog:
    """What reading has met so far, and where it is."""

    on_error: OnError = "error"
    """Stop at what is damaged, or count it."""
    counters: Counter[str] = field(default_factory=Counter)
    """Repairs, by name."""
    finished: int = 0
    """Progress made before the present file: bytes of files on disk, or rows."""
    raw: BinaryIO | None = None
    """The present file, before decompression."""
    name: str = ""
    """Name of the present file, under which what is wrong with it is counted."""
    place: str = ""
    """The present file and what it consists of, such as `a.txt, line`, for messages."""
    number: int = 0
    """Number of the present line or row, from 1."""

    @property
    def position(self) -> int:
        """How far reading is, in the unit of `finished`."""
        return self.finished + (0 if self.raw is None or self.raw.closed else self.raw.tell())

    def damaged(self, reason: str, counter: str) -> None:
        """Count a damage at the present place, or raise `DamagedInput` there."""
        if self.on_error == "error":
            raise DamagedInput(
                f"{self.place} {self.number}: {' '.join(reason.split())}; repair the file, or set "
                "on_error: skip to leave out and count what is damaged."
            )
        self.counters[counter] += 1


class _Blocks(io.RawIOBase):
    """A stream of blocks of bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block = memoryview(block)
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count


def _zstd_blocks(source: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield decompressed data; unlike the library's reader this refuses a truncated frame."""
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    frame, rest = None, b""
    while data := rest or source.read(1 << 17):
        frame = frame or context.decompressobj()
        try:
            yield frame.decompress(data)
        except zstandard.ZstdError as error:
            raise _zstd_fault(name, str(error), data) from error
        rest = frame.unused_data if frame.eof else b""
        frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed file ends in the middle of its data")


def _zstd_fault(name: str, reason: str, data: bytes) -> Exception:
    """Return what a message of the library means: damage, or a frame that is not for here."""
    lowered = reason.lower()
    if "dictionary" in lowered:
        return UnsupportedInput(
            f"{name}: was compressed with a dictionary, which is not at hand; unpack it "
            "with `zstd -d -D DICTIONARY` and pack it without one."
        )
    if "too much memory" in lowered or "allocation" in lowered:
        window = 1 << 10 + (data[5] >> 3)  # RFC 8878, 3.1.1.1.2
        size = f"a window of {window >> 20:,} MiB" if not data[4] & 0x20 else "its whole size"
        return UnsupportedInput(
            f"{name}: needs {size} in memory to be unpacked, which is more than "
            f"{_MAX_WINDOW >> 20:,} MiB or than there is ({reason}); pack it again: `zstd -d "
            "--ultra --long=31 -c FILE | zstd -o OTHER.zst`."
        )
    return OSError(f"the compressed data is damaged ({reason})")


def open_binary(path: Path, log: ReadLog) -> BinaryIO:
    """Return a stream of the decompressed bytes of a file."""
    raw: BinaryIO = open(path, "rb")
    log.raw = raw
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Blocks(_zstd_blocks(raw, shown(path))), BLOCK))
    return raw


def read_lines(path: Path, log: ReadLog) -> Iterator[str]:
    """Yield the lines of a file as text, without their line feed; nothing else breaks lines.

    Raises:
        WideEncoding: UTF-16 or UTF-32.
        DamagedInput: A line over 256 MiB, or damaged compressed data.
        OSError: The file cannot be read, whatever is in it.
    """
    log.place, log.number = f"{shown(path)}, line", 1
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open_binary(path, log))
        stack.callback(cast(BinaryIO, log.raw).close)
        while True:
            try:
                data = stream.readline(MAX_LINE_BYTES)
            except (EOFError, OSError, zlib.error) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                log.damaged(str(error), "truncated_files")
                return
            if not data:
                return
            if log.number == 1 and (name := _wide_encoding(data)):
                raise WideEncoding(
                    f"{shown(path)}: is {name}, only UTF-8 is read; convert it, for example with "
                    f"`iconv -f {name} -t UTF-8`, or set on_error: skip to leave it out."
                )
            if len(data) >= MAX_LINE_BYTES:
                raise DamagedInput(
                    f"{log.place} {log.number}: is longer than {MAX_LINE_BYTES >> 20} MiB; break "
                    "it into lines or documents."
                )
            yield decode(data.removesuffix(b"\n"), log)
            log.number += 1


def _wide_encoding(start: bytes) -> str:
    """Return the name of an encoding of two or four bytes per character, or an empty text."""
    for mark, name in _UTF_MARKS.items():
        if start.startswith(mark):
            return name
    start = start[:400]
    zeros = [start[place::4].count(0) * 16 > 3 * len(start) for place in range(4)]
    if len(start) < 8 or sum(zeros) < 2:
        return ""
    return f"UTF-{32 if sum(zeros) > 2 else 16}{'LE' if zeros[3] else 'BE'}"


def decode(data: bytes, log: ReadLog) -> str:
    """Return UTF-8 bytes as text; invalid ones become U+FFFD and are counted, also by file."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
        count = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
        log.counters[INVALID_UTF8] += count
        if log.name:
            log.counters[f"{INVALID_UTF8}: {log.name}"] += count
        return text


def single_lines(lines: Iterable[str], log: ReadLog) -> Iterator[str]:
    """Yield lines without carriage returns: a file may end its lines with CR or CR and LF."""
    for line in lines:
        if "\r" in line:
            log.counters["carriage_returns"] += line.count("\r")
            yield from line.removesuffix("\r").split("\r")
        else:
            yield line


def split_at_returns(first: str) -> list[str]:
    """Return the first line of a file, or all of them, each with LF, where CR alone ends them.

    Args:
        first: All up to the first LF, with it, or the whole file.
    """
    if first.endswith("\n") or "\r" not in first.rstrip("\r"):
        return [first]
    return [f"{line}\n" for line in first.removesuffix("\r").split("\r")]


def txt_documents(lines: Iterable[str], separator: str, log: ReadLog) -> Iterator[str]:
    """Yield what stands between separator lines, at most some 8.5 million characters at once.

    Args:
        lines: The lines of one file.
        separator: The line between documents, `blank_line`, or empty: the file is one document.
        log: Counts separators, documents that were cut, and lines of WikiExtractor.
    """
    wanted = "" if separator == BLANK_LINE else separator.strip()
    collected: list[str] = []
    size = 0
    for whole_line in single_lines(lines, log):
        line = whole_line
        bare = line.lstrip("\ufeff").strip()
        if bare.startswith("<") and _EXTRACTOR_LINE.fullmatch(bare):
            log.counters["wikiextractor_lines"] += 1
            if wanted == "</doc>" and bare != wanted:
                continue
        if separator and bare == wanted:
            log.counters["separator_lines"] += 1
            if collected or wanted:
                yield "\n".join(collected)
            collected, size = [], 0
            continue
        if size > MAX_DOCUMENT_CHARS and (not bare or size > MAX_DOCUMENT_CHARS + _WAIT_CHARS):
            log.counters["documents_cut"] += 1
            yield "\n".join(collected)
            collected, size = [], 0
        if len(line) > MAX_DOCUMENT_CHARS:
            *pieces, line = cut_long(line, MAX_DOCUMENT_CHARS)
            for piece in pieces:
                log.counters["documents_cut"] += 1
                yield "\n".join([*collected, piece])
                collected, size = [], 0
        collected.append(line)
        size += len(line) + 1
    if collected or not separator:
        yield "\n".join(collected)


def wikitext_documents(rows: Iterable[str]) -> Iterator[str]:
    """Yield WikiText articles: a row ` = Title = ` starts one, every other row is a paragraph.

    The marks ` @-@ `, ` @,@ ` and ` @.@ ` become the characters they stand for, and the equals
    signs around headings are removed. What has no headings is cut at a row.
    """
    article: list[str] = []
    size = 0
    for row in rows:
        line = row.strip()
        if not line:
            continue
        for mark in "-,.":
            line = line.replace(f" @{mark}@ ", mark)
        title = line.strip("= ")
        is_heading = line.startswith("= ") and line.endswith(" =") and bool(title)
        if (is_heading and not line.startswith("= =")) or size > MAX_DOCUMENT_CHARS:
            if article:
                yield "\n\n".join(article)
            article, size = [], 0
        article.append(title if is_heading else line)
        size += len(article[-1])
    if article:
        yield "\n\n".join(article)
