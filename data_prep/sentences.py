"""Clean documents to sentences, by sentencex, never across a paragraph break."""

from __future__ import annotations

from collections import Counter

from data_prep.config import SentencesConfig
from data_prep.sentence_rules import cut_long, is_heading, split_missed


def split_sentences(text: str, config: SentencesConfig, counters: Counter[str]) -> list[str]:
    """Return the sentences of a clean document in order; nothing but white space is lost.

    Args:
        text: Paragraphs separated by one blank line.
        config: Language, headings, and the longest paragraph given to sentencex at once.
        counters: Gets `headings_kept` or `headings_dropped`, `paragraphs_cut`.
    """
    import sentencex

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
            found = sentencex.segment(config.language, piece)
            if sum(map(len, found)) != len(piece):  # never lose text to a splitter's fault
                counters["paragraphs_unsplit"] += 1
                found = [piece]
            if not piece.isascii():
                found = [part for item in found for part in split_missed(item)]
            sentences.extend(stripped for item in found if (stripped := item.strip()))
    return sentences
