"""SimHash and plain hash bits of a word. U units, M features."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ponet.projection.minhash import items_of
from ponet.projection.ternary import EMPTY

_BLOCK = 64


def simhash_sums(units: Sequence[str], num_features: int) -> NDArray[np.int16]:
    """Return for every unit the sum over its items of their hash bits as 1 and -1, (U, M).

    The sums of a word are those of its units added up; its SimHash is where they are positive.

    Source:
        The usual SimHash, with the items of MinHash. Bits come in blocks of 64 from the last 8
        bytes of MD5 (as in the Python package `simhash`), of `item`, then of `item` and a counter.
    """
    bits: dict[str, NDArray[np.int16]] = {}
    sums_UM = np.zeros((len(units), num_features), np.int16)
    for row, unit in enumerate(units):
        for item, count in Counter(items_of(unit or EMPTY)).items():
            if item not in bits:
                bits[item] = 2 * _item_bits(item, num_features) - 1
            sums_UM[row] += count * bits[item]
    return sums_UM


def _item_bits(item: str, num_features: int) -> NDArray[np.int16]:
    blocks = []
    for number in range(-(-num_features // _BLOCK)):
        data = item.encode() + (f"\0{number}".encode() if number else b"")
        blocks.append(hashlib.md5(data, usedforsecurity=False).digest()[:7:-1])
    packed = np.frombuffer(b"".join(blocks), np.uint8)
    return np.unpackbits(packed, bitorder="little")[:num_features].astype(np.int16)


def hash_bits(word: str, num_features: int) -> NDArray[np.uint8]:
    """Return num_features bits of one hash of the whole word (SHAKE-128), as 0 and 1.

    Source:
        "Binary" in table 1 of arXiv 2202.04350, which does not define it: one honest reading.
    """
    digest = hashlib.shake_128(word.encode()).digest(-(-num_features // 8))
    return np.unpackbits(np.frombuffer(digest, np.uint8), bitorder="little")[:num_features]
