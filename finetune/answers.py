"""What a model answers of the rows of a split, gathered from batches and processes.

N rows, C labels, T tags, B batch, L tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from finetune.data.batches import NO_TAG, TaskBatch
from ponet.tagger import SentenceTagger, Tagger, TaggerOutput


class Answers(NamedTuple):
    """Answers for some rows, on the CPU, in any order until they are put together."""

    row_ids: Tensor
    """int64 (N,): numbers of the rows in their split."""
    outputs: Tensor
    """float32 (N, C): logits of the labels, or scores; C is 0 where texts have no label."""
    targets: Tensor
    """(N,)."""
    tag_losses: Tensor
    """float32 (N, 2): summed loss in nats of the words of a row, and their number; 0 where no
    tag is known."""
    tags: list[list[int]]
    """For each row the places of its words' tags, or its sentences'; empty without tags."""
    margins: list[list[float]] = []
    """For each row the log-odds of the second of two tags of sentences; empty: there are none."""


def tagger_answers(model: Tagger, output: TaggerOutput, batch: TaskBatch) -> Answers:
    """Return the best tags of the words of a batch, and the logits of the labels.

    Losses are computed where the batch has tags.
    """
    assert batch.words_BL is not None
    found_BL, words_BL = model.decode(output, batch.words_BL).cpu(), batch.words_BL.cpu()
    margins_BL = model.margins(output) if isinstance(model, SentenceTagger) else None
    labels_BC = output.label_logits
    losses_B2 = torch.zeros(len(found_BL), 2)
    if batch.tags_BL is not None:
        known_B = (batch.tags_BL != NO_TAG).sum(1)
        losses_B2 = torch.stack([model.loss(output, batch.tags_BL), known_B], 1).cpu()
    return Answers(
        batch.row_ids_B.cpu(),
        torch.empty(len(found_BL), 0) if labels_BC is None else labels_BC.float().cpu(),
        batch.targets_B.cpu(),
        losses_B2,
        _at_words(found_BL, words_BL),
        [] if margins_BL is None else _at_words(margins_BL.float().cpu(), words_BL),
    )


def _at_words(values_BL: Tensor, words_BL: Tensor) -> list[list[Any]]:
    return [row_L[words_L].tolist() for row_L, words_L in zip(values_BL, words_BL, strict=True)]


def text_answers(outputs_BC: Tensor, batch: TaskBatch) -> Answers:
    """Return the outputs for the texts of a batch."""
    none = torch.zeros(len(outputs_BC), 2)
    return Answers(batch.row_ids_B.cpu(), outputs_BC.cpu(), batch.targets_B.cpu(), none, [])


def all_answers(parts: Sequence[Answers], *, num_ranks: int = 1) -> Answers:
    """Return the answers of all processes for a split, in the order of its rows.

    The ranks' shares may differ in size, so they travel as objects.
    """
    shares = [list(parts)]
    if num_ranks > 1:
        gathered: list[Any] = [None] * num_ranks
        distributed.all_gather_object(gathered, list(parts))
        shares = gathered
    every = [part for share in shares for part in share]
    tags = [row for part in every for row in part.tags]
    margins = [row for part in every for row in part.margins]
    ids_N = torch.cat([part.row_ids for part in every])
    order_N = ids_N.argsort()
    return Answers(
        ids_N[order_N],
        torch.cat([part.outputs for part in every])[order_N],
        torch.cat([part.targets for part in every])[order_N],
        torch.cat([part.tag_losses for part in every])[order_N],
        [tags[place] for place in order_N.tolist()] if tags else [],
        [margins[place] for place in order_N.tolist()] if margins else [],
    )
