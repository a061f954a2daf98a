"""A task's rows to linear models, and their answers to scores. N scored rows, C outputs.

Invariant: models see training rows alone; scores are computed as those of every other run.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from finetune.baselines.models import (
    Answers,
    Text,
    are_short,
    classify_texts,
    predict_scores,
    several_labels,
    tag_words,
)
from finetune.metrics import scores, sentence_scores, tagging_scores
from finetune.sentences.lexical import BLOCKS, dips, linear_labels
from finetune.tasks.spec import LoadedTask, Row, TaggedText
from finetune.thresholds import choose_thresholds, sentence_threshold, thresholded

SentenceModel = Literal["linear", "dips"]


class TaskAnswers(NamedTuple):
    """What linear models say of all scored rows of a task, split after split."""

    outputs_NC: Tensor
    """float32: 1 at the label, the number, or of several labels how much speaks for each; C = 0
    where only words or sentences are tagged."""
    tags: list[list[int]]
    """Places of the tags of every row's words or sentences; empty: these have none."""
    counted: str
    """What is counted, in words."""
    num_features: int
    """Different things that are counted, of all models."""
    num_weights: int
    """Numbers that were fitted, of all models."""
    margins: list[list[float]] = []
    """How much speaks for the second of two labels of every sentence; empty: not of that kind."""


def answer_task(
    task: LoadedTask, *, letters: bool | None = None, sentences: SentenceModel = "linear"
) -> TaskAnswers:
    """Return the answers of the models that a task's kind asks for.

    Args:
        task: With rows to train on.
        letters: Whether pieces of letters are counted; None: where texts are short.
        sentences: How sentences get their labels; dips are for two.

    Raises:
        ValueError: A package is not installed, or all training rows have one label.
    """
    if task.spec.labels_sentences:
        return _answer_documents(task, sentences)
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
        elif spec.is_multilabel:
            found = several_labels(train, targets[:, :-1], texts, letters=counts_letters)
            outputs_NC = torch.tensor(found.values)
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


def _answer_documents(task: LoadedTask, how: SentenceModel) -> TaskAnswers:
    """Return the labels of sentences; dips by the block that suits validation best."""
    spec = task.spec
    train = [row.tagged for row in task.splits["train"].rows if row.tagged]
    parts = {name: [r.tagged for r in task.splits[name].rows if r.tagged] for name in _scored(task)}
    known, asked = _sentences(train), _sentences(text for part in parts.values() for text in part)
    if how == "linear":
        labels = [text.tags or () for text in train]
        positive = spec.tags[1] if len(spec.tags) == 2 else ""
        found = linear_labels(known, labels, asked, positive=positive)
        counted = "words of a sentence and its neighbours"
    elif len(spec.tags) != 2 or spec.marks not in ("begins", "ends"):
        raise ValueError(
            f"--sentences dips finds borders: it needs --data.marks begins or ends; {spec.marks} "
            "given"
        )
    else:
        name, begins = task.validation_splits[0], spec.marks == "begins"
        tried = {
            size: dips(known, _sentences(parts[name]), block=size, begins=begins) for size in BLOCKS
        }
        size = max(tried, key=lambda size: _best_score(task, name, tried[size].margins))
        found = dips(known, asked, block=size, begins=begins)
        counted = f"cosine of blocks of {size} sentences, the block chosen on validation"
    tags = [[spec.tags.index(label) for label in one] for one in found.labels]
    tags = tags or [[0] * len(one) for one in asked]
    return TaskAnswers(
        torch.empty(len(asked), 0), tags, counted, found.num_features, found.num_weights,
        found.margins,
    )  # fmt: skip


def _best_score(task: LoadedTask, name: str, margins: Sequence[Sequence[float]]) -> float:
    """Return the score of a split by the threshold that suits it best."""
    rows, own = task.splits[name].rows, [list(one) for one in margins]
    levels = sentence_threshold(task.spec, rows, own)
    return sentence_scores(task.spec, rows, thresholded([], own, levels))["score"]


def _sentences(texts: Iterable[TaggedText]) -> list[Sequence[str]]:
    return [text.words for text in texts]


def evaluate(task: LoadedTask, answers: TaskAnswers) -> dict[str, dict[str, float]]:
    """Return split -> metric -> value, with the number of rows.

    Thresholds are those that suit the first validation split best.
    """
    spec, train = task.spec, task.splits["train"].rows
    found, start, levels = dict[str, dict[str, float]](), 0, tuple[float, ...]()
    for name in _scored(task):
        rows = task.splits[name].rows
        own = slice(start, start + len(rows))
        outputs, tags, margins = answers.outputs_NC[own], answers.tags[own], answers.margins[own]
        start += len(rows)
        targets = torch.from_numpy(spec.targets_of(rows))
        if spec.labels_sentences:
            levels = levels or (sentence_threshold(spec, rows, margins) if margins else ())
            values = sentence_scores(spec, rows, thresholded(tags, margins, levels))
        elif spec.is_tagging:
            values = tagging_scores(spec, rows, outputs, tags, train=train)
        else:
            if spec.is_multilabel:
                levels = levels or choose_thresholds(outputs, targets[:, :-1] > 0)
            values = scores(spec, outputs, targets, thresholds=levels)
        found[name] = {**values, "num_rows": len(rows)}
    return found


def _scored(task: LoadedTask) -> tuple[str, ...]:
    return (*task.validation_splits, *task.test_splits)


def _texts(rows: Sequence[Row]) -> list[Text]:
    return [(row.text, row.text_pair) for row in rows]
