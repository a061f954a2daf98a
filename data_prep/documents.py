"""Local files to raw documents of bounded size, by their format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.config import LocalSource
from data_prep.find import text_format
from data_prep.parquet_rows import parquet_rows
from data_prep.readers import Lines, ReadLog
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
