"""What targets are to the loss: its rows, the scale of scores, the weights of classes.

Invariant: scale and weights are of the training rows alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from finetune.tasks.spec import SplitRows, TaskSpec
from ponet.heads import SequenceClassifier


def row_losses(
    outputs_BC: Tensor,
    targets_B: Tensor,
    *,
    is_regression: bool,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Return the loss of each row, float32 (B,): cross-entropy in nats, or the squared error.

    Of any number of labels the binary cross-entropy, as a mean over the labels.

    Args:
        outputs_BC: Logits, or (B, 1) scores of a regression.
        targets_B: int64 classes, scores, or of several labels (B, C + 1) as `targets_of` says.
        is_regression: Whether they are scores.
        class_weights_C: What the loss of a row of each class is multiplied by; None: 1.
    """
    outputs_BC = outputs_BC.float()
    if is_regression:
        return mse_loss(outputs_BC[:, 0], targets_B.float(), reduction="none")
    if targets_B.ndim == 2:
        targets_BC = targets_B[:, :-1].float()
        return binary_cross_entropy_with_logits(outputs_BC, targets_BC, reduction="none").mean(1)
    return cross_entropy(outputs_BC, targets_B, weight=class_weights_C, reduction="none")


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

    def take_over(self, model: SequenceClassifier, earlier: "ScoreScale") -> None:
        """Let a model that gives scores on an earlier scale give the same ones on this."""
        shift = (earlier.mean - self.mean) / self.std
        model.rescale(factor=earlier.std / self.std, shift=shift)


def score_scale(spec: TaskSpec, train: SplitRows) -> ScoreScale:
    """Return mean and deviation of the training scores, for a task that standardises them."""
    if not (spec.is_regression and spec.standardises):
        return ScoreScale()
    scores_N = spec.targets_of(train.rows).astype(np.float64)
    if scores_N.min() == scores_N.max():
        raise ValueError(
            f"{train.source}: all rows have the score {scores_N[0]:g}; a regression needs two or "
            "more different ones"
        )
    return ScoreScale(mean=float(scores_N.mean()), std=float(scores_N.std()))


def balanced_weights(counts: Mapping[str, int]) -> list[float]:
    """Return rows / (classes x rows of the class) for every class, given label -> training rows."""
    missing = [label for label, count in counts.items() if not count]
    if missing or not counts:
        what = f"none has the label {', '.join(missing)}" if missing else "here are none"
        raise ValueError(
            "model.class_weights is balanced, which needs classes that all have training rows; "
            + what
        )
    total = sum(counts.values())
    return [total / (len(counts) * count) for count in counts.values()]
