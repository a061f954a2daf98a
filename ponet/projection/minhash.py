"""MinHash fingerprints of word pieces. U units, I items, N hashes.

Invariant: a fingerprint is a function of the unit's text, the family and the seed alone: the same
in every process, on every machine, in every version of this file that keeps the family's name.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PRIME = 2**31 - 1
NGRAM_SIZE = 3
HashFamily = Literal["sha-v1", "multiply-v1"]
_ODD = np.uint64(0x9E3779B97F4A7815)


def items_of(unit: str) -> list[str]:
    """Return what is hashed of one word piece, with repetitions.

    A continuation (`##ing`) and a text of at most three characters are one item; any other text
    is all its overlapping character trigrams. Every `##` is removed first.

    Source:
        maum-ai/pnlp-mixer, and two more independent implementations of arXiv 2202.04350; the paper
        does not say how continuations are treated.
    """
    text = unit.replace("##", "")
    if unit.startswith("##") or len(text) <= NGRAM_SIZE:
        return [text]
    return [text[start : start + NGRAM_SIZE] for start in range(len(text) - NGRAM_SIZE + 1)]


def fingerprints(
    units: Sequence[str], *, num_hashes: int, family: HashFamily = "sha-v1", seed: int = 0
) -> NDArray[np.int32]:
    """Return the (U, N) fingerprints: for each hash function the minimum over the unit's items.

    Args:
        units: Word pieces as the tokenizer spells them.
        num_hashes: N, the number of hash functions.
        family: "sha-v1" computes h_i(x) = (SHA-256(x) + i SHA-224(x)) mod (2^31 - 1), the family
            of the public code; "multiply-v1" takes polynomials of the code points instead, about
            ten times faster to make.
        seed: Chooses the functions of "multiply-v1"; "sha-v1" has none.

    Raises:
        ValueError: The family is unknown, or a seed was given to the one that has none.
    """
    items_by_unit = [items_of(unit) for unit in units]
    distinct = dict.fromkeys(chain.from_iterable(items_by_unit))
    number = {item: index for index, item in enumerate(distinct)}
    bases_I2 = _bases(list(number), family, seed)
    result_UN = np.empty((len(units), num_hashes), np.int32)
    index = np.array([number[item] for items in items_by_unit for item in items], np.int64)
    starts = np.cumsum([0, *(len(items) for items in items_by_unit)])[:-1]
    for step in range(num_hashes):
        values_I = (bases_I2[:, 0] + step * bases_I2[:, 1]) % PRIME
        result_UN[:, step] = np.minimum.reduceat(values_I[index], starts)
    return result_UN


def _bases(items: Sequence[str], family: str, seed: int) -> NDArray[np.int64]:
    """The two numbers below PRIME of every item from which its hashes are made, (I, 2)."""
    if family == "sha-v1":
        if seed:
            raise ValueError(f"seed={seed} given, but the family sha-v1 has none; leave it at 0")
        return np.array([_sha_pair(item) for item in items], np.int64).reshape(-1, 2)
    if family == "multiply-v1":
        return _polynomials(items, seed)
    raise ValueError(f"hash family {family!r} given; allowed are sha-v1, multiply-v1")


def _sha_pair(item: str) -> tuple[int, int]:
    data = item.encode()
    first = int.from_bytes(hashlib.sha256(data).digest(), "little")
    return first % PRIME, int.from_bytes(hashlib.sha224(data).digest(), "little") % PRIME


def _polynomials(items: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Two polynomials of the code points modulo 2^64, mixed by multiply and shift, mod PRIME."""
    lengths = np.array([len(item) for item in items])
    points = np.zeros((len(items), max(lengths, default=0)), np.uint64)
    points[np.arange(points.shape[1]) < lengths[:, None]] = [ord(c) for c in "".join(items)]
    bases = []
    for stream in range(2):
        value = np.full(len(items), (2 * seed + stream + 1) * int(_ODD) % 2**64, np.uint64)
        for column in range(points.shape[1]):
            mixed = (value ^ (points[:, column] + np.uint64(1))) * _ODD
            value = np.where(column < lengths, mixed ^ (mixed >> np.uint64(29)), value)
        value = (value ^ (value >> np.uint64(32))) * _ODD
        bases.append((value ^ (value >> np.uint64(29))) % np.uint64(PRIME))
    return np.stack(bases, 1).astype(np.int64)
