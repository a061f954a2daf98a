"""The plan of an epoch: which tokens form example i, and with which label.

Invariant: `make_plan` is a pure function of (shards, objective, packing, seed, epoch). A `random`
text2 always comes from another document: the second parts of all `random` examples are exchanged
among themselves, each with one of nearly the same length, so they are all used once and lengths
tell nothing about the label.

N chunks (= examples), R examples of the class `random`, D documents.
"""

import numpy as np

from data_prep.command import counted
from data_prep.shards import TokenShards
from pretrain.objectives import Objective
from pretrain.packing import Examples, PackingConfig, cut_chunks, document_starts
from pretrain.randomness import (
    IntArray,
    UintArray,
    derive_key,
    random_below,
    random_bits,
    two_uniforms,
)

_FEW_DOCUMENTS = 4
"""From so many on, another share of them can give a split what it lacks."""
_REPAIR_ROUNDS = 48
_REUSE_CANDIDATES = 8
_NO_PARTNER = -1


def check_documents(shards: TokenShards, objective: Objective) -> None:
    """Refuse a split with fewer documents than an objective needs, and say every way out."""
    usable = int(np.count_nonzero(np.diff(document_starts(shards)) >= 2))
    in_pairs = "random" in objective.relations
    if usable >= (2 if in_pairs else 1):
        return
    builds, others = [], []
    total = sum(split.documents for split in shards.manifest.splits.values())
    if shards.split != "train" and total >= _FEW_DOCUMENTS:
        builds.append(f"a larger --validation_fraction, such as {2.5 / total:.2g},")
    builds.append(
        "more documents, or one text parted into several by --source.document_separator "
        "(blank_line, or a line such as ***)"
    )
    if usable:
        others.append("; or choose --model.objective mlm")
    if shards.split != "train":
        others.append("; or train without validation by --trainer.limit_val_batches 0")
    needs = "two, because it takes text2 from another" if in_pairs else "one"
    raise ValueError(
        f"{shards.folder}: split '{shards.split}' has {counted(usable, 'document(s)')} of "
        f"two or more tokens, and objective {objective.name!r} needs {needs}: build the shards "
        f"with {' or '.join(builds)}{''.join(others)}"
    )


def make_plan(
    shards: TokenShards, objective: Objective, packing: PackingConfig, *, seed: int, epoch: int
) -> Examples:
    """Return the examples of one epoch (from 0) in their final, shuffled order.

    Of the split only the offsets are read, and a few tokens per chunk of a single sentence.
    """
    check_documents(shards, objective)
    plan = cut_chunks(shards, packing, seed=seed, epoch=epoch)
    if objective.relations:
        key = derive_key(seed, "pairs", epoch)
        draw = two_uniforms(random_bits(key, plan.a_start))[0]
        plan.label[:] = random_below(draw, objective.num_pair_classes)
        chosen = {name: plan.label == label for label, name in enumerate(objective.relations)}
        if "random" in chosen:  # first: it reads the texts as they stand in the corpus
            _mix(plan, np.flatnonzero(chosen["random"]), document_starts(shards), key, packing)
        if "swapped" in chosen:
            _swap(plan, np.flatnonzero(chosen["swapped"]))
    stats = plan.stats
    lost = stats.tokens_unusable + stats.tokens_truncated + stats.tokens_displaced
    stats.tokens_used = stats.tokens_total - lost
    # Distinct counters give distinct bits, so the order has no ties to depend on the sort.
    return plan.take(
        np.argsort(random_bits(derive_key(seed, "order", epoch), np.arange(len(plan))))
    )


def _swap(plan: Examples, chosen: IntArray) -> None:
    for one, two in ((plan.a_start, plan.b_start), (plan.a_len, plan.b_len)):
        one[chosen], two[chosen] = two[chosen], one[chosen]


def _mix(
    plan: Examples, chosen: IntArray, starts_D: IntArray, key: np.uint64, packing: PackingConfig
) -> None:
    """Give every chosen example, in corpus order, a text2 of another document."""
    if not chosen.size:
        return
    start = plan.a_start[chosen]
    documents = np.searchsorted(starts_D, start, side="right") - 1
    lens = plan.b_len[chosen].astype(np.int64)
    bits = random_bits(derive_key(int(key), "exchange"), start)
    partner = exchange(lens, documents, bits)
    source = chosen[partner]
    alone = partner == _NO_PARTNER
    if alone.any():
        plan.stats.tokens_displaced += int(lens.sum() - lens[partner[~alone]].sum())
        plan.stats.partners_reused += int(alone.sum())
        own = starts_D[documents[alone]], starts_D[documents[alone] + 1]
        source[alone] = _reuse(plan, lens[alone], own, bits[alone])
    wanted = plan.b_len[source].astype(np.int64)
    given = np.minimum(wanted, packing.capacity - plan.a_len[chosen].astype(np.int64))
    plan.b_start[chosen], plan.b_len[chosen] = plan.b_start[source], given
    plan.stats.tokens_truncated += int((wanted - given)[~alone].sum())


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
    keys = (lens.astype(np.uint64) << np.uint64(48)) | (bits >> np.uint64(16))
    order = np.argsort(keys, kind="stable")  # 48 bits of each tie now and then
    document, bits = documents[order], bits[order]
    partner = np.roll(np.arange(order.size), -1)
    _repair(partner, document, bits)
    clash = document == document[partner]
    if clash.any():
        largest = int(np.unique(document, return_counts=True)[1].max())
        if 2 * largest <= document.size:
            partner = _rotate_documents(document, largest)
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


def _rotate_documents(document: IntArray, largest: int) -> IntArray:
    """Return partners of other documents for certain: rotate, sorted by document.

    Rotating by the size of the largest document leaves it no room to meet itself if it holds at
    most half of all. Lengths then differ, so `exchange` uses this for small corpora only.
    """
    order = np.argsort(document, kind="stable")
    partner = np.empty(document.size, np.int64)
    partner[order] = np.roll(order, -largest)
    return partner


def _reuse(
    plan: Examples, lens_R: IntArray, own: tuple[IntArray, IntArray], bits: UintArray
) -> IntArray:
    """Return chunks outside a range of tokens whose second part is about as long as the own one."""
    low = np.searchsorted(plan.a_start, own[0])
    width = np.searchsorted(plan.a_start, own[1]) - low
    candidate = np.arange(1000, 1000 + _REUSE_CANDIDATES)
    draw = two_uniforms(random_bits(bits[:, None], candidate))[0]
    place = random_below(draw, (len(plan) - width)[:, None])
    place += (place >= low[:, None]) * width[:, None]
    distance = np.abs(plan.b_len[place].astype(np.int64) - lens_R[:, None])
    return np.take_along_axis(place, distance.argmin(1)[:, None], 1)[:, 0]
