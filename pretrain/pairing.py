"""Turn chunks into pairs of texts with a label, without losing tokens.

Invariant: a `random` text2 always comes from another document. The second parts of all `random`
examples are exchanged among themselves, each with one of nearly the same length, so they are all
used once and lengths tell nothing about the label.

N chunks (= examples), R examples of the class `random`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pretrain.objectives import IGNORED_LABEL, Objective
from pretrain.packing import Chunks
from pretrain.randomness import (
    IntArray,
    UintArray,
    derive_key,
    random_below,
    random_bits,
    two_uniforms,
)

_REPAIR_ROUNDS = 48
_REUSE_CANDIDATES = 8
_NO_PARTNER = -1


@dataclass(kw_only=True, eq=False)
class Pairs:
    """Pairs of texts in corpus order, and what their making cost."""

    text1_start_N: IntArray
    """(N,) int64, first token of text1."""
    text2_start_N: IntArray
    """(N,) int64, first token of text2."""
    text1_len_N: npt.NDArray[np.uint16]
    """(N,) uint16, tokens of text1, at least 1."""
    text2_len_N: npt.NDArray[np.uint16]
    """(N,) uint16, tokens of text2, at least 1."""
    label_N: npt.NDArray[np.int8]
    """(N,) int8, index into the objective's relations; -100 without a pair task."""
    tokens_truncated: int = 0
    """Tokens cut from the end of a text2 that did not fit."""
    tokens_displaced: int = 0
    """Tokens of second parts that found no text1 of another document."""
    partners_reused: int = 0
    """Examples whose text2 is used a second time, because one document dominates the corpus."""


def make_pairs(
    chunks: Chunks,
    objective: Objective,
    *,
    document_starts_D: IntArray,
    key: np.uint64,
    capacity: int,
) -> Pairs:
    """Return one example per chunk, labels drawn independently with equal probability.

    Args:
        chunks: The chunks of the epoch, in corpus order.
        objective: Which relations exist.
        document_starts_D: (D+1,) int64, token where each document starts.
        key: Key of (seed, epoch).
        capacity: Largest number of tokens of text1 and text2 together.
    """
    start = chunks.start_N
    pairs = Pairs(
        text1_start_N=start.copy(),
        text2_start_N=start + chunks.first_len_N,
        text1_len_N=chunks.first_len_N.copy(),
        text2_len_N=chunks.second_len_N.copy(),
        label_N=np.full(start.size, IGNORED_LABEL, np.int8),
    )
    if not objective.relations or not start.size:
        return pairs
    draw = two_uniforms(random_bits(key, start))[0]
    pairs.label_N = random_below(draw, objective.num_pair_classes).astype(np.int8)
    for label, relation in enumerate(objective.relations):
        chosen = np.flatnonzero(pairs.label_N == label)
        if relation == "swapped":
            _swap(pairs, chosen)
        elif relation == "random":
            _mix(pairs, chosen, chunks, document_starts_D, key=key, capacity=capacity)
    return pairs


def _document_of(start: IntArray, document_starts_D: IntArray) -> IntArray:
    return np.searchsorted(document_starts_D, start, side="right") - 1


def _swap(pairs: Pairs, chosen: IntArray) -> None:
    for one, two in (
        (pairs.text1_start_N, pairs.text2_start_N),
        (pairs.text1_len_N, pairs.text2_len_N),
    ):
        one[chosen], two[chosen] = two[chosen], one[chosen]


def _mix(
    pairs: Pairs,
    chosen: IntArray,
    chunks: Chunks,
    document_starts_D: IntArray,
    *,
    key: np.uint64,
    capacity: int,
) -> None:
    """Give every chosen example a text2 of another document."""
    if not chosen.size:
        return
    documents = _document_of(chunks.start_N[chosen], document_starts_D)
    lens = chunks.second_len_N[chosen].astype(np.int64)
    bits = random_bits(derive_key(int(key), "exchange"), chunks.start_N[chosen])
    partner = exchange(lens, documents, bits)
    source = chosen[partner]
    unmatched = np.flatnonzero(partner == _NO_PARTNER)
    if unmatched.size:
        used = np.zeros(chosen.size, np.bool_)
        used[partner[partner != _NO_PARTNER]] = True
        pairs.tokens_displaced += int(lens[~used].sum())
        pairs.partners_reused += int(unmatched.size)
        own = document_starts_D[documents[unmatched]], document_starts_D[documents[unmatched] + 1]
        source[unmatched] = _reuse(chunks, chosen[unmatched], own, bits[unmatched])
    pairs.text2_start_N[chosen] = chunks.start_N[source] + chunks.first_len_N[source]
    wanted = chunks.second_len_N[source].astype(np.int64)
    given = np.minimum(wanted, capacity - chunks.first_len_N[chosen].astype(np.int64))
    pairs.text2_len_N[chosen] = given
    pairs.tokens_truncated += int((wanted - given)[partner != _NO_PARTNER].sum())


def exchange(lens: IntArray, documents: IntArray, bits: UintArray) -> IntArray:
    """Return whose second part each example gets: a permutation into other documents.

    Args:
        lens: (R,) int64, tokens of each second part, below 65536.
        documents: (R,) int64, document of each example.
        bits: (R,) uint64, random numbers that order parts of equal length.

    Returns:
        (R,) int64; -1 where no partner of another document was left, which happens only if one
        document holds more than half of the examples (or there is a single example).
    """
    order = np.argsort((lens.astype(np.uint64) << np.uint64(48)) | (bits >> np.uint64(16)))
    document, bits = documents[order], bits[order]
    partner = np.roll(np.arange(order.size), -1)
    _repair(partner, document, bits)
    clash = document == document[partner]
    if clash.any() and 2 * np.bincount(np.unique(document, return_inverse=True)[1]).max() <= len(
        order
    ):
        partner = _rotate_documents(document)
        clash[:] = False
    result = np.empty(order.size, np.int64)
    result[order] = np.where(clash, _NO_PARTNER, order[partner])
    return result


def _repair(partner: IntArray, document: IntArray, bits: UintArray) -> None:
    """Swap partners of neighbours in length, in place, until no pair is of one document."""
    size = partner.size
    for attempt in range(_REPAIR_ROUNDS):
        clash = np.flatnonzero(document == document[partner])
        if not clash.size or size < 2:
            return
        window = min(size - 1, 8 << min(attempt, 40))
        draw = two_uniforms(random_bits(bits[clash], np.int64(attempt)))[0]
        other = (clash + 1 + random_below(draw, window)) % size
        helps = (document[clash] != document[partner[other]]) & (
            document[other] != document[partner[clash]]
        )
        clash, other = clash[helps], other[helps]
        both = np.concatenate([clash, other])
        first_use = np.zeros(both.size, np.bool_)
        first_use[np.unique(both, return_index=True)[1]] = True
        alone = first_use[: clash.size] & first_use[clash.size :]
        clash, other = clash[alone], other[alone]
        partner[clash], partner[other] = partner[other], partner[clash]


def _rotate_documents(document: IntArray) -> IntArray:
    """Return partners of other documents for certain: rotate, sorted by document.

    Rotating by the size of the largest document leaves it no room to meet itself if it holds at
    most half of all. Lengths then differ, so `exchange` uses this for small corpora only.
    """
    order = np.argsort(document, kind="stable")
    largest = int(np.unique(document, return_counts=True)[1].max())
    partner = np.empty(document.size, np.int64)
    partner[order] = np.roll(order, -largest)
    return partner


def _reuse(
    chunks: Chunks, chosen: IntArray, own: tuple[IntArray, IntArray], bits: UintArray
) -> IntArray:
    """Return chunks of other documents whose second part is about as long as the own one."""
    low = np.searchsorted(chunks.start_N, own[0])
    width = np.searchsorted(chunks.start_N, own[1]) - low
    size = chunks.start_N.size
    candidate = np.arange(1000, 1000 + _REUSE_CANDIDATES)
    draw = two_uniforms(random_bits(bits[:, None], candidate))[0]
    place = random_below(draw, (size - width)[:, None])
    place += (place >= low[:, None]) * width[:, None]
    lens = chunks.second_len_N.astype(np.int64)
    distance = np.abs(lens[place] - lens[chosen][:, None])
    return np.take_along_axis(place, distance.argmin(1)[:, None], 1)[:, 0]
