"""Where sentences and paragraphs of a raw text begin, as character positions.

Invariant: positions grow and the first one is 0, so that the pieces between them are the whole
text; an empty text has none.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from data_prep.config import SentencesConfig
from data_prep.sentences import cut_long, split_missed

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_HTML_BREAKS = re.compile(r"(?:<br\s*/?>\s*){2,}", re.IGNORECASE)
_STOPS = (". ", "。", "\n\n")
_OPENING = '"“„«‘([{'
_WITHOUT_MARKS = str.maketrans(dict.fromkeys(_OPENING + "”»)]}", " "))
_LONG_SENTENCE = 300
"""Characters; about 1 % of the sentences of reviews and news are longer."""


def sentence_starts(
    text: str, language: str = "en", counters: Counter[str] | None = None
) -> list[int]:
    """Return where each sentence begins, by sentencex and two rules for text from the web.

    Two or more `<br />` in a row are the blank line of a web page (IMDb): a sentence begins there
    even where sentencex sees none, as it does at blank lines by itself. And sentencex keeps
    together what stands between an opening quotation mark or bracket and the next closing one,
    which is half an article where a mark was never closed: a sentence longer than 300 characters
    is cut again as if it had no such marks.

    Args:
        text: Any text.
        language: ISO 639-1 code, such as en; sentencex treats an unknown one as English.
        counters: Gets `sentences not found in their text` where sentencex returned a piece that
            does not occur; such a piece stays with the sentence before it.
    """
    if not text:
        return []
    starts = {0, *_segment(text, language, counters)}
    starts.update(found.start() for found in _HTML_BREAKS.finditer(text))
    for begin, end in pairwise([*sorted(starts), len(text)]):
        if end - begin > _LONG_SENTENCE:
            bare = text[begin:end].translate(_WITHOUT_MARKS)
            inner = _segment(bare, language, counters)
            starts.update(_with_marks(text, begin + start) for start in inner if start)
    return sorted(starts)


def paragraph_starts(text: str) -> list[int]:
    """Return where each paragraph begins: after every run of blank lines.

    Source: released PoNet code for Arxiv-11, which cuts at two line feeds.
    """
    if not text:
        return []
    ends = (found.end() for found in _BLANK_LINES.finditer(text))
    return sorted({0, *(end for end in ends if end < len(text))})


def starts_of_pieces(text: str, pieces: Iterable[str]) -> tuple[list[int], int]:
    """Return where consecutive pieces of a text begin, and how many are not found in it.

    Args:
        text: The whole text.
        pieces: Its parts from left to right; characters between them may be missing.
    """
    starts, position, num_lost = [], 0, 0
    for piece in pieces:
        found = position if text.startswith(piece, position) else text.find(piece, position)
        if found < 0:
            num_lost += 1
            continue
        starts.append(found)
        position = found + len(piece)
    return starts, num_lost


def _segment(text: str, language: str, counters: Counter[str] | None) -> list[int]:
    import sentencex

    starts, begin = [], 0
    # sentencex looks for the partner of every opening mark in all that follows, so its time grows
    # with the square of the length; a cut after a space is within a sentence.
    for part in cut_long(text, SentencesConfig().max_paragraph_chars):
        sentences = sentencex.segment(language, part)
        found, num_lost = starts_of_pieces(
            part, (p for item in sentences for p in split_missed(item))
        )
        is_start = not begin or text[:begin].endswith(_STOPS)
        starts += [begin + start for start in found if start or is_start]
        begin += len(part)
        if num_lost and counters is not None:
            counters["sentences not found in their text"] += num_lost
    return starts


def _with_marks(text: str, start: int) -> int:
    """Return a start moved back over opening marks that stand directly before it."""
    moved = start
    while moved and text[moved - 1] in _OPENING:
        moved -= 1
    return moved if moved == 0 or text[moved - 1].isspace() else start
