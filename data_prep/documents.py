"""Local files to raw documents of bounded size, by their format."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.config import LocalSource
from data_prep.files import DiskFull, is_disk_full
from data_prep.find import shown, text_format
from data_prep.readers import (
    BLOCK,
    DamagedInput,
    Lines,
    ReadLog,
    UnsupportedInput,
    decode,
    note_damage,
    open_binary,
)
from data_prep.sentences import cut_long

BLANK_LINE = "blank_line"
"""Stands for an empty line as document separator."""
MAX_DOCUMENT_CHARS = 8_000_000
_WAIT_CHARS = 500_000
"""So far behind the limit an empty line is waited for before a document is cut at any line."""
_EXTRACTOR_LINE = re.compile(r'<doc id="[^"]*".*>|</doc>')


def read_documents(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the raw documents of one file.

    Raises:
        DamagedInput: Damaged data or a row without text, unless the source says skip.
        ValueError: The file is whole but cannot be read here.
    """
    form = text_format(path)
    if form == ".txt":
        lines = Lines(path, source.on_error, log)
        if source.wikitext_headings:
            yield from wikitext_documents(single_lines(lines, log))
        else:
            yield from txt_documents(lines, source.document_separator, log)
        return
    rows = _jsonl_rows if form == ".jsonl" else parquet_rows
    texts = rows(path, source, log)
    yield from wikitext_documents(texts) if source.wikitext_headings else texts


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
        text = _field(row, source.text_field)
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


def _field(row: Any, name: str) -> Any:
    """Return a field; `meta.text` is `text` inside `meta` where none is called so."""
    for part in [name] if not isinstance(row, dict) or name in row else name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def single_lines(lines: Iterable[str], log: ReadLog) -> Iterator[str]:
    """Yield lines without carriage returns: a file may end its lines with CR or CR and LF."""
    for line in lines:
        if "\r" in line:
            log.counters["carriage_returns"] += line.count("\r")
            yield from line.removesuffix("\r").split("\r")
        else:
            yield line


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
            *whole, line = cut_long(line, MAX_DOCUMENT_CHARS)
            for piece in whole:
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


def parquet_rows(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the text of every row.

    Raises:
        DamagedInput: Damage, no such column or one without text, unless the source says skip.
        UnsupportedInput: The file is whole but encrypted or packed in a way unknown here.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0

    def damaged(reason: str, counter: str) -> None:
        note_damage(f"{shown(path)}, row {row}", reason, counter, source.on_error, log)

    with contextlib.ExitStack() as stack:
        try:
            table = pq.ParquetFile(_seekable(path, log, stack))
            _check_column(path, source.text_field, table.schema_arrow)
            for batch in table.iter_batches(batch_size=256, columns=[source.text_field]):
                for text in _texts(batch, source.text_field, log):
                    row += 1
                    if isinstance(text, str):
                        yield text
                    else:
                        damaged(f"column '{source.text_field}' is empty", "damaged_rows")
        except (pa.ArrowNotImplementedError, pa.ArrowMemoryError) as error:
            raise _unsupported(path, error) from error
        except (pa.ArrowException, EOFError, OSError, zlib.error) as error:
            if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno):
                raise
            if "encrypt" in str(error).lower():
                raise _unsupported(path, error) from error
            damaged(str(error), "damaged_rows" if row else "truncated_files")


def _seekable(path: Path, log: ReadLog, stack: contextlib.ExitStack) -> Any:
    """Return what pyarrow opens: the file, or its unpacked copy until the stack is closed.

    Raises:
        DiskFull: There is no room for the copy.
    """
    if path.suffix.lower() not in (".gz", ".zst"):
        return path
    copy = stack.enter_context(tempfile.TemporaryFile())
    try:
        shutil.copyfileobj(stack.enter_context(open_binary(path, log)), copy, BLOCK)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"{shown(path)} cannot be unpacked into {tempfile.gettempdir()}: "
            f"{error.strerror}. Make room there, or name another folder in TMPDIR."
        ) from error
    copy.seek(0)
    return copy


def _texts(batch: Any, text_field: str, log: ReadLog) -> list[Any]:
    """Return the values of a column, or of a field inside one of several fields."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(0)
    for part in text_field.split(".")[1:] if pa.types.is_struct(column.type) else ():
        column = pc.struct_field(column, part)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
        return [value if value is None else decode(value, log) for value in values]


def _check_column(path: Path, text_field: str, schema: Any) -> None:
    import pyarrow as pa

    fields = list(schema)
    name, *inner = [text_field] if text_field in schema.names else text_field.split(".")
    for part in (name, *inner):
        found = [item for item in fields if item.name == part]
        if len(found) != 1:
            names = ", ".join(item.name for item in fields)
            fault, mend = f"has no column '{text_field}'", "Set text_field."
            if found:
                fault, mend = f"has the column '{part}' {len(found)} times", "Rename one of them."
            raise DamagedInput(f"{shown(path)}: {fault}; it has {names}. {mend}")
        kind = found[0].type
        fields = list(kind) if pa.types.is_struct(kind) else []
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(value) not in ("string", "large_string", "string_view"):
        raise DamagedInput(
            f"{shown(path)}: column '{text_field}' holds {kind}, not text. Set text_field."
        )


def _unsupported(path: Path, error: Exception) -> UnsupportedInput:
    return UnsupportedInput(
        f"{shown(path)}: cannot be read by this pyarrow ({' '.join(str(error).split())}); write it "
        "again with a usual compression (snappy, zstd) and without encryption."
    )
