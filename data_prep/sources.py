"""Sources to chunks of raw documents: units of work whose borders depend on the input alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from data_prep.config import HubSource, LocalSource, PythonDocsSource, Source
from data_prep.manifest import digest_of, file_sha256
from data_prep.parquet import parquet_rows
from data_prep.python_docs import module_files, read_module
from data_prep.readers import (
    WIDE_FILES,
    ReadLog,
    WideEncoding,
    find_files,
    read_lines,
    shown,
    single_lines,
    text_format,
    txt_documents,
    wikitext_documents,
)
from data_prep.table_rows import reached
from data_prep.tables import table_texts

MOST_DOCUMENTS = 100_000
"""In one chunk."""
_FORMATS_OF_DATASETS = {"arrow", "csv", "json", "pandas", "parquet", "text", "xml"}
"""What `datasets` takes for a format of `data_files`, and not for a name on the Hub."""
LEFT_OUT = "left_out: "
"""What the counters of files that are not read begin with."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive documents of one source, as texts or as modules still to be parsed."""

    documents: list[str] = field(default_factory=list)
    """Raw texts."""
    code: list[str] = field(default_factory=list)
    """Source texts of Python modules, one document each."""
    counters: dict[str, int] = field(default_factory=dict)
    """Repairs made while reading these documents."""
    advance: int = 0
    """Progress: bytes of input, rows or modules read for this chunk."""


def describe(source: Source) -> dict[str, Any]:
    """Return what identifies the content of a source, for the manifest and its digest.

    Local files are hashed, also those that `datasets` reads, and so are modules; a data set on the
    Hub is known by its revision.
    """
    if isinstance(source, HubSource):
        known = {key: getattr(source, key) for key in ("kind", "id", "name", "revision", "split")}
        known["data_files"] = list(source.data_files)
        if _is_local(source):
            known["files"] = _records(_hub_files(source))
        return known
    if isinstance(source, LocalSource):
        return {"kind": source.kind, "files": _records(_named_files(source))}
    groups = list(module_files(source, Counter()))
    files = [path for group in groups for path in group]
    if not files:
        raise ValueError(
            f"source python_docs: none of the packages {', '.join(source.packages)} is installed."
        )
    sha = hashlib.sha256()
    for path in files:
        sha.update(path.read_bytes())
    return {
        "kind": source.kind,
        "packages": list(source.packages),
        "python": ".".join(map(str, sys.version_info[:3])),
        "modules": len(files),
        "sha256": digest_of([sha.hexdigest(), [len(group) for group in groups]]),
    }


def _records(files: Iterable[tuple[str, Path]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "size": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in files
    ]


def _is_local(source: HubSource) -> bool:
    """Return whether a source names files here: a folder, or a format with its files."""
    return source.id in _FORMATS_OF_DATASETS or Path(source.id).is_dir()


def _hub_files(source: HubSource) -> list[tuple[str, Path]]:
    """Return the local files that `datasets` finds for a source, with their names in its folder.

    One that lies elsewhere is known by its own name: where files lie is no part of the content.
    """
    from datasets import load_dataset_builder

    folder = Path(source.id).resolve()
    listed = (_opened(source, load_dataset_builder).config.data_files or {}).values()
    names = sorted({str(name).rpartition("::")[2] for part in listed for name in part})
    paths = [Path(name).resolve() for name in names if "://" not in name]
    return [
        (shown(path.relative_to(folder).as_posix() if folder in path.parents else path.name), path)
        for path in paths
    ]


def count_left_out(sources: Sequence[Source]) -> dict[str, int]:
    """Return how many files of the named folders and globs are not read, by ending or reason."""
    counts: Counter[str] = Counter()
    for source in sources:
        if isinstance(source, LocalSource):
            counts.update(find_files(source.path)[1])
    return {LEFT_OUT + kind: count for kind, count in counts.items()}


def _named_files(source: LocalSource) -> list[tuple[str, Path]]:
    """Return the files of a source with their names below its folder."""
    root = Path(source.path).expanduser()
    files = find_files(source.path)[0]
    if root.is_dir():
        return [(shown(path.relative_to(root).as_posix()), path) for path in files]
    return [(shown(path.name), path) for path in files]


def progress_total(described: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return how much there is to read in a described source, if it is known, and its unit."""
    if described["kind"] == "local":
        return sum(record["size"] for record in described["files"]), "B"
    return described.get("modules"), " modules" if "modules" in described else " rows"


def iterate_chunks(source: Source, max_chars: int) -> Iterator[Chunk]:
    """Yield the chunks of a source in order.

    Args:
        source: What to read.
        max_chars: Target size of a chunk in characters; one document is never cut for it.
    """
    if isinstance(source, PythonDocsSource):
        return _module_chunks(source, max_chars)
    log = ReadLog(source.on_error)
    if isinstance(source, LocalSource):
        return _chunks(_local_texts(source, log), log, max_chars)
    return _chunks(hub_texts(source, log), log, max_chars)


def _chunks(texts: Iterator[str], log: ReadLog, max_chars: int) -> Iterator[Chunk]:
    reported, is_last = 0, False
    while not is_last:
        documents: list[str] = []
        chars = 0
        for text in texts:
            documents.append(text)
            chars += len(text)
            if chars >= max_chars or len(documents) >= MOST_DOCUMENTS:
                break
        else:
            is_last = True
        before, reported = reported, max(reported, log.position)
        counters = dict(log.counters)
        log.counters.clear()
        yield Chunk(documents=documents, counters=counters, advance=reported - before)


def _local_texts(source: LocalSource, log: ReadLog) -> Iterator[str]:
    for log.name, path in _named_files(source):
        yield from read_documents(path, source, log)
        log.finished += path.stat().st_size


def _module_chunks(source: PythonDocsSource, max_bytes: int) -> Iterator[Chunk]:
    missing: Counter[str] = Counter()
    for group in module_files(source, missing):
        code: list[str] = []
        counters: Counter[str] = Counter()
        size = 0
        for path in group:
            code.append(read_module(path, counters))
            size += path.stat().st_size
            if size >= max_bytes or path is group[-1]:
                yield Chunk(code=code, counters=dict(counters), advance=len(code))
                code, counters, size = [], Counter(), 0
    yield Chunk(counters=dict(missing))


def load_rows(source: HubSource) -> Any:
    """Return the data set, pinned to its revision."""
    import datasets

    split, streaming = source.split, source.streaming
    rows = _opened(source, datasets.load_dataset, split=split, streaming=streaming)
    columns = rows.column_names
    if columns is not None and source.text_field not in columns:
        raise ValueError(
            f"source hub {source.id}: has no column '{source.text_field}'; it has "
            f"{', '.join(columns)}. Set text_field."
        )
    return rows


def _opened(source: HubSource, function: Callable[..., Any], **options: Any) -> Any:
    """Return what a function of `datasets` makes of a source; its errors are one line."""
    try:
        return function(
            source.id,
            source.name or None,
            revision=source.revision,
            data_files=list(source.data_files) or None,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"source hub {source.id} (name '{source.name}', revision {source.revision}, split "
            f"{source.split}): cannot be loaded: {reason} Check the id, name and revision and the "
            "network; data sets made of scripts need their parquet revision refs/convert/parquet."
        ) from error


def hub_texts(source: HubSource, log: ReadLog) -> Iterator[str]:
    """Yield documents: single rows, so many rows together, or WikiText articles."""
    texts = _hub_rows(source, log)
    if source.wikitext_headings:
        yield from wikitext_documents(texts)
    while group := list(islice(texts, source.rows_per_document)):
        yield "\n\n".join(group)


def _hub_rows(source: HubSource, log: ReadLog) -> Iterator[str]:
    log.place = f"source hub {source.id}, row"
    for batch in load_rows(source).select_columns([source.text_field]).iter(batch_size=256):
        for text in batch[source.text_field]:
            log.finished = log.number = log.number + 1
            if isinstance(text, str):
                yield text
            else:
                kind = type(text).__name__
                log.damaged(f"'{source.text_field}' is {kind}, not a text", "damaged_rows")


def read_documents(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    """Yield the raw documents of one file, of bounded size; of UTF-16 none if damage is skipped."""
    try:
        yield from _documents_of(path, source, log)
    except WideEncoding:
        if log.on_error == "error":
            raise
        log.counters[WIDE_FILES] += 1
        if log.name:
            log.counters[f"{WIDE_FILES}: {log.name}"] += 1


def _documents_of(path: Path, source: LocalSource, log: ReadLog) -> Iterator[str]:
    form = text_format(path)
    if form == ".txt" and not source.wikitext_headings:
        yield from txt_documents(read_lines(path, log), source.document_separator, log)
        return
    if form in (".csv", ".tsv"):
        texts = table_texts(path, source, log)
    elif form == ".txt":
        texts = single_lines(read_lines(path, log), log)
    else:
        texts = (_jsonl_rows if form == ".jsonl" else parquet_rows)(path, source.text_field, log)
    yield from wikitext_documents(texts) if source.wikitext_headings else texts


def _jsonl_rows(path: Path, text_field: str, log: ReadLog) -> Iterator[str]:
    for line in _json_lines(path, log):
        if not line.strip("\ufeff \t\r"):
            continue
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            log.damaged(f"is not a JSON value ({error})", "damaged_rows")
            continue
        text = reached(row, text_field) if isinstance(row, dict) else None
        if isinstance(text, str):
            yield text
        else:
            log.damaged(_no_text(row, text_field), "damaged_rows")


def _json_lines(path: Path, log: ReadLog) -> Iterator[str]:
    """Yield the lines of a file; the first one tells whether carriage returns alone end them."""
    lines = read_lines(path, log)
    first = next(lines, "")
    if "\r" not in first.removesuffix("\r"):
        yield from chain([first], lines)
        return
    for number, line in enumerate(single_lines(chain([first], lines), log), start=1):
        log.number = number
        yield line


def _no_text(row: Any, text_field: str) -> str:
    if not isinstance(row, dict):
        return f"is a JSON {type(row).__name__}, not an object with a field '{text_field}'"
    if text_field in row:
        return f"field '{text_field}' is {type(row[text_field]).__name__}, not a text"
    return f"has no field '{text_field}'; it has {', '.join(map(str, row)) or 'none'}"
