"""Sentences to units: pieces of UTF-8 that a tokenizer treats one by one, and their keys.

The ids of a sentence are the ids of its units, joined. Everything here is done on whole blocks of
bytes by numpy, never word by word. Letters: U units, S sentences.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Keys = tuple[Words, Words, Words]
"""(U,) each: bytes 0-7 and 8-15 of every unit, zeros behind a shorter one; bytes 16-22 likewise,
with the number of bytes as the highest byte, or 0 there for a unit too long to have a key."""

MAX_KEY_BYTES = 23
_GAP, _RUN, _ALONE = 0, 1, 2
_BERT_NORMALIZER_KEYS = {
    *("type", "clean_text", "handle_chinese_chars"),
    *("strip_accents", "lowercase"),
}


@dataclass(frozen=True, kw_only=True)
class UnitRule:
    """Where units end, and whether their case matters."""

    isolates_punctuation: bool
    """Every ASCII punctuation character is a unit of its own, as `BertPreTokenizer` has it; else
    only spaces part units."""
    isolates_ideographs: bool
    """Every character from U+4E00 to U+9FFF is a unit of its own, as `handle_chinese_chars` has
    it."""
    lowercases: bool
    """ASCII capitals may be lowercased beforehand."""


def unit_rule(tokenizer: dict[str, Any]) -> UnitRule:
    """Return the finest rule that is exact for a word-local tokenizer.json.

    BERT's normaliser changes one character at a time, but for the decomposition of accents and
    their order behind one base character; it sets spaces around ideographs, and the pre-tokeniser
    isolates ASCII punctuation. So a space set beside such a character, or a lowercased ASCII
    letter, changes no id. Any other combination parts units at spaces only; so do special tokens
    that are not marked as special, which the library finds in ordinary text.

    Args:
        tokenizer: Content of a `tokenizer.json` for which `is_word_local` is true.
    """
    normalizer = tokenizer.get("normalizer") or {}
    is_bert = (
        normalizer.get("type") == "BertNormalizer"
        and set(normalizer) <= _BERT_NORMALIZER_KEYS
        and tokenizer.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and all(token.get("special") is True for token in tokenizer.get("added_tokens", []))
    )
    lowercases = is_bert and normalizer.get("lowercase") is True
    ideographs = is_bert and normalizer.get("handle_chinese_chars") is True
    return UnitRule(
        isolates_punctuation=is_bert, isolates_ideographs=ideographs, lowercases=lowercases
    )


class Units(NamedTuple):
    """The units of a block of sentences."""

    text: bytes
    """The block, lowercased if the rule says so."""
    starts: Ints
    """(U,) first byte of each unit."""
    ends: Ints
    """(U,) byte after each unit."""
    keys: Keys
    """Equal keys are equal units, where the last third is not 0."""
    sentence_ends: Ints
    """(S,) number of units up to the end of each sentence."""


def cut_units(block: bytes, rule: UnitRule) -> Units:
    """Return the units of a block of sentences, and their keys.

    Args:
        block: UTF-8 of whole sentences, each ended by a line feed and without one inside.
        rule: Where units end.
    """
    text = block.lower() if rule.lowercases else block
    kinds = np.frombuffer(block.translate(_KINDS[rule.isolates_punctuation]), np.uint8)
    is_run = kinds == _RUN
    is_start, is_end = kinds == _ALONE, kinds == _ALONE
    is_start[0] |= is_run[0]
    is_start[1:] |= is_run[1:] & ~is_run[:-1]
    is_end[:-1] |= is_run[:-1] & ~is_run[1:]
    if rule.isolates_ideographs:
        first = _ideographs(block)
        is_start[first] = is_end[first + 2] = True
        is_start[first + 3] |= is_run[first + 3]
        before = first[first > 0] - 1
        is_end[before] |= is_run[before]
    starts, ends = np.flatnonzero(is_start), np.flatnonzero(is_end) + 1
    line_feeds = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    keys = _keys(text, starts, ends - starts)
    return Units(text, starts, ends, keys, np.searchsorted(starts, line_feeds))


def _ideographs(block: bytes) -> Ints:
    """Return the first byte of each of the three that spell a character of U+4E00 to U+9FFF."""
    data = np.frombuffer(block, np.uint8)
    first = np.flatnonzero((data >= 0xE4) & (data <= 0xE9))
    return first[(data[first] > 0xE4) | (data[first + 1] >= 0xB8)]


def _keys(text: bytes, starts: Ints, lens: Ints) -> Keys:
    padded = text + bytes(24)
    eight = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    low = eight[starts] & _MASKS[np.minimum(lens, 8)]
    middle = np.zeros_like(low)
    high = lens.astype(np.uint64) << np.uint64(56)
    longer = np.flatnonzero(lens > 8)
    middle[longer] = eight[starts[longer] + 8] & _MASKS[np.minimum(lens[longer] - 8, 8)]
    longer = longer[lens[longer] > 16]
    lens = lens[longer]
    rest = eight[starts[longer] + 16] & _MASKS[np.minimum(lens - 16, 7)]
    high[longer] = np.where(lens <= MAX_KEY_BYTES, high[longer] | rest, np.uint64(0))
    return low, middle, high


def _kinds(isolates_punctuation: bool) -> bytes:
    kinds = bytearray([_RUN]) * 256
    kinds[ord(" ")] = kinds[ord("\n")] = _GAP
    if isolates_punctuation:
        for character in string.punctuation:
            kinds[ord(character)] = _ALONE
    return bytes(kinds)


_KINDS = {choice: _kinds(choice) for choice in (False, True)}
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
