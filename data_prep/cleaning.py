"""Raw documents to clean documents; every repair is counted.

A clean document has no control characters, its paragraphs are separated by one blank line, and
its words by single spaces. It never spells a special token, so none can appear inside the ids.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter

from data_prep.config import CleaningConfig
from data_prep.manifest import SPECIAL_TOKENS

_RARE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
HASH_BYTES = 16


def clean_document(text: str, config: CleaningConfig, counters: Counter[str]) -> str:
    """Return the clean text of a document; empty if nothing is left.

    Args:
        text: Any string, lone surrogates included.
        config: What to repair.
        counters: Gets the number of repairs by name.
    """
    if not text.replace("\n", " ").isprintable() and _RARE.search(text):
        text = _repair_rare(text, counters)
    if config.unicode_form != "none" and not unicodedata.is_normalized(config.unicode_form, text):
        text = unicodedata.normalize(config.unicode_form, text)
        counters["documents_unicode_normalised"] += 1
    if "[" in text:
        text, found = _SPECIAL.subn(_neutral, text)
        if found:
            counters["special_tokens_neutralised"] += found
    if config.line_breaks == "paragraph":
        paragraphs = text.split("\n")
    else:
        paragraphs = _BLANK_LINE.split(text)
    return "\n\n".join([clean for item in paragraphs if (clean := _single_spaced(item))])


def _single_spaced(paragraph: str) -> str:
    # The space is the only printable white space, and most paragraphs are as they should be.
    if (
        paragraph.isprintable()
        and "  " not in paragraph
        and not paragraph.startswith(" ")
        and not paragraph.endswith(" ")
    ):
        return paragraph
    return " ".join(paragraph.split())


def _neutral(match: re.Match[str]) -> str:
    return f"[ {match.group()[1:-1]} ]"


def _repair_rare(text: str, counters: Counter[str]) -> str:
    for name, count in (
        ("byte_order_marks", text.count("\ufeff")),
        ("carriage_returns", text.count("\r")),
        ("unicode_line_separators", text.count("\u2028") + text.count("\u2029")),
    ):
        if count:
            counters[name] += count
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2029", "\n\n").replace("\u2028", "\n").replace("\x85", "\n")
    text, found = _CONTROL.subn("", text)
    if found:
        counters["control_characters"] += found
    text, found = _SURROGATE.subn("\ufffd", text)
    if found:
        counters["lone_surrogates"] += found
    return text


def document_hash(text: str) -> bytes:
    """Return 16 bytes that are equal for texts equal up to letter case and white space.

    Args:
        text: A clean document, as `clean_document` returns it: paragraphs parted by one blank line
            and words by one space, so that nothing but the blank lines is left to even out.
    """
    key = " ".join([paragraph.casefold() for paragraph in text.split("\n\n")])
    return hashlib.blake2b(key.encode("utf-8"), digest_size=HASH_BYTES).digest()
