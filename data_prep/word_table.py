"""A table from units to numbers, looked up for many units at once by numpy.

A key holds all bytes of its unit and their number: two units never share one, so that a hit needs
no further check. Open addressing with linear probing; what does not fit is left to the caller.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_prep.units import Ints, Keys

MAX_PROBES = 32
_FIRST_BITS = 12
_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
_MIX_SUM = np.uint64(0xD6E8FEB86659FD93)


class WordTable:
    """Numbers of the keys that were inserted; 28 bytes per slot, two to eight slots per key."""

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
