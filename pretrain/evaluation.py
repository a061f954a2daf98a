"""What evaluation reads, and what a guesser would score on it.

Invariant: evaluation examples depend on the validation split and the objective alone, not on the
run's seed, masking, devices or workers.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from pretrain.dataset import PretrainDataset
from pretrain.objectives import IGNORED_LABEL

EVALUATION_SEED = 20_110_243
"""Seed of the validation plan and masks, the same for all runs so that they compare."""

_BATCH = 64


class RankSampler(Sampler[int]):
    """Yields 0..size-1, every `world_size`-th for one rank, without repeats to pad."""

    def __init__(self, size: int, *, rank: int, world_size: int) -> None:
        """Keep the range.

        Args:
            size: Number of examples over all ranks.
            rank: This rank, from 0.
            world_size: Number of ranks.
        """
        self._range = range(rank, size, world_size)

    def __len__(self) -> int:
        """Return the number of examples of this rank."""
        return len(self._range)

    def __iter__(self) -> Iterator[int]:
        """Yield the examples of this rank in order."""
        return iter(self._range)


def baseline_scores(
    dataset: PretrainDataset,
    num_examples: int,
    *,
    counts_V: npt.NDArray[np.uint64],
    num_pair_classes: int,
) -> dict[str, float]:
    """Return what guessing scores on the first examples of an evaluation set.

    Args:
        dataset: Examples with their masks.
        num_examples: How many to look at, at most; all if there are fewer.
        counts_V: (V,) token counts of the train split.
        num_pair_classes: Classes of the pair task, 0 for none.

    Returns:
        `eval_examples`: how many were looked at;
        `unigram_accuracy`: share of masked tokens that are the train split's most frequent token;
        `unigram_loss`: cross-entropy in nats under the train split's counts plus one each;
        with a pair task also `pair_chance` (1 / classes) and `pair_majority` (share of the most
        frequent class). nan where there is nothing to score.
    """
    hits = tokens = 0
    loss = 0.0
    pair_counts = np.zeros(max(1, num_pair_classes), np.int64)
    log_prob_V = -np.log((counts_V + 1.0) / (counts_V.sum() + float(counts_V.size)))
    size = min(num_examples, len(dataset))
    for first in range(0, size, _BATCH):
        batch = dataset.__getitems__(np.arange(first, min(first + _BATCH, size)))
        labels = batch["masked_labels"].numpy()
        labels = labels[labels != IGNORED_LABEL]
        tokens += labels.size
        hits += int((labels == counts_V.argmax()).sum())
        loss += float(log_prob_V[labels].sum())
        if num_pair_classes:
            pair_counts += np.bincount(batch["pair_labels"].numpy(), minlength=num_pair_classes)
    scores = {
        "eval_examples": float(size),
        "unigram_accuracy": hits / tokens if tokens else float("nan"),
        "unigram_loss": loss / tokens if tokens else float("nan"),
    }
    if num_pair_classes:
        scores["pair_chance"] = 1.0 / num_pair_classes
        scores["pair_majority"] = float(pair_counts.max() / max(1, pair_counts.sum()))
    return scores
