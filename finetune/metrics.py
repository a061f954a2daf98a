"""Scores of one split, computed from all of its rows at once. N rows, C classes.

Invariant: a score depends on the rows of a split and on nothing else: not on their order, on the
batches they came in or on the number of processes that computed them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
)
from torchmetrics.functional.regression import (
    mean_squared_error,
    pearson_corrcoef,
    spearman_corrcoef,
)

from finetune.sentences.scores import HAS_BORDERS, border_scores, borders_of
from finetune.tagging.scores import Parse, tag_scores
from finetune.tasks.spec import UNSEEN, Row, TaskSpec
from finetune.thresholds import above

OF_ONE_CLASS = ("precision", "recall", "f1")
"""What is said of every class, where they are few: `f1/<label>`."""
_MOST_CLASSES_SHOWN = 20


def scores(
    spec: TaskSpec, outputs: Tensor, targets: Tensor, *, thresholds: tuple[float, ...] = ()
) -> dict[str, float]:
    """Return every metric that applies to a task, as fractions, and `score`, what chooses.

    Two classes: `accuracy`, `f1` (of `spec.f1_label`), `micro_f1`, `macro_f1`, `matthews`; more:
    the same without `f1`; up to 20 classes also `precision/<label>`, `recall/<label>` and
    `f1/<label>`; a regression: `pearson`, `spearman`, `mse` and `r2`, the share of the variance
    that is explained. `macro_f1` is the mean over the classes that occur among targets or
    predictions. A correlation or share that is not defined, because all predictions or all targets
    are equal or one is not finite, is 0.0, and so is a score of a class without hits.

    Any number of labels for a text: `exact_match` (all of a text right), `micro_precision`,
    `micro_recall` and `micro_f1` over all answers together, `macro_f1` as above, and those of
    every label. Without a label, in targets and predictions, `micro_f1` is 1.

    Args:
        spec: The task; the mean of its `score` metrics is `score`.
        outputs: float (N, C) logits, or (N, 1) predicted scores; N >= 1.
        targets: int64 (N,) classes or `UNSEEN`, float (N,) scores, or of several labels
            (N, C + 1) as `TaskSpec.targets_of` says.
        thresholds: Of every label, as `thresholds.above` takes them.

    Raises:
        ValueError: No rows, shapes that do not fit, or a score metric that the task does not have.
    """
    wanted = (targets.shape[0], spec.num_outputs)
    rank = 1 + spec.is_multilabel
    if targets.ndim != rank or not len(targets) or tuple(outputs.shape) != wanted:
        raise ValueError(
            f"task {spec.name}: outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} "
            f"given; (N, {spec.num_outputs}) and {'(N, C + 1)' if rank > 1 else '(N,)'} with "
            "N >= 1 are needed"
        )
    outputs, targets = outputs.detach().cpu(), targets.detach().cpu()
    if spec.is_multilabel:
        return _with_score(spec, _label_scores(spec, above(outputs, thresholds), targets))
    values = (
        _regression_scores(outputs[:, 0].double(), targets.double())
        if spec.is_regression
        else _class_scores(spec, outputs.argmax(-1), targets.long())
    )
    return _with_score(spec, values)


def tagging_scores(
    spec: TaskSpec,
    rows: Sequence[Row],
    label_logits: Tensor,
    tags: Sequence[Sequence[int]],
    *,
    train: Sequence[Row] = (),
) -> dict[str, float]:
    """Return the scores of tagged texts as fractions, and `score`, what chooses.

    Those of `tag_scores`; of several languages the mean over them, and each as `slot_em/de`. With
    training rows also `slot_em_new` and `frame_em_new`, without the texts that stand in train too;
    a language whose texts all do is left out of their mean.

    Args:
        spec: The task.
        rows: What is right.
        label_logits: float (N, C), C = 0 where texts have no label.
        tags: Places of the tags of every row's words, fewer where a text was cut.
        train: Training rows.
    """
    pairs = [
        (_gold(spec, row), _said(spec, row_C, numbers))
        for row, row_C, numbers in zip(rows, label_logits, tags, strict=True)
    ]
    numbered = list(zip(rows, pairs, strict=True))
    found = _by_language(numbered)
    values = _mean_over_languages(found)
    if len(found) > 1:
        values |= {f"{name}/{key}": one[name] for key, one in found.items() for name in values}
    seen = {row.key for row in train}
    fresh = [(row, pair) for row, pair in numbered if row.key not in seen]
    if seen and fresh:
        exact = _mean_over_languages(_by_language(fresh))
        values |= {f"{name}_new": exact[name] for name in ("slot_em", "frame_em") if name in exact}
    return _with_score(spec, values)


def _by_language(rows: Iterable[tuple[Row, tuple[Parse, Parse]]]) -> dict[str, dict[str, float]]:
    """Language -> its scores, of rows with what is right and what was said."""
    of_language: dict[str, list[tuple[Parse, Parse]]] = defaultdict(list)
    for row, pair in rows:
        of_language[row.tagged.language if row.tagged else ""].append(pair)
    return {name: tag_scores(*zip(*own, strict=True)) for name, own in of_language.items()}


def _mean_over_languages(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores that all languages have, each language counting alike."""
    names = [n for n in next(iter(found.values())) if all(n in one for one in found.values())]
    return {name: sum(one[name] for one in found.values()) / len(found) for name in names}


def sentence_scores(
    spec: TaskSpec, rows: Sequence[Row], tags: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return the scores of documents with labelled sentences, and `score`, what chooses.

    Those of `scores` over all sentences together; where labels mark borders also those of
    `border_scores`. A label that training never saw is an error.

    Args:
        spec: The task.
        rows: What is right.
        tags: Places of the labels of every document's sentences.
    """
    gold = [row.tagged.tags or () for row in rows if row.tagged]
    found = [[spec.tags[place] for place in one] for one in tags]
    places = {tag: place for place, tag in enumerate(spec.tags)}
    flat = replace(spec, labels=spec.tags, is_tagging=False)
    values = _class_scores(
        flat,
        torch.tensor([place for one in tags for place in one]),
        torch.tensor([places.get(label, UNSEEN) for one in gold for label in one]),
    )
    if spec.marks in HAS_BORDERS:
        said, right = (
            [borders_of(one, spec.marks, spec.tags[-1]) for one in documents]
            for documents in (found, gold)
        )
        values = {**border_scores(right, said, [len(one) for one in gold]), **values}
    return _with_score(spec, values)


def _gold(spec: TaskSpec, row: Row) -> Parse:
    assert row.tagged is not None and row.tagged.tags is not None
    return Parse(row.tagged.tags, row.tagged.label if spec.labels else None)


def _said(spec: TaskSpec, logits_C: Tensor, tags: Sequence[int]) -> Parse:
    label = spec.labels[int(logits_C.argmax())] if spec.labels else None
    return Parse(tuple(spec.tags[place] for place in tags), label)


def _with_score(spec: TaskSpec, values: dict[str, float]) -> dict[str, float]:
    """Put what chooses before the other metrics."""
    unknown = [name for name in spec.score if name not in values]
    if unknown:
        allowed = ", ".join(name for name in values if not is_of_one_class(name))
        raise ValueError(
            f"task {spec.name}: the score {', '.join(unknown)} does not exist for "
            f"{len(spec.classes) or 'no'} classes; allowed are {allowed}"
        )
    return {"score": sum(values[name] for name in spec.score) / len(spec.score), **values}


def is_of_one_class(metric: str) -> bool:
    """Return whether a metric's name is that of a part, as `recall/spam` or `slot_em/de`."""
    return "/" in metric


def metric_title(metric: str, f1_label: str) -> str:
    """Return what a table calls a metric: F1 says of which label it is, if there is one."""
    return f"f1 ({f1_label})" if metric == "f1" and f1_label else metric


def value_text(value: float) -> str:
    """Return a score with four decimals, and what is far from 1 in five digits."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.5g}"


def _class_scores(spec: TaskSpec, predicted_N: Tensor, targets_N: Tensor) -> dict[str, float]:
    # A label that training never saw is a class more, which is never answered.
    targets_N = torch.where(targets_N == UNSEEN, spec.num_outputs, targets_N)
    num_classes = max(spec.num_outputs, int(targets_N.max()) + 1)
    micro: dict[str, Any] = {"average": "micro", "num_classes": num_classes}
    per_class_C = multiclass_f1_score(predicted_N, targets_N, num_classes, average="none")
    present = torch.bincount(torch.cat([predicted_N, targets_N]), minlength=num_classes) > 0
    values = {"accuracy": float(multiclass_accuracy(predicted_N, targets_N, **micro))}
    if len(spec.labels) == 2:
        values["f1"] = float(per_class_C[spec.f1_class])
    values["micro_f1"] = float(multiclass_f1_score(predicted_N, targets_N, **micro))
    values["macro_f1"] = float(per_class_C[present].double().mean())
    constant = _is_constant(predicted_N) or _is_constant(targets_N)  # torchmetrics: not quite 0
    matthews = multiclass_matthews_corrcoef(predicted_N, targets_N, num_classes)
    values["matthews"] = 0.0 if constant else _defined(matthews)
    hits_C = torch.bincount(targets_N[predicted_N == targets_N], minlength=num_classes).double()
    precision_C = hits_C / torch.bincount(predicted_N, minlength=num_classes).clamp(min=1)
    recall_C = hits_C / torch.bincount(targets_N, minlength=num_classes).clamp(min=1)
    return {**values, **_by_class(spec, precision_C, recall_C, per_class_C)}


def _by_class(spec: TaskSpec, *of_all: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 of every class by name, where there are few."""
    if len(of_all[0]) > _MOST_CLASSES_SHOWN:
        return {}
    return {
        f"{name}/{label}": float(values_C[place])
        for name, values_C in zip(OF_ONE_CLASS, of_all, strict=True)
        for place, label in enumerate(spec.labels)
    }


def _label_scores(spec: TaskSpec, said_NC: Tensor, targets_NC: Tensor) -> dict[str, float]:
    # What training never saw is a class more, which is never given.
    holds_NC, unseen_N = targets_NC[:, :-1] > 0, targets_NC[:, -1]
    hits_C = (said_NC & holds_NC).sum(0).double()
    said_C, held_C = said_NC.sum(0).double(), holds_NC.sum(0).double()
    f1_C = 2 * hits_C / (said_C + held_C).clamp(min=1)
    occurs_C = (said_C + held_C) > 0
    hits, said, held = (float(values_C.sum()) for values_C in (hits_C, said_C, held_C))
    held += float(unseen_N.sum())
    num_classes = int(occurs_C.sum()) + bool(unseen_N.any())
    is_right_N = (said_NC == holds_NC).all(1) & (unseen_N == 0)
    return {
        "exact_match": float(is_right_N.double().mean()),
        "micro_precision": hits / said if said else float(not held),
        "micro_recall": hits / held if held else float(not said),
        "micro_f1": 2 * hits / (said + held) if said + held else 1.0,
        "macro_f1": float(f1_C[occurs_C].sum()) / num_classes if num_classes else 1.0,
        **_by_class(spec, hits_C / said_C.clamp(min=1), hits_C / held_C.clamp(min=1), f1_C),
    }


def _regression_scores(predicted_N: Tensor, targets_N: Tensor) -> dict[str, float]:
    mse = float(mean_squared_error(predicted_N, targets_N))
    values = {"pearson": 0.0, "spearman": 0.0, "mse": mse, "r2": 0.0}
    if not _is_constant(targets_N) and math.isfinite(mse):
        values["r2"] = 1.0 - mse / float(targets_N.var(correction=0))
        if not _is_constant(predicted_N):
            values["pearson"] = _defined(pearson_corrcoef(predicted_N, targets_N))
            values["spearman"] = _defined(spearman_corrcoef(predicted_N, targets_N))
    return values


def _is_constant(values_N: Tensor) -> bool:
    return bool((values_N == values_N[0]).all())


def _defined(value: Tensor) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0
