"""Clean documents to sentences, by sentencex, never across a paragraph break."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from data_prep.config import SentencesConfig

_STOP_INSIDE = re.compile(r"[.!?] ")
_FINAL = tuple(".!?:;…\"'”’)]»")


def split_sentences(text: str, config: SentencesConfig, counters: Counter[str]) -> list[str]:
    """Return the sentences of a clean document in order; nothing but white space is lost.

    Args:
        text: Paragraphs separated by one blank line.
        config: Language, headings, and the longest paragraph given to sentencex at once.
        counters: Gets `headings_kept` or `headings_dropped`, `paragraphs_cut`.
    """
    import sentencex

    sentences: list[str] = []
    for paragraph in text.split("\n\n"):
        if is_heading(paragraph, config.heading_max_words):
            keep = config.headings == "keep"
            counters["headings_kept" if keep else "headings_dropped"] += 1
            if keep:
                sentences.append(paragraph)
            continue
        if len(paragraph) > config.max_paragraph_chars:
            counters["paragraphs_cut"] += 1
        for piece in cut_long(paragraph, config.max_paragraph_chars):
            found = sentencex.segment(config.language, piece)
            if sum(map(len, found)) != len(piece):  # never lose text to a splitter's fault
                counters["paragraphs_unsplit"] += 1
                found = [piece]
            sentences.extend(stripped for item in found if (stripped := item.strip()))
    return sentences


def is_heading(paragraph: str, max_words: int) -> bool:
    """Return whether a paragraph is short and has no full stop, at its end or before a space."""
    if not paragraph or paragraph.endswith(_FINAL) or _STOP_INSIDE.search(paragraph):
        return False
    return len(paragraph) <= max_words * 30 and paragraph.count(" ") < max_words


def cut_long(paragraph: str, max_chars: int) -> Iterator[str]:
    """Yield pieces of at most `max_chars`, cut after a full stop, else a space, else anywhere."""
    start = 0
    while len(paragraph) - start > max_chars:
        end = start + max_chars
        for mark in (". ", " "):
            found = paragraph.rfind(mark, start + max_chars // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield paragraph[start:end]
        start = end
    yield paragraph[start:]
