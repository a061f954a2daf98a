"""Files as streams of bytes and lines: plain, .gz or .zst.

Damage is never passed over in silence: it is an error with file and line, or counted. What is whole
but cannot be read here (no permission, a window or dictionary that is missing) is no damage: it is
an error in any case.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from data_prep.find import shown

MAX_LINE_BYTES = 256 << 20
BLOCK = 1 << 20
INVALID_UTF8 = "invalid_utf8"
_MAX_WINDOW = 1 << 31
_UTF_MARKS = (
    *((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32")),
    *((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")),
)

OnError = Literal["error", "skip"]


class DamagedInput(ValueError):
    """Input text is damaged at a named place."""


class UnsupportedInput(ValueError):
    """A file is whole, but cannot be read here."""


@dataclass
class ReadLog:
    """What reading has met so far."""

    counters: Counter[str] = field(default_factory=Counter)
    """Repairs, by name."""
    finished: int = 0
    """Progress made before the present file: bytes of files on disk, or rows."""
    raw: BinaryIO | None = None
    """The present file, before decompression."""
    name: str = ""
    """Name of the present file, under which what is wrong with it is counted."""

    @property
    def position(self) -> int:
        """How far reading is, in the unit of `finished`."""
        return self.finished + (0 if self.raw is None or self.raw.closed else self.raw.tell())


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


class Lines:
    """The lines of a file as text, with their number; only line feeds break lines."""

    def __init__(self, path: Path, on_error: OnError, log: ReadLog) -> None:
        """Remember what to read; `number` is the line last read, counted from 1."""
        self.path = path
        self.number = 0
        self._on_error = on_error
        self._log = log

    def __iter__(self) -> Iterator[str]:
        """Yield the lines without their line break.

        Raises:
            DamagedInput: UTF-16 or UTF-32, a line over 256 MiB, or damaged compressed data.
            OSError: The file cannot be read, whatever is in it.
        """
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_binary(self.path, self._log))
            stack.callback(cast(BinaryIO, self._log.raw).close)
            while True:
                try:
                    data = stream.readline(MAX_LINE_BYTES)
                except (EOFError, OSError, zlib.error) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    self.damaged(str(error), "truncated_files")
                    return
                if not data:
                    return
                self.number += 1
                self._check(data)
                yield decode(data.removesuffix(b"\n"), self._log)

    def _check(self, data: bytes) -> None:
        if self.number == 1 and (name := _wide_encoding(data)):
            raise DamagedInput(
                f"{shown(self.path)}: is {name}, only UTF-8 is read; convert it, for example with "
                f"`iconv -f {name} -t UTF-8`."
            )
        if len(data) >= MAX_LINE_BYTES:
            raise DamagedInput(
                f"{shown(self.path)}, line {self.number}: is longer than "
                f"{MAX_LINE_BYTES >> 20} MiB; break it into lines or documents."
            )

    def damaged(self, reason: str, counter: str) -> None:
        """Count the damage at the present line, or stop there."""
        place = f"{shown(self.path)}, line {max(self.number, 1)}"
        note_damage(place, reason, counter, self._on_error, self._log)


def note_damage(place: str, reason: str, counter: str, on_error: OnError, log: ReadLog) -> None:
    """Count a damage, or stop at it.

    Raises:
        DamagedInput: `on_error` is error.
    """
    if on_error == "error":
        raise DamagedInput(
            f"{place}: {' '.join(reason.split())}; repair the file, or set on_error: skip to leave "
            "out and count what is damaged."
        )
    log.counters[counter] += 1


def _wide_encoding(start: bytes) -> str:
    """Return the name of an encoding of two or four bytes per character, or an empty text."""
    for mark, name in _UTF_MARKS:
        if start.startswith(mark):
            return name
    start = start[:400]
    zeros = [start[place::4].count(0) * 16 > 3 * len(start) for place in range(4)]
    if len(start) < 8 or not any(zeros):
        return ""
    order = "LE" if zeros[3] else "BE"
    return f"UTF-32{order}" if sum(zeros) > 2 else f"UTF-16{order}" if sum(zeros) == 2 else ""


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
