"""Sources to chunks: units of work whose borders depend on the input alone, never on workers."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.config import HubSource, LocalSource, PythonDocsSource, Source
from data_prep.documents import read_documents
from data_prep.find import find_files, search_files, shown
from data_prep.hub import group_rows, load_rows, row_texts
from data_prep.manifest import digest_of, file_sha256
from data_prep.python_docs import iterate_batches, module_files, read_module
from data_prep.readers import ReadLog

LEFT_OUT = "left_out: "
"""What the counters of files that are not read begin with."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive documents of one source, as texts or as modules still to be parsed."""

    documents: list[str] = field(default_factory=list)
    """Raw texts."""
    modules: list[str] = field(default_factory=list)
    """Python source files, one document each."""
    code: list[str] = field(default_factory=list)
    """Source texts of the modules, once `load_modules` has read them."""
    counters: dict[str, int] = field(default_factory=dict)
    """Repairs made while reading these documents."""
    advance: int = 0
    """Progress: bytes of input, or rows, read for this chunk."""


def load_modules(chunk: Chunk) -> Chunk:
    """Return a chunk that needs no file: the source texts in place of the modules' paths."""
    counters = Counter(chunk.counters)
    code = [read_module(Path(name), counters) for name in chunk.modules]
    return replace(chunk, modules=[], code=code, counters=dict(counters))


class _Chunker:
    """Collects documents and cuts them into chunks of about so many characters."""

    def __init__(self, max_chars: int, counters: Counter[str]) -> None:
        self._max_chars = max_chars
        self._counters = counters
        self._documents: list[str] = []
        self._chars = 0
        self._reported = 0

    def add(self, text: str) -> bool:
        self._documents.append(text)
        self._chars += len(text)
        return self._chars >= self._max_chars or len(self._documents) >= 100_000

    def take(self, position: int) -> Chunk:
        chunk = Chunk(
            documents=self._documents,
            counters=dict(self._counters),
            advance=max(0, position - self._reported),
        )
        self._reported = max(self._reported, position)
        self._documents, self._chars = [], 0
        self._counters.clear()
        return chunk


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
    if isinstance(source, LocalSource):
        return _local_chunks(source, max_chars)
    if isinstance(source, HubSource):
        return _hub_chunks(source, max_chars)
    return _module_chunks(source, max_chars)


def _local_chunks(source: LocalSource, max_chars: int) -> Iterator[Chunk]:
    log = ReadLog()
    chunker = _Chunker(max_chars, log.counters)
    done = 0
    files = find_files(source.path)
    names = _relative_names(files, Path(source.path).expanduser())
    for path, log.name in zip(files, names, strict=True):
        for text in read_documents(path, source, log):
            if chunker.add(text):
                yield chunker.take(done + log.position)
        done += path.stat().st_size
    yield chunker.take(done)


def _hub_chunks(source: HubSource, max_chars: int) -> Iterator[Chunk]:
    rows = load_rows(source)
    counters: Counter[str] = Counter()
    chunker = _Chunker(max_chars, counters)
    seen = 0

    def counted() -> Iterator[str]:
        nonlocal seen
        for text in row_texts(rows, source, counters):
            seen += 1
            yield text

    for text in group_rows(counted(), source):
        if chunker.add(text):
            yield chunker.take(seen)
    yield chunker.take(seen)


def _module_chunks(source: PythonDocsSource, max_chars: int) -> Iterator[Chunk]:
    counters: Counter[str] = Counter()
    for group in module_files(source, counters):
        for batch in iterate_batches(group, max_chars):
            size = sum(path.stat().st_size for path in batch)
            yield Chunk(modules=[str(path) for path in batch], advance=size)
    yield Chunk(counters=dict(counters))
