"""The plan of an epoch: which tokens form example i, and with which label.

Invariant: `make_plan` is a pure function of (shards, objective, packing, seed, epoch).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_prep.shards import TokenShards
from pretrain.objectives import Objective
from pretrain.packing import PackingConfig, cut_chunks, document_starts
from pretrain.pairing import make_pairs
from pretrain.randomness import IntArray, derive_key, random_bits

_FEW_DOCUMENTS = 4
"""From so many on, another share of them can give a split what it lacks."""


@dataclass(frozen=True, kw_only=True)
class PlanStats:
    """Where the tokens of the split went, and what was repaired."""

    examples: int
    """Number of examples."""
    tokens_total: int
    """Tokens of the split."""
    tokens_used: int
    """Tokens that are in exactly one example (or more, for `partners_reused`)."""
    tokens_unusable: int
    """Tokens alone in their document, or caught between two full chunks."""
    tokens_truncated: int
    """Tokens cut from the end of a text2 that did not fit."""
    tokens_displaced: int
    """Tokens that found no partner because one document holds more than half of the corpus."""
    partners_reused: int
    """Examples whose text2 is used a second time, for the same reason."""
    cut_sentences: int
    """Sentences longer than a chunk, cut in pieces."""
    split_inside_sentence: int
    """Examples whose two texts meet inside a sentence, because the chunk has only one."""

    @property
    def coverage(self) -> float:
        """Share of the tokens that this epoch uses."""
        return self.tokens_used / max(1, self.tokens_total)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpochPlan:
    """All examples of one epoch in their final, shuffled order; 21 bytes per example."""

    a_start: IntArray
    """(N,) int64, first token of text1 (the later part in `swapped` examples)."""
    b_start: IntArray
    """(N,) int64, first token of text2."""
    a_len: npt.NDArray[np.uint16]
    """(N,) uint16, tokens of text1, at least 1."""
    b_len: npt.NDArray[np.uint16]
    """(N,) uint16, tokens of text2, at least 1."""
    label: npt.NDArray[np.int8]
    """(N,) int8, pair label, -100 without a pair task."""
    stats: PlanStats
    """Counters."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return int(self.a_start.size)

    @property
    def a_end(self) -> IntArray:
        """(N,) int64, the token after text1."""
        return self.a_start + self.a_len

    @property
    def b_end(self) -> IntArray:
        """(N,) int64, the token after text2."""
        return self.b_start + self.b_len


def check_documents(shards: TokenShards, objective: Objective) -> None:
    """Refuse a split with fewer documents than an objective needs, in time that hardly counts.

    Raises:
        ValueError: Says what the split holds and every way out.
    """
    usable = int(np.count_nonzero(np.diff(document_starts(shards)) >= 2))
    if usable >= (2 if objective.needs_two_documents else 1):
        return
    ways = []
    total = sum(split.documents for split in shards.manifest.splits.values())
    if shards.split != "train" and total >= _FEW_DOCUMENTS:
        ways.append(f"a larger --validation_fraction, such as {2.5 / total:.2g},")
    ways += [
        "more documents, or one text parted into several by --source.document_separator "
        "(blank_line, or a line such as ***)"
    ]
    builds = f"build the shards with {' or '.join(ways)}"
    needs = f"objective {objective.name!r} needs "
    needs += "two, because it takes text2 from another" if objective.needs_two_documents else "one"
    others = ["choose --model.objective mlm"] if usable else []
    if shards.split != "train":
        others.append("train without validation by --trainer.limit_val_batches 0")
    raise ValueError(
        f"{shards.folder}: split '{shards.split}' has {usable} document{'s' * (usable != 1)} of "
        f"two or more tokens, and {needs}: {'; or '.join([builds, *others])}"
    )


def make_plan(
    shards: TokenShards, objective: Objective, packing: PackingConfig, *, seed: int, epoch: int
) -> EpochPlan:
    """Return the plan of one epoch.

    Args:
        shards: The split to read; only its offsets are read, apart from a few tokens per chunk
            that is a single sentence.
        objective: Which pairs to make.
        packing: How to cut chunks.
        seed: Seed of the run.
        epoch: Number of the pass over the split, from 0.

    Raises:
        ValueError: The split holds fewer documents than the objective needs.
    """
    check_documents(shards, objective)
    chunks = cut_chunks(shards, packing, seed=seed, epoch=epoch)
    pairs = make_pairs(
        chunks,
        objective,
        document_starts_D=document_starts(shards),
        key=derive_key(seed, "pairs", epoch),
        capacity=packing.capacity,
    )
    lost = chunks.tokens_unusable + pairs.tokens_truncated + pairs.tokens_displaced
    stats = PlanStats(
        examples=int(chunks.start_N.size),
        tokens_total=shards.num_tokens,
        tokens_used=shards.num_tokens - lost,
        tokens_unusable=chunks.tokens_unusable,
        tokens_truncated=pairs.tokens_truncated,
        tokens_displaced=pairs.tokens_displaced,
        partners_reused=pairs.partners_reused,
        cut_sentences=chunks.cut_sentences,
        split_inside_sentence=chunks.split_inside_sentence,
    )
    # Distinct counters give distinct bits, so the order has no ties to depend on the sort.
    order = np.argsort(random_bits(derive_key(seed, "order", epoch), np.arange(stats.examples)))
    return EpochPlan(
        a_start=pairs.text1_start_N[order],
        b_start=pairs.text2_start_N[order],
        a_len=pairs.text1_len_N[order],
        b_len=pairs.text2_len_N[order],
        label=pairs.label_N[order],
        stats=stats,
    )
