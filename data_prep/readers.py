"""Local files to raw documents: .txt, .jsonl and .parquet, plain, .gz or .zst, read as streams.

Damage is never passed over in silence: it is an error with file and line, or counted.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from data_prep.config import LocalSource
from data_prep.files import DiskFull, is_disk_full

FORMATS = (".txt", ".jsonl", ".parquet")
COMPRESSIONS = ("", ".gz", ".zst")
MAX_LINE_BYTES = 256 << 20
MAX_DOCUMENT_CHARS = 8_000_000
_BLOCK = 1 << 20

OnError = Literal["error", "skip"]


class DamagedInput(ValueError):
    """Input text is damaged at a named place."""


def text_format(path: str | Path) -> str:
    """Return `.txt`, `.jsonl` or `.parquet`, or an empty string for other files."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def find_files(path: str) -> list[Path]:
    """Return the files of a file name, folder or glob, sorted, each once.

    Raises:
        ValueError: Nothing there, no file of a known format, or a named file of another format.
    """
    allowed = f"{' '.join(FORMATS)}, each also .gz or .zst"
    root = Path(path).expanduser()
    if root.is_file():
        if not text_format(root):
            raise ValueError(f"source path {path}: unknown format; allowed: {allowed}.")
        return [root]
    if root.is_dir():
        candidates: Iterable[Path] = root.rglob("*")
    else:
        candidates = (Path(name) for name in glob.glob(str(root), recursive=True))
    files = sorted({item for item in candidates if item.is_file() and text_format(item)})
    if not files:
        raise ValueError(
            f"source path {path}: no such file, or no text file found there; "
            f"give a file, a folder or a glob of {allowed}."
        )
    return files


class ReadLog:
    """What reading has met so far: counted repairs, and how far the present file is read."""

    def __init__(self) -> None:
        """Start with empty counters and no file."""
        self.counters: Counter[str] = Counter()
        self.raw: BinaryIO | None = None

    @property
    def position(self) -> int:
        """Bytes of the present file on disk that are read, before decompression."""
        return 0 if self.raw is None or self.raw.closed else self.raw.tell()


class _ZstdStream(io.RawIOBase):
    """Decompressed zstd frames; unlike the library's reader it refuses a truncated frame."""

    def __init__(self, source: BinaryIO) -> None:
        import zstandard

        self._source = source
        self._context = zstandard.ZstdDecompressor()
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._pending = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._out:
            if not self._more():
                return 0
        count = min(len(buffer), len(self._out))
        buffer[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def _more(self) -> bool:
        data = self._pending or self._source.read(1 << 17)
        self._pending = b""
        if not data:
            if self._frame is not None:
                raise EOFError("the compressed file ends in the middle of its data")
            return False
        if self._frame is None:
            self._frame = self._context.decompressobj()
        try:
            self._out = memoryview(self._frame.decompress(data))
        except self._error as error:
            raise OSError(f"the compressed data is damaged ({error})") from error
        if self._frame.eof:
            self._pending = self._frame.unused_data
            self._frame = None
        return True


def open_binary(path: Path, log: ReadLog) -> BinaryIO:
    """Return a stream of the decompressed bytes of a file."""
    raw: BinaryIO = open(path, "rb")
    log.raw = raw
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdStream(raw), _BLOCK))
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
            DamagedInput: UTF-16, a line over 256 MiB, or damaged compressed data.
        """
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_binary(self.path, self._log))
            stack.callback(cast(BinaryIO, self._log.raw).close)
            while True:
                try:
                    data = stream.readline(MAX_LINE_BYTES)
                except (EOFError, OSError, zlib.error) as error:
                    self.damaged(str(error), "truncated_files")
                    return
                if not data:
                    return
                self.number += 1
                self._check(data)
                yield decode(data.removesuffix(b"\n"), self._log.counters)

    def _check(self, data: bytes) -> None:
        if self.number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DamagedInput(
                f"{self.path}: is UTF-16, only UTF-8 is read; convert it, for example with "
                "`iconv -f UTF-16 -t UTF-8`."
            )
        if len(data) >= MAX_LINE_BYTES:
            raise DamagedInput(
                f"{self.path}, line {self.number}: is longer than {MAX_LINE_BYTES >> 20} MiB; "
                "break it into lines or documents."
            )

    def damaged(self, reason: str, counter: str) -> None:
        """Count the damage at the present line, or stop there."""
        if self._on_error == "error":
            raise DamagedInput(
                f"{self.path}, line {max(self.number, 1)}: {reason}; repair the file, or set "
                "on_error: skip to leave out and count what is damaged."
            )
        self._log.counters[counter] += 1


def decode(data: bytes, counters: Counter[str]) -> str:
    """Return UTF-8 bytes as text; invalid bytes become U+FFFD and are counted."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", errors="replace")
        counters["invalid_utf8"] += text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
        return text


def read_documents(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the raw documents of one file.

    Raises:
        DamagedInput: Damaged data or a row without text, unless the source says skip.
    """
    form = text_format(path)
    if form == ".txt":
        lines = Lines(path, source.on_error, log)
        if source.wikitext_headings:
            yield from wikitext_documents(lines)
        else:
            yield from _txt_documents(lines, source.document_separator, log)
        return
    rows = _jsonl_rows if form == ".jsonl" else _parquet_rows
    texts = rows(path, source, log)
    yield from wikitext_documents(texts) if source.wikitext_headings else texts


def _txt_documents(lines: Iterable[str], separator: str, log: ReadLog) -> Iterator[str]:
    collected: list[str] = []
    size = 0
    for line in lines:
        if separator and line.strip() == separator:
            yield "\n".join(collected)
            collected, size = [], 0
            continue
        if size > MAX_DOCUMENT_CHARS and not line.strip():
            log.counters["documents_cut"] += 1
            yield "\n".join(collected)
            collected, size = [], 0
        collected.append(line)
        size += len(line) + 1
    if collected or not separator:
        yield "\n".join(collected)


def wikitext_documents(rows: Iterable[str]) -> Iterator[str]:
    """Yield WikiText articles: a row ` = Title = ` starts one, every other row is a paragraph.

    The marks ` @-@ `, ` @,@ ` and ` @.@ ` become the characters they stand for, and the equals
    signs around headings are removed.
    """
    article: list[str] = []
    for row in rows:
        line = row.strip()
        if not line:
            continue
        for mark in "-,.":
            line = line.replace(f" @{mark}@ ", mark)
        title = line.strip("= ")
        is_heading = line.startswith("= ") and line.endswith(" =") and bool(title)
        if is_heading and not line.startswith("= ="):
            if article:
                yield "\n\n".join(article)
            article = []
        article.append(title if is_heading else line)
    if article:
        yield "\n\n".join(article)


def _jsonl_rows(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    lines = Lines(path, source.on_error, log)
    for line in lines:
        if not line.strip("\ufeff \t\r"):
            continue
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            lines.damaged(f"is not a JSON value ({error})", "damaged_rows")
            continue
        text = row.get(source.text_field) if isinstance(row, dict) else None
        if isinstance(text, str):
            yield text
        else:
            lines.damaged(_no_text(row, source.text_field), "damaged_rows")


def _no_text(row: Any, text_field: str) -> str:
    if not isinstance(row, dict):
        return f"is a JSON {type(row).__name__}, not an object with a field '{text_field}'"
    if text_field in row:
        return f"field '{text_field}' is {type(row[text_field]).__name__}, not a text"
    return f"has no field '{text_field}'; it has {', '.join(map(str, row)) or 'none'}"


def _parquet_rows(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        handle: Any = path
        if path.suffix.lower() in (".gz", ".zst"):
            handle = stack.enter_context(tempfile.TemporaryFile())
            try:
                shutil.copyfileobj(stack.enter_context(open_binary(path, log)), handle, _BLOCK)
            except (EOFError, OSError, zlib.error) as error:
                if isinstance(error, OSError) and is_disk_full(error):
                    raise DiskFull(
                        f"{path} cannot be unpacked into {tempfile.gettempdir()}: "
                        f"{error.strerror}. Make room there, or name another folder in TMPDIR."
                    ) from error
                _parquet_damage(path, 0, str(error), source.on_error, log)
                return
            handle.seek(0)
        row = 0
        try:
            table = pq.ParquetFile(handle)
            _check_column(path, source.text_field, table.schema_arrow)
            for batch in table.iter_batches(batch_size=256, columns=[source.text_field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if isinstance(text, str):
                        yield text
                    else:
                        reason = f"column '{source.text_field}' is empty"
                        _parquet_damage(path, row, reason, source.on_error, log)
        except (pa.ArrowException, OSError) as error:
            _parquet_damage(path, row, str(error), source.on_error, log)


def _check_column(path: Path, text_field: str, schema: Any) -> None:
    if text_field not in schema.names:
        raise DamagedInput(
            f"{path}: has no column '{text_field}'; it has {', '.join(schema.names)}. "
            "Set text_field."
        )
    kind = str(schema.field(text_field).type)
    if kind not in ("string", "large_string", "string_view"):
        raise DamagedInput(f"{path}: column '{text_field}' holds {kind}, not text. Set text_field.")


def _parquet_damage(path: Path, row: int, reason: str, on_error: OnError, log: ReadLog) -> None:
    if on_error == "error":
        raise DamagedInput(
            f"{path}, row {row}: {' '.join(reason.split())}; repair the file, or set "
            "on_error: skip to leave out and count what is damaged."
        )
    log.counters["damaged_rows" if row else "truncated_files"] += 1
