"""The ternary projection of pQRNN and PRADO: hash bits of the whole word as 0, 1 and -1.

Similar words share nothing here, unlike in MinHash and SimHash.
"""

import numpy as np
from numpy.typing import NDArray

_K = 0xC6A4A7935BD1E995
_K2 = 0x9E3779B97F4A7835
_64 = 2**64 - 1
_TRITS = np.array([0, 1, -1, 0], np.int8)
EMPTY = "<null>"


def _fold(value: int) -> int:
    return value ^ (value >> 47)


def codes(text: str, num_codes: int, *, signed_char: bool = False) -> list[int]:
    """Return 64-bit hash codes of a text, as many as asked for.

    Args:
        text: Hashed as its UTF-8 bytes; the empty text as `<null>`.
        num_codes: How many codes.
        signed_char: Bytes of 0x80 and above are sign-extended, as in builds for x86; without it
            the codes are those of builds for ARM.

    Source:
        seq_flow_lite of tensorflow/models computes this function, a relative of MurmurHash2.
    """
    data = (text or EMPTY).encode()
    state, other = (len(data) * _K) & _64, 0
    whole = len(data) - len(data) % 8
    for start in range(0, whole, 8):
        word = _load(data[start : start + 8], signed_char)
        state = ((state ^ ((_fold((word * _K) & _64) * _K) & _64)) * _K) & _64
        other ^= state
    if len(data) > whole:
        state = ((state ^ _load(data[whole:], signed_char)) * _K) & _64
        other ^= state
    state = (_fold(state) * _K) & _64
    other ^= state
    first, second = _fold(state), (_fold((other * _K2) & _64) * _K2) & _64
    found = [first, second]
    while len(found) < num_codes:
        first = (_fold(first) * _K) & _64
        second ^= first
        first, second = (_fold((second * _K2) & _64) * _K2) & _64, _fold(first)
        found += [first, second]
    return found[:num_codes]


def _load(data: bytes, signed_char: bool) -> int:
    """Bytes as a little-endian number; a signed one spreads its sign over the higher bits."""
    value = 0
    for place, byte in enumerate(data):
        number = byte - 256 if signed_char and byte > 127 else byte
        value |= (number << (8 * place)) & _64
    return value


def ternary(text: str, num_features: int, *, signed_char: bool = False) -> NDArray[np.int8]:
    """Return num_features values of -1, 0 and 1: two bits of the codes for each, lowest first.

    Args:
        text: A word; lower-casing is the caller's.
        num_features: Length of the result.
        signed_char: As in `codes`.
    """
    found = np.array(codes(text, -(-num_features // 32), signed_char=signed_char), np.uint64)
    pairs = (found[:, None] >> np.arange(0, 64, 2, dtype=np.uint64)) & np.uint64(3)
    found_M: NDArray[np.int8] = _TRITS[pairs.reshape(-1)[:num_features]]
    return found_M
