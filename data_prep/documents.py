"""Local files to raw documents, by their format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.config import LocalSource
from data_prep.find import text_format
from data_prep.parquet_rows import parquet_rows
from data_prep.readers import Lines, ReadLog
from data_prep.text_rows import single_lines, txt_documents, wikitext_documents


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
