"""Lines of text files to documents of bounded size, between separators or WikiText headings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from data_prep.readers import ReadLog
from data_prep.sentences import cut_long

BLANK_LINE = "blank_line"
"""Stands for an empty line as document separator."""
MAX_DOCUMENT_CHARS = 8_000_000
_WAIT_CHARS = 500_000
"""So far behind the limit an empty line is waited for before a document is cut at any line."""
_EXTRACTOR_LINE = re.compile(r'<doc id="[^"]*".*>|</doc>')


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
