"""Sources to chunks: units of work whose borders depend on the input alone, never on workers."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.config import HubSource, LocalSource, PythonDocsSource, Source
from data_prep.documents import read_documents, wikitext_documents
from data_prep.find import find_files, search_files, shown
from data_prep.manifest import digest_of, file_sha256
from data_prep.python_docs import module_files, read_module
from data_prep.readers import DamagedInput, ReadLog

MOST_DOCUMENTS = 100_000
"""In one chunk."""
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
    """Progress: bytes of input, or rows, read for this chunk."""


def describe(source: Source) -> dict[str, Any]:
    """Return what identifies the content of a source, for the manifest and its digest.

    Local files are hashed, and so are modules; a Hub data set is known by its revision.

    Raises:
        ValueError: Nothing to read.
    """
    if isinstance(source, HubSource):
        keys = ("kind", "id", "name", "revision", "data_files", "split")
        return {key: _plain(getattr(source, key)) for key in keys}
    if isinstance(source, LocalSource):
        files = find_files(source.path)
        names = _relative_names(files, Path(source.path).expanduser())
        records = [
            {"name": name, "size": path.stat().st_size, "sha256": file_sha256(path)}
            for name, path in zip(names, files, strict=True)
        ]
        return {"kind": source.kind, "files": records}
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


def count_left_out(sources: Sequence[Source]) -> dict[str, int]:
    """Return how many files of the named folders and globs are not read, by ending or reason."""
    counts: Counter[str] = Counter()
    for source in sources:
        if isinstance(source, LocalSource):
            counts.update(search_files(source.path)[1])
    return {LEFT_OUT + kind: count for kind, count in counts.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _relative_names(files: list[Path], root: Path) -> list[str]:
    if root.is_dir():
        return [shown(path.relative_to(root).as_posix()) for path in files]
    return [shown(path.name) for path in files]


def progress_total(source: Source) -> tuple[int | None, str]:
    """Return how much there is to read, if it is known, and its unit (`B` or ` rows`)."""
    if isinstance(source, LocalSource):
        return sum(path.stat().st_size for path in find_files(source.path)), "B"
    if isinstance(source, PythonDocsSource):
        groups = module_files(source, Counter())
        return sum(path.stat().st_size for group in groups for path in group), "B"
    return None, " rows"


def iterate_chunks(source: Source, max_chars: int) -> Iterator[Chunk]:
    """Yield the chunks of a source in order.

    Args:
        source: What to read.
        max_chars: Target size of a chunk in characters; one document is never cut for it.

    Raises:
        ValueError: Nothing to read, or damaged input.
    """
    if isinstance(source, PythonDocsSource):
        return _module_chunks(source, max_chars)
    log = ReadLog()
    if isinstance(source, LocalSource):
        return _chunks(_local_texts(source, log), log, max_chars)
    return _chunks(group_rows(row_texts(load_rows(source), source, log), source), log, max_chars)


def _chunks(texts: Iterable[str], log: ReadLog, max_chars: int) -> Iterator[Chunk]:
    documents: list[str] = []
    chars = reported = 0

    def take() -> Chunk:
        nonlocal documents, chars, reported
        before, reported = reported, max(reported, log.position)
        counters = dict(log.counters)
        chunk = Chunk(documents=documents, counters=counters, advance=reported - before)
        documents, chars = [], 0
        log.counters.clear()
        return chunk

    for text in texts:
        documents.append(text)
        chars += len(text)
        if chars >= max_chars or len(documents) >= MOST_DOCUMENTS:
            yield take()
    yield take()


def _local_texts(source: LocalSource, log: ReadLog) -> Iterator[str]:
    files = find_files(source.path)
    names = _relative_names(files, Path(source.path).expanduser())
    for path, log.name in zip(files, names, strict=True):
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
                yield Chunk(code=code, counters=dict(counters), advance=size)
                code, counters, size = [], Counter(), 0
    yield Chunk(counters=dict(missing))


def load_rows(source: HubSource) -> Any:
    """Return the data set, pinned to its revision.

    Raises:
        ValueError: It cannot be loaded, or has no such column.
    """
    import datasets

    try:
        rows = datasets.load_dataset(
            source.id,
            source.name or None,
            revision=source.revision,
            data_files=list(source.data_files) or None,
            split=source.split,
            streaming=source.streaming,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"source hub {source.id} (name '{source.name}', revision {source.revision}, split "
            f"{source.split}): cannot be loaded: {reason} Check the id, name and revision and the "
            "network; data sets made of scripts need their parquet revision refs/convert/parquet."
        ) from error
    columns = rows.column_names
    if columns is not None and source.text_field not in columns:
        raise ValueError(
            f"source hub {source.id}: has no column '{source.text_field}'; it has "
            f"{', '.join(columns)}. Set text_field."
        )
    return rows


def row_texts(rows: Any, source: HubSource, log: ReadLog) -> Iterator[str]:
    """Yield the text of every row.

    Raises:
        DamagedInput: A row without text, unless the source says skip.
    """
    for batch in rows.select_columns([source.text_field]).iter(batch_size=256):
        for text in batch[source.text_field]:
            log.finished += 1
            if isinstance(text, str):
                yield text
            elif source.on_error == "skip":
                log.counters["damaged_rows"] += 1
            else:
                raise DamagedInput(
                    f"source hub {source.id}, row {log.finished}: '{source.text_field}' is "
                    f"{type(text).__name__}, not a text; set on_error: skip to leave it out."
                )


def group_rows(texts: Iterator[str], source: HubSource) -> Iterator[str]:
    """Yield documents: single rows, so many rows together, or WikiText articles."""
    if source.wikitext_headings:
        yield from wikitext_documents(texts)
        return
    while group := list(islice(texts, source.rows_per_document)):
        yield "\n\n".join(group)
