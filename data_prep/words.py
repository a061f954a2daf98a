"""Words in numpy: sentences to units, and a table from units to numbers.

Units are pieces of UTF-8 that a tokenizer treats one by one: the ids of a sentence are the ids of
its units, joined. A key holds all bytes of its unit and their number: two units never share one,
so that a hit in the table needs no further check. Everything here is done on whole blocks at once,
never word by word. Letters: U units, S sentences.
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
MAX_PROBES = 32
_FIRST_BITS = 12
_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_MIX_SUM = np.uint64(0xD6E8FEB86659FD93)
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


class WordTable:
    """Numbers of the keys that were inserted, by open addressing with linear probing.

    28 bytes per slot, two to eight slots per key; what does not fit is left to the caller.
    """

    def __init__(self) -> None:
        """Make an empty table."""
        self._make(_FIRST_BITS)

    def _make(self, bits: int) -> None:
        self._bits = bits
        self._used = 0
        self._low, self._middle, self._high = (np.zeros(1 << bits, np.uint64) for _ in range(3))
        self._numbers = np.zeros(1 << bits, np.int32)

    def find(self, keys: Keys) -> Ints:
        """Return the number of every key, (U,) int64; -1 where the table has none.

        Args:
            keys: (U,) uint64 each; those whose last third is 0 have no number.
        """
        slots = self._slots(keys)
        is_hit, goes_on = self._compare(slots, keys)
        numbers = np.where(is_hit, self._numbers[slots], np.int32(-1)).astype(np.int64)
        waiting = np.flatnonzero(goes_on)
        for _ in range(MAX_PROBES - 1):
            if not waiting.size:
                break
            slot = slots[waiting] = self._next(slots[waiting])
            is_hit, goes_on = self._compare(slot, _take(keys, waiting))
            numbers[waiting[is_hit]] = self._numbers[slot[is_hit]]
            waiting = waiting[goes_on]
        return numbers

    def _compare(self, slots: Ints, keys: Keys) -> tuple[npt.NDArray[np.bool_], ...]:
        """Return which slots hold the keys, and for which the search goes on behind the slot."""
        low, middle, high = keys
        held = self._high[slots]
        is_key = high != 0
        is_hit = (held == high) & is_key
        is_hit &= self._low[slots] == low
        is_hit &= self._middle[slots] == middle
        return is_hit, (held != 0) & is_key & ~is_hit

    def insert(self, keys: Keys, numbers: Ints) -> npt.NDArray[np.bool_]:
        """Add keys that are not in the table; return which found a place, (U,) bool.

        Args:
            keys: (U,) uint64 each, no key twice, no last third 0.
            numbers: (U,) int64, each in [0, 2**31).
        """
        if 2 * (self._used + numbers.size) > self._high.size:
            self._grow(self._used + numbers.size)
        slots = self._slots(keys)
        waiting = np.arange(numbers.size)
        for _ in range(MAX_PROBES):
            if not waiting.size:
                break
            free = waiting[self._high[slots[waiting]] == 0]
            places, first = np.unique(slots[free], return_index=True)
            chosen = free[first]
            self._low[places], self._middle[places], self._high[places] = _take(keys, chosen)
            self._numbers[places] = numbers[chosen]
            waiting = np.setdiff1d(waiting, chosen, assume_unique=True)
            slots[waiting] = self._next(slots[waiting])
        self._used += numbers.size - waiting.size
        placed = np.ones(numbers.size, np.bool_)
        placed[waiting] = False
        return placed

    def _grow(self, needed: int) -> None:
        held = np.flatnonzero(self._high)
        keys, numbers = _take((self._low, self._middle, self._high), held), self._numbers[held]
        self._make((2 * needed).bit_length())
        self.insert(keys, numbers.astype(np.int64))  # one without a place would be learned again

    def _slots(self, keys: Keys) -> Ints:
        mixed = keys[0] * np.uint64(_MIX[0])
        for part, factor in zip(keys[1:], _MIX[1:], strict=True):
            mixed += part * np.uint64(factor)
        mixed ^= mixed >> np.uint64(32)
        mixed *= _MIX_SUM
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, slots: Ints) -> Ints:
        return (slots + 1) & (self._high.size - 1)


def _take(keys: Keys, places: Ints) -> Keys:
    low, middle, high = keys
    return low[places], middle[places], high[places]
