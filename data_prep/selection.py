"""Which documents are kept, and in which split: decided by content and order alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.config import BuildConfig, Source
from data_prep.workers import DROP, TRAIN, VALIDATION, load_part

Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The fate of every document, part by part."""

    parts: list[Path]
    """Text parts in order."""
    fates: list[npt.NDArray[np.uint8]]
    """Per part (D,): 0 drop, 1 train, 2 validation."""
    train_chosen: list[Bools]
    """Per part (D,): documents the tokenizer is trained on."""
    train_chars: int
    """Characters of those documents."""
    chars: int
    """Characters of all documents."""


def select_documents(
    parts: Sequence[tuple[int, Path]], config: BuildConfig, counters: Counter[str]
) -> Selection:
    """Apply limits, drop duplicates and choose the validation split.

    Uses 16 bytes per document for its hash, and about as much again for sorting.

    Args:
        parts: Index of the source and path of every text part, in order.
        config: Limits, duplicates, share of validation.
        counters: Gets `documents_duplicate` and `documents_over_limit`.
    """
    loaded = [load_part(path, ("hashes", "char_lens"))[0] for _, path in parts]
    sizes = [part["char_lens"].size for part in loaded]
    hashes = np.concatenate([part["hashes"] for part in loaded]).reshape(-1, 2)
    chars = np.concatenate([part["char_lens"] for part in loaded])
    owners = np.repeat([source for source, _ in parts], sizes)
    kept = _within_limits(owners, chars, config.sources)
    counters["documents_over_limit"] += int(np.count_nonzero(~kept))
    if config.cleaning.drop_duplicates:
        first = _first_of_equal(hashes, kept)
        counters["documents_duplicate"] += int(np.count_nonzero(kept & ~first))
        kept &= first
    if not kept.any():
        raise ValueError("no document is left after cleaning; check the sources and the limits.")
    fates = np.where(kept, TRAIN, DROP).astype(np.uint8)
    fates[_validation(hashes, kept, config.validation_fraction)] = VALIDATION
    chosen = _training_sample(hashes, fates == TRAIN, chars, config.tokenizer.train_megabytes)
    borders = np.cumsum(sizes)[:-1]
    return Selection(
        parts=[path for _, path in parts],
        fates=np.split(fates, borders),
        train_chosen=np.split(chosen, borders),
        train_chars=int(chars[chosen].sum()),
        chars=int(chars.sum()),
    )


def _within_limits(owners: Ints, chars: Ints, sources: Sequence[Source]) -> Bools:
    kept = np.ones(owners.size, np.bool_)
    for index, source in enumerate(sources):
        mine = np.flatnonzero(owners == index)
        before = np.cumsum(chars[mine]) - chars[mine]
        if source.max_documents:
            kept[mine[source.max_documents :]] = False
        if source.max_megabytes:
            kept[mine[before >= source.max_megabytes * 1e6]] = False
    return kept


def reaches_limit(source: Source, documents: int, chars: int) -> bool:
    """Return whether a source needs no more documents than those already cleaned."""
    enough_documents = bool(source.max_documents) and documents >= source.max_documents
    enough_text = bool(source.max_megabytes) and chars >= source.max_megabytes * 1e6
    return enough_documents or enough_text


def _first_of_equal(hashes: Hashes, kept: Bools) -> Bools:
    """Return True for kept documents whose hash no earlier kept document has."""
    places = np.flatnonzero(kept)
    order = places[np.lexsort((hashes[places, 1], hashes[places, 0]))]
    ordered = hashes[order]
    is_first = np.ones(order.size, np.bool_)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.zeros(kept.size, np.bool_)
    first[order[is_first]] = True
    return first


def _validation(hashes: Hashes, kept: Bools, fraction: float) -> Ints:
    """Return places of the validation documents, those with the smallest hashes.

    Of four or more documents either split gets two, which pair objectives need. Where chance leaves
    it fewer, validation gets a tenth of them, at most ten.
    """
    places: Ints = np.flatnonzero(kept)
    keys = hashes[places, 0]
    distinct = np.unique(keys)
    if fraction == 0 or distinct.size < 2:
        return places[:0]
    least = 2 if distinct.size >= 4 else 1
    count = int(np.searchsorted(distinct, np.uint64(int(fraction * 2**64))))
    if count < least:
        count = min(10, max(least, distinct.size // 10))
    count = min(count, distinct.size - least)
    selected: Ints = places[keys <= distinct[count - 1]]
    return selected


def _training_sample(hashes: Hashes, train: Bools, chars: Ints, megabytes: float) -> Bools:
    """Return the documents for tokenizer training: a share spread over the whole corpus."""
    total = int(chars[train].sum())
    if not megabytes or total <= megabytes * 1e6:
        return train
    share = megabytes * 1e6 / total
    sample = train & (hashes[:, 1] < np.uint64(int(share * 2**64)))
    return sample if sample.any() else train
