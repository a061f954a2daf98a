"""Counter-based random numbers: pure functions of a key and a counter, vectorised in numpy.

Invariant: no state. The same (key, counter) gives the same number on every machine, in any order
and in any process, so nothing about an example depends on workers, ranks or restarts.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, 2014) applied to key + counter * golden ratio.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

UintArray = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LAST = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The greatest of the numbers: what is not drawn sorts behind all others."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_27, _SHIFT_30, _SHIFT_31, _SHIFT_32 = (np.uint64(n) for n in (27, 30, 31, 32))
_TO_UNIT = 2.0**-32


def derive_key(*parts: int | str) -> np.uint64:
    """Return the key of a purpose, e.g. `derive_key(seed, "masking", epoch)`.

    Args:
        parts: Integers and words; another order or another part gives an unrelated key.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def random_bits(
    key: np.uint64 | UintArray, counter: npt.NDArray[Any] | np.integer[Any]
) -> UintArray:
    """Return 64 random bits for every pair of key and counter (broadcast against each other).

    Args:
        key: One key or an array of keys, uint64.
        counter: Integers >= 0; distinct counters give distinct numbers under one key.
    """
    bits = np.asarray(counter).astype(np.uint64) * _GOLDEN + key
    scratch = bits >> _SHIFT_30
    bits ^= scratch
    bits *= _FACTOR_1
    np.right_shift(bits, _SHIFT_27, out=scratch)
    bits ^= scratch
    bits *= _FACTOR_2
    np.right_shift(bits, _SHIFT_31, out=scratch)
    bits ^= scratch
    return bits


def two_uniforms(bits: UintArray) -> tuple[FloatArray, FloatArray]:
    """Return two independent numbers in [0, 1) from the upper and the lower 32 bits."""
    upper = np.multiply(bits >> _SHIFT_32, _TO_UNIT, dtype=np.float64)
    return upper, np.multiply(bits & _LOW_32, _TO_UNIT, dtype=np.float64)


def random_below(uniform: FloatArray, bound: npt.NDArray[Any] | int) -> IntArray:
    """Return integers in [0, bound) from numbers in [0, 1); `bound` at least 1, below 2**31."""
    return (uniform * bound).astype(np.int64)
