"""A task's rows to linear models, and their answers to scores. N scored rows, C outputs.

Invariant: models see training rows alone; scores are computed as those of every other run.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.baselines.models import (
    Answers,
    Text,
    are_short,
    classify_texts,
    predict_scores,
    tag_words,
)
from finetune.metrics import scores, tagging_scores
from finetune.tasks.spec import LoadedTask, Row


class TaskAnswers(NamedTuple):
    """What linear models say of all scored rows of a task, split after split."""

    outputs_NC: Tensor
    """float32: 1 at the label, or the number; C = 0 where only words are tagged."""
    tags: list[list[int]]
    """Places of the tags of every row's words; empty: words have none."""
    counted: str
    """What is counted, in words."""
    num_features: int
    """Different things that are counted, of all models."""
    num_weights: int
    """Numbers that were fitted, of all models."""


def answer_task(task: LoadedTask, *, letters: bool | None = None) -> TaskAnswers:
    """Return the answers of the models that a task's kind asks for.

    Args:
        task: With rows to train on.
        letters: Whether pieces of letters are counted; None: where texts are short.

    Raises:
        ValueError: A package is not installed, or all training rows have one label.
    """
    spec, rows = task.spec, task.splits["train"].rows
    asked = [row for name in _scored(task) for row in task.splits[name].rows]
    outputs_NC = torch.zeros(len(asked), spec.num_outputs)
    models: list[Answers] = []
    tags: list[list[int]] = []
    counted = []
    if spec.num_outputs:
        train, texts = _texts(rows), _texts(asked)
        counts_letters = are_short(train) if letters is None else letters
        targets = spec.targets_of(rows)
        if spec.is_regression:
            found = predict_scores(train, targets.tolist(), texts, letters=counts_letters)
            outputs_NC[:, 0] = torch.tensor(found.values)
        else:
            names = [spec.labels[target] for target in targets]
            found = classify_texts(train, names, texts, letters=counts_letters)
            places = torch.tensor([spec.labels.index(label) for label in found.values])
            outputs_NC[torch.arange(len(asked)), places] = 1.0
        models.append(found)
        counted.append("words, word pairs" + ", letters" * counts_letters)
    if spec.is_tagging:
        known = [row.tagged for row in rows if row.tagged and row.tagged.tags]
        words = [row.tagged.words for row in asked if row.tagged]
        found = tag_words([t.words for t in known], [t.tags or () for t in known], words)
        tags = [[spec.tags.index(tag) for tag in one] for one in found.values]
        models.append(found)
        counted.append("neighbours and affixes of every word")
    return TaskAnswers(
        outputs_NC,
        tags,
        counted="; ".join(counted),
        num_features=sum(found.num_features for found in models),
        num_weights=sum(found.num_weights for found in models),
    )


def evaluate(task: LoadedTask, answers: TaskAnswers) -> dict[str, dict[str, float]]:
    """Return split -> metric -> value, with the number of rows."""
    spec, train = task.spec, task.splits["train"].rows
    found, start, tags = {}, 0, iter(answers.tags)
    for name in _scored(task):
        rows = task.splits[name].rows
        outputs = answers.outputs_NC[start : start + len(rows)]
        start += len(rows)
        if spec.is_tagging:
            own = list(islice(tags, len(rows)))
            values = tagging_scores(spec, rows, outputs, own, train=train)
        else:
            values = scores(spec, outputs, torch.from_numpy(spec.targets_of(rows)))
        found[name] = {**values, "num_rows": len(rows)}
    return found


def _scored(task: LoadedTask) -> tuple[str, ...]:
    return (*task.validation_splits, *task.test_splits)


def _texts(rows: Sequence[Row]) -> list[Text]:
    return [(row.text, row.text_pair) for row in rows]
