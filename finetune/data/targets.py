"""Where the targets of training rows lie: the scale of scores, the weights of classes. C classes.

Invariant: both come from the training rows that are used, and from no others.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from finetune.data.inspection import targets_of
from finetune.tasks.spec import SplitRows, TaskSpec


@dataclass(frozen=True, kw_only=True)
class ScoreScale:
    """Where the scores of a regression lie: the model gives (score - mean) / std."""

    mean: float = 0.0
    """Of the training rows; 0 where the model gives scores as they are."""
    std: float = 1.0
    """Of the training rows, > 0; 1 where the model gives scores as they are."""

    def inner(self, scores: Tensor) -> Tensor:
        """Return scores as the model is to give them."""
        return (scores - self.mean) / self.std

    def outer(self, outputs: Tensor) -> Tensor:
        """Return what the model gives as scores."""
        return outputs * self.std + self.mean

    @torch.no_grad()
    def take_over(self, layer: nn.Linear, earlier: "ScoreScale") -> None:
        """Let a last layer that gives scores on an earlier scale give the same ones on this."""
        layer.weight *= earlier.std / self.std
        layer.bias.copy_(self.inner(earlier.outer(layer.bias)))


def score_scale(spec: TaskSpec, train: SplitRows) -> ScoreScale:
    """Return mean and deviation of the training scores, for a task that standardises them.

    Raises:
        ValueError: All scores are equal.
    """
    if not (spec.is_regression and spec.standardises):
        return ScoreScale()
    scores_N = targets_of(spec, train.rows).astype(np.float64)
    if scores_N.min() == scores_N.max():
        raise ValueError(
            f"{train.source}: all rows have the score {scores_N[0]:g}; a regression needs two or "
            "more different ones"
        )
    return ScoreScale(mean=float(scores_N.mean()), std=float(scores_N.std()))


def balanced_weights(counts: Mapping[str, int]) -> list[float]:
    """Return rows / (classes x rows of the class) for every class, (C,).

    Args:
        counts: Label -> its training rows.

    Raises:
        ValueError: There are no classes, or one of them has no row.
    """
    if not counts or not all(counts.values()):
        missing = [label for label, count in counts.items() if not count]
        raise ValueError(
            "model.class_weights is balanced, which needs classes that all have training rows; "
            + (f"none has the label {', '.join(missing)}" if missing else "the labels are scores")
        )
    total = sum(counts.values())
    return [total / (len(counts) * count) for count in counts.values()]
