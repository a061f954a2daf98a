"""Raw text to sentences, the pooling segments of pretraining, by sentencex.

Invariant: on a text as data preparation cleans it, the sentences are those that it would make
with headings kept; a text that is not clean is brought to that form first.
"""

import re

from ponet.sentence_rules import cut_long, is_heading, split_missed

MAX_PARAGRAPH_CHARS = 20_000
"""Longer paragraphs are cut before sentencex sees them, so that its time stays linear."""
_HEADING_MAX_WORDS = 12
_BLANK_LINE = re.compile(r"\n\s*\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


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
        if is_heading(paragraph, _HEADING_MAX_WORDS):
            sentences.append(paragraph)
            continue
        for piece in cut_long(paragraph, MAX_PARAGRAPH_CHARS):
            found = sentencex.segment(language, piece)
            whole = sum(map(len, found)) == len(piece)  # else the splitter lost something
            parts = found if whole else [piece]
            if not piece.isascii():
                parts = [part for item in parts for part in split_missed(item)]
            sentences += [part.strip() for part in parts]
    return [sentence for sentence in sentences if sentence]
