"""Clean documents to sentences: sentencex, never across a paragraph break, and rules of our own.

The rules say what is a heading, where long paragraphs are cut, and what ends a sentence in scripts
that sentencex leaves together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.config import SentencesConfig

_STOP_INSIDE = re.compile(r"[.!?] ")
_FINAL = tuple(".!?:;…\"'”’)]»")
_MARKS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0df4"
    "\u0f0d-\u0f12\u104a\u104b\u1362\u1366-\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944"
    "\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"
    "\u203c\u203d\u2047-\u2049\u2cf9-\u2cfb\u2e2e\u2e3c\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876"
    "\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52"
    "\ufe56\ufe57\uff01\uff0e\uff1f\uff61"
)
"""Marks that end a sentence in other scripts (Unicode's Sentence_Terminal, and Tibetan's shad)."""
_CLOSERS = "\"'”’)\\]»›」』】）〉》〕｝］＂＇"
_MARK_INSIDE = re.compile(f"[{_MARKS}](?=.*\\w)|\u1361\u1361(?=.*\\w)", re.DOTALL)
_MARK_LAST = re.compile(f"(?:[{_MARKS}：；]|\u1361\u1361)[{_CLOSERS} ]*$")
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
_MAY_MISS = re.compile(
    "[\u0370-\u03ff\u0df4\u0e00-\u0fff\u1361\u17d4\u17d5\u1b4e-\u1b7f\u1f00-\u1fff\u2cf9-\u2cfb\ufe12-\ufe16]"
)
_MISSED = re.compile(
    "(?:[\u0df4\u0f0d-\u0f12\u17d4\u17d5\u1b4e\u1b4f\u1b7f\u2cf9-\u2cfb\ufe12\ufe15\ufe16]"
    f"|\u1361\u1361)[{_CLOSERS}]*(?: ?[\u0f0d-\u0f12])*(?:\\s+|(?=\\w))"
    '|(?<=[\u0370-\u03ff\u1f00-\u1fff]);\\s+(?=[«“"]?[\u0386\u0388-\u03ab\u1f08-\u1f0f\u1f18-\u1f1d'
    "\u1f28-\u1f2f\u1f38-\u1f3f\u1f48-\u1f4d\u1f59-\u1f5f\u1f68-\u1f6f])"
    "|(?<=[\u0e00-\u0eff]{10}) (?=[\u0e00-\u0eff]{10})"
)
"""Where sentences end that sentencex leaves together: marks of Sinhala, Tibetan, Khmer, Balinese,
Coptic and vertical Chinese, two Ethiopic word spaces, the Greek question mark before a capital,
and the space between clauses of Thai and Lao, which have no mark."""


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
            found = _segments(piece, config.language, counters)
            sentences.extend(stripped for item in found if (stripped := item.strip()))
    return sentences


def _segments(text: str, language: str, counters: Counter[str]) -> list[str]:
    """Return the sentences of a paragraph with the space between them: joined they are the text.

    The text is short: time grows with the square of its length.
    """
    import sentencex

    found: list[str] = sentencex.segment(language, text)
    if sum(map(len, found)) != len(text):
        counters["paragraphs_unsplit"] += 1
        found = [text]
    if text.isascii():
        return found
    return [part for item in found for part in split_missed(item)]


def split_missed(sentence: str) -> Iterator[str]:
    """Yield the parts of what sentencex took for one sentence; joined they are the whole."""
    start = 0
    for match in _MISSED.finditer(sentence) if _MAY_MISS.search(sentence) else ():
        yield sentence[start : match.end()]
        start = match.end()
    yield sentence[start:]


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
