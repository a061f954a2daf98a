"""A table from the keys of words to numbers, read and written for many words at once.

U words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
"""(3, U): bytes 0-7 and 8-15 of every word, zeros behind a shorter one; bytes 16-22 likewise,
with the number of bytes as the highest byte, or 0 there for a word too long to have a key."""

MAX_PROBES = 32
_FIRST_BITS = 12
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_MIX_SUM = np.uint64(0xD6E8FEB86659FD93)


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
        self._keys = np.zeros((3, 1 << bits), np.uint64)
        self._numbers = np.zeros(1 << bits, np.int32)

    def find(self, keys: Keys) -> Ints:
        """Return the number of every key, (U,) int64; -1 where the table has none.

        Args:
            keys: (3, U) uint64; those whose last third is 0 have no number.
        """
        slots = self._slots(keys)
        is_hit, goes_on = self._compare(slots, keys)
        numbers = np.where(is_hit, self._numbers[slots], np.int32(-1)).astype(np.int64)
        waiting = np.flatnonzero(goes_on)
        for _ in range(MAX_PROBES - 1):
            if not waiting.size:
                break
            slot = slots[waiting] = self._next(slots[waiting])
            is_hit, goes_on = self._compare(slot, keys[:, waiting])
            numbers[waiting[is_hit]] = self._numbers[slot[is_hit]]
            waiting = waiting[goes_on]
        return numbers

    def _compare(self, slots: Ints, keys: Keys) -> tuple[npt.NDArray[np.bool_], ...]:
        """Return which slots hold the keys, and for which the search goes on behind the slot."""
        held = self._keys.take(slots, axis=1)
        is_key = keys[2] != 0
        is_hit = is_key & (held[0] == keys[0]) & (held[1] == keys[1]) & (held[2] == keys[2])
        return is_hit, (held[2] != 0) & is_key & ~is_hit

    def insert(self, keys: Keys, numbers: Ints) -> npt.NDArray[np.bool_]:
        """Add keys that are not in the table; return which found a place, (U,) bool.

        Args:
            keys: (3, U) uint64, no key twice, no last third 0.
            numbers: (U,) int64, each in [0, 2**31).
        """
        if 2 * (self._used + numbers.size) > self._numbers.size:
            self._grow(self._used + numbers.size)
        slots = self._slots(keys)
        waiting = np.arange(numbers.size)
        for _ in range(MAX_PROBES):
            if not waiting.size:
                break
            free = waiting[self._keys[2, slots[waiting]] == 0]
            places, first = np.unique(slots[free], return_index=True)
            chosen = free[first]
            self._keys[:, places] = keys[:, chosen]
            self._numbers[places] = numbers[chosen]
            waiting = np.setdiff1d(waiting, chosen, assume_unique=True)
            slots[waiting] = self._next(slots[waiting])
        self._used += numbers.size - waiting.size
        placed = np.ones(numbers.size, np.bool_)
        placed[waiting] = False
        return placed

    def _grow(self, needed: int) -> None:
        held = np.flatnonzero(self._keys[2])
        keys, numbers = self._keys[:, held], self._numbers[held]
        self._make((2 * needed).bit_length())
        self.insert(keys, numbers.astype(np.int64))  # one without a place would be learned again

    def _slots(self, keys: Keys) -> Ints:
        mixed: Keys = keys[0] * _MIX[0] + keys[1] * _MIX[1] + keys[2] * _MIX[2]
        mixed ^= mixed >> np.uint64(32)
        mixed *= _MIX_SUM
        return (mixed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, slots: Ints) -> Ints:
        return (slots + 1) & (self._numbers.size - 1)
