"""Raw text to sentences, the pooling segments of pretraining, by sentencex.

Invariant: on a text as data preparation cleans it, the sentences are those that it would make
with headings kept; a text that is not clean is brought to that form first.
"""

import re
from collections.abc import Iterator

MAX_PARAGRAPH_CHARS = 20_000
"""Longer paragraphs are cut before sentencex sees them, so that its time stays linear."""
_HEADING_MAX_WORDS = 12
_BLANK_LINE = re.compile(r"\n\s*\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STOP_INSIDE = re.compile(r"[.!?] ")
_FINAL = tuple(".!?:;…\"'”’)]»")


def sentences_of(text: str, *, language: str = "en") -> list[str]:
    """Return the sentences of a text in order; nothing but white space is lost.

    Args:
        text: Paragraphs are parted by blank lines; other line breaks count as spaces. A lone
            surrogate, which is half a character, counts as U+FFFD.
        language: Language code of sentencex.
    """
    import sentencex

    sentences: list[str] = []
    for raw in _BLANK_LINE.split(_SURROGATE.sub("\ufffd", text)):
        paragraph = " ".join(raw.split())
        if _is_heading(paragraph):
            sentences.append(paragraph)
            continue
        for piece in _pieces(paragraph):
            found = sentencex.segment(language, piece)
            whole = sum(map(len, found)) == len(piece)  # else the splitter lost something
            sentences += [item.strip() for item in found] if whole else [piece.strip()]
    return [sentence for sentence in sentences if sentence]


def _is_heading(paragraph: str) -> bool:
    """Return whether a paragraph is short and has no full stop, at its end or before a space."""
    if not paragraph or paragraph.endswith(_FINAL) or _STOP_INSIDE.search(paragraph):
        return False
    is_short = len(paragraph) <= _HEADING_MAX_WORDS * 30
    return is_short and paragraph.count(" ") < _HEADING_MAX_WORDS


def _pieces(paragraph: str) -> Iterator[str]:
    """Yield pieces of bounded length, cut after a full stop, else after a space, else anywhere."""
    start = 0
    while len(paragraph) - start > MAX_PARAGRAPH_CHARS:
        end = start + MAX_PARAGRAPH_CHARS
        for mark in (". ", " "):
            found = paragraph.rfind(mark, start + MAX_PARAGRAPH_CHARS // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield paragraph[start:end]
        start = end
    yield paragraph[start:]
