"""From probabilities to yes or no: thresholds, chosen on validation. N answers, C labels.

Invariant: a threshold is chosen on validation rows alone, once an epoch, and then stays as it is.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from finetune.tasks.spec import Row, TaskSpec

Thresholds = Literal["one", "per_label"]
FEW = 10
"""Validation rows with a label below which its threshold is the common one."""
_LEAST = torch.finfo(torch.float64).tiny
"""Below any probability that is not 0."""


def best_threshold(logits_N: Tensor, holds_N: Tensor) -> float:
    """Return the probability above which saying yes scores the greatest F1, in (0, 1).

    It lies in the middle between two neighbouring probabilities, however near these are to 0, to 1
    or to each other (at the lower one, where no number is between them); of equally good ones it is
    the one nearest to a half. 0.5 where nothing holds.

    Args:
        logits_N: float (N,).
        holds_N: bool (N,), what is right.
    """
    p_N, order_N = logits_N.double().sigmoid().sort(descending=True)
    hits_N = holds_N[order_N].double().cumsum(0)
    total = float(holds_N.sum())
    if not total:
        return 0.5
    said_N = torch.arange(1, len(p_N) + 1, dtype=torch.float64)
    f1_N = 2 * hits_N / (said_N + total)
    next_N = torch.cat([p_N[1:], p_N.new_zeros(1)])
    f1_N = f1_N.masked_fill(p_N == next_N, -1.0)  # equal answers are cut together
    middle_N = (p_N + next_N) / 2
    middle_N = torch.where(middle_N < p_N, middle_N, next_N).clamp(min=_LEAST)
    best_N = (f1_N >= f1_N.max() - 1e-12).nonzero()[:, 0]
    return float(middle_N[best_N[(middle_N[best_N] - 0.5).abs().argmin()]])


def choose_thresholds(
    logits_NC: Tensor, holds_NC: Tensor, *, how: Thresholds = "one"
) -> tuple[float, ...]:
    """Return a threshold for every label.

    Args:
        logits_NC: float (N, C).
        holds_NC: bool (N, C).
        how: one: the same for all, by F1 over all answers together (micro); per_label: the best F1
            of each, and the common one for a label that fewer than `FEW` rows have, as one chosen
            on so few would be chance.
    """
    common = best_threshold(logits_NC.flatten(), holds_NC.flatten())
    if how == "one":
        return (common,) * logits_NC.shape[1]
    columns = zip(logits_NC.unbind(1), holds_NC.unbind(1), strict=True)
    return tuple(best_threshold(*both) if both[1].sum() >= FEW else common for both in columns)


def above(logits: Tensor, thresholds: tuple[float, ...]) -> Tensor:
    """Return where the probability is above its threshold, bool; 0.5 where there is none.

    Args:
        logits: float (..., C).
        thresholds: C of them, or none.
    """
    levels_C = torch.tensor(thresholds or (0.5,) * logits.shape[-1], dtype=torch.float64)
    return logits.double().sigmoid() > levels_C.to(logits.device)


def given_labels(
    labels: Sequence[str], logits_C: Tensor, thresholds: tuple[float, ...]
) -> list[str]:
    """Return which of several labels a text is given: any number, in their order."""
    is_given = above(logits_C, thresholds).tolist()
    return [label for label, holds in zip(labels, is_given, strict=True) if holds]


def sentence_threshold(
    spec: TaskSpec, rows: Sequence[Row], margins: Sequence[Sequence[float]]
) -> tuple[float, ...]:
    """Return the threshold for the second of two labels of sentences that suits some documents.

    It gives the label the greatest F1; where borders are scored, over the sentences beside which
    there can be one: the first of a document has none before it, the last none behind it.

    Args:
        spec: The task.
        rows: The documents.
        margins: Log-odds of the label at every sentence of each.
    """
    counted = slice(None)
    if "border_f1" in spec.score:
        counted = {"begins": slice(1, None), "ends": slice(-1)}.get(spec.marks, counted)
    labels = [label for row in rows if row.tagged for label in (row.tagged.tags or ())[counted]]
    holds_N = torch.tensor([label == spec.tags[1] for label in labels], dtype=torch.bool)
    margins_N = torch.tensor([margin for one in margins for margin in one[counted]])
    return (best_threshold(margins_N, holds_N),)


def thresholded(
    tags: list[list[int]], margins: list[list[float]], thresholds: tuple[float, ...]
) -> list[list[int]]:
    """Return the places of the labels of sentences: by the threshold where there are margins."""
    if not (margins and thresholds):
        return tags
    return [above(torch.tensor(one)[:, None], thresholds)[:, 0].long().tolist() for one in margins]
