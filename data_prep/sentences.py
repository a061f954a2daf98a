"""Clean documents to sentences, never across a paragraph break.

Here: what is a heading, and where long paragraphs are cut. `data_prep.sentence_rules` says what
ends a sentence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from data_prep.sentence_rules import CLOSERS, MARKS, segment

if TYPE_CHECKING:
    from data_prep.config import SentencesConfig

_STOP_INSIDE = re.compile(r"[.!?] ")
_FINAL = tuple(".!?:;…\"'”’)]»")
_MARK_INSIDE = re.compile(f"[{MARKS}](?=.*\\w)|\u1361\u1361(?=.*\\w)", re.DOTALL)
_MARK_LAST = re.compile(f"(?:[{MARKS}：；]|\u1361\u1361)[{CLOSERS} ]*$")
_UNSPACED = (
    (re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"), 2),
    (
        re.compile(
            "[\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u1950-\u19df\u1a20-\u1aad]"
        ),
        3,
    ),
)
"""Characters of scripts without spaces between words, and how many stand for one word: Chinese and
Japanese; Thai, Lao, Tibetan, Burmese, Khmer, Tai. Rather too few: no sentence shall be a heading.
"""


def split_sentences(text: str, config: SentencesConfig, counters: Counter[str]) -> list[str]:
    """Return the sentences of a clean document in order; nothing but white space is lost.

    Args:
        text: Paragraphs separated by one blank line.
        config: Language, headings, and the longest paragraph given to sentencex at once.
        counters: Gets `headings_kept` or `headings_dropped`, `paragraphs_cut`.
    """
    if config.split == "line":
        return text.split("\n\n")
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
            found = segment(config.language, piece)
            sentences.extend(stripped for item in found if (stripped := item.strip()))
    return sentences


def is_heading(paragraph: str, max_words: int) -> bool:
    """Return whether a paragraph is short and has no full stop, at its end or before a space.

    Words of scripts that set no spaces are estimated from the number of characters, and their marks
    end a sentence without a space behind them.
    """
    if not paragraph or paragraph.endswith(_FINAL) or _STOP_INSIDE.search(paragraph):
        return False
    words = paragraph.count(" ")
    if len(paragraph) > max_words * 30 or words >= max_words:
        return False
    if paragraph.isascii():
        return True
    if _MARK_LAST.search(paragraph) or _MARK_INSIDE.search(paragraph):
        return False
    return words + sum(len(kind.findall(paragraph)) // per for kind, per in _UNSPACED) < max_words


def cut_long(paragraph: str, max_chars: int) -> Iterator[str]:
    """Yield pieces of at most `max_chars`, cut after a full stop, else a space, else anywhere."""
    start = 0
    while len(paragraph) - start > max_chars:
        end = start + max_chars
        for mark in (". ", "。", " "):
            found = paragraph.rfind(mark, start + max_chars // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield paragraph[start:end]
        start = end
    yield paragraph[start:]
