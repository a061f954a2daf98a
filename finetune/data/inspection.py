"""What is looked at before training: balance, lengths, overlap between splits, the majority guess.

Invariant: nothing here changes a row; it only counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.tasks.labels import label_hints
from finetune.tasks.spec import LoadedTask, Row, SplitRows, TaskSpec

if TYPE_CHECKING:  # readers of tasks need `normalised`, but not torch
    import torch

    from finetune.data.encoded_texts import PackedTexts

LENGTH_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower ends of the length histogram's bins, in tokens; the last bin is open."""
_FEW, _RARE = 20, 0.2
"""Of up to 20 classes, one with less than a fifth of its equal share is rare."""
DUPLICATES = "duplicates in train"


@dataclass(frozen=True, kw_only=True)
class LengthInspection:
    """Tokens of the texts of a split before they are cut, special tokens included."""

    median: float
    """Half of the texts are this long or shorter."""
    percentile_95: float
    """95 % are this long or shorter."""
    longest: int
    """The longest one."""
    histogram: tuple[int, ...]
    """Texts with a length from each of `LENGTH_EDGES` to below the next one."""
    share_truncated: float
    """Share that is longer than the most tokens of an example, in [0, 1]."""
    segments_median: float
    """Median number of sentences or paragraphs that are used; 0 with rule separators."""

    @classmethod
    def of(cls, texts: "PackedTexts") -> "LengthInspection":
        """Return the lengths of encoded texts, one or more."""
        whole = texts.lengths_whole
        counts, _ = np.histogram(whole, bins=[*LENGTH_EDGES, np.inf])
        return cls(
            median=float(np.median(whole)),
            percentile_95=float(np.percentile(whole, 95)),
            longest=int(whole.max()),
            histogram=tuple(counts.tolist()),
            share_truncated=float(np.mean(whole > texts.lengths)),
            segments_median=float(np.median(texts.num_segments)),
        )


@dataclass(frozen=True, kw_only=True)
class SplitInspection:
    """One split."""

    num_rows: int
    """Rows that are used."""
    num_rows_whole: int
    """Rows there are; more where only a subset is used."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label -> rows, in the order of the classes; empty for a regression or without labels."""
    target_mean: float | None = None
    """Mean score of a regression."""
    target_std: float | None = None
    """Standard deviation of the scores, divided by the number of rows."""
    lengths: LengthInspection | None = None
    """Lengths, where the split was encoded."""
    repairs: Mapping[str, int] = field(default_factory=dict)
    """What was left out or mended and how often."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """All that is known about the data of a run before it trains."""

    task: str
    """Its name."""
    title: str
    """What tables call it."""
    warning: str
    """What a reader of its scores must know."""
    max_len: int
    """Most tokens of an example."""
    segments: str
    """What a pooling segment is."""
    splits: Mapping[str, SplitInspection]
    """Split -> what is in it."""
    overlaps: Mapping[str, int]
    """"test in train" and so on -> rows of the former whose normalised text is in the latter;
    "duplicates in train": rows whose text stands in an earlier row of it. All rows count, also
    where only a subset is used."""
    unlike_published: tuple[str, ...]
    """Splits that have more or fewer rows than the distribution, in words."""
    majority: Mapping[str, Mapping[str, float]]
    """Evaluated split -> metrics of always giving the most frequent label, or mean, of train."""
    majority_answer: str
    """That label or mean; empty without training rows."""
    best_constant: Mapping[str, Mapping[str, float]]
    """The same for the label that scores best when it is always given on train, where that is
    another one: binary F1 is 0 for the negative class, however frequent it is."""
    best_constant_answer: str
    """That label; empty where it is the most frequent one."""
    f1_label: str
    """The label that F1 is of; empty where there are not two."""
    hints: tuple[str, ...]
    """What looks unlike what was meant, in words."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "length_edges": list(LENGTH_EDGES)}


def inspect_task(
    loaded: LoadedTask,
    encoded: Mapping[str, "PackedTexts"],
    *,
    max_len: int,
    whole: Mapping[str, SplitRows] | None = None,
    repairs: Mapping[str, Mapping[str, int]] | None = None,
) -> Inspection:
    """Return what is to be known about a task before training.

    Args:
        loaded: The rows that are used.
        encoded: Split -> its texts, for the splits that were encoded.
        max_len: Most tokens of an example.
        whole: Split -> all its rows, where only a subset is used.
        repairs: Split -> repairs made while encoding, beside those of reading.
    """
    spec = loaded.spec
    splits = {**loaded.splits, **(whole or {})}
    majority, best = constant_targets(loaded)
    return Inspection(
        task=spec.name,
        title=spec.title,
        warning=spec.warning,
        max_len=max_len,
        segments=spec.segments,
        splits={
            name: _inspect_split(
                spec,
                split,
                encoded.get(name),
                num_rows_whole=len(splits[name].rows),
                repairs={**split.repairs, **(repairs or {}).get(name, {})},
            )
            for name, split in loaded.splits.items()
        },
        overlaps=overlaps(splits),
        unlike_published=unlike_published(spec, {n: len(s.rows) for n, s in splits.items()}),
        majority=constant_metrics(loaded, majority),
        majority_answer=_answer(spec, majority),
        best_constant=constant_metrics(loaded, best) if best != majority else {},
        best_constant_answer=_answer(spec, best) if best != majority else "",
        f1_label=spec.f1_label,
        hints=(*label_hints(spec.labels), *_imbalance(loaded)),
    )


def _imbalance(loaded: LoadedTask) -> tuple[str, ...]:
    """Return a sentence where accuracy chooses although a class is rare."""
    spec = loaded.spec
    is_published = bool(spec.sizes)  # its metric is what it is
    if is_published or "train" not in loaded.splits or spec.score != ("accuracy",):
        return ()
    targets = targets_of(spec, loaded.splits["train"].rows)
    counts = np.bincount(targets, minlength=len(spec.labels))
    share = counts.min() / counts.sum()
    if len(spec.labels) > _FEW or share * len(spec.labels) > _RARE:
        return ()
    return (
        f"{spec.labels[int(counts.argmin())]!r} is {share:.1%} of the training rows, so accuracy "
        "hardly sees it; --data.score macro_f1 lets another metric choose the epoch, "
        "--model.class_weights balanced counts rare classes as much as frequent ones",
    )


def normalised(text: str, text_pair: str = "") -> str:
    """Return what two rows must share to count as the same: case and white space do not matter."""
    whole = " ".join(text.casefold().split())
    return f"{whole}\n{' '.join(text_pair.casefold().split())}" if text_pair else whole


def overlaps(splits: Mapping[str, SplitRows]) -> dict[str, int]:
    """Return how many rows of a split are also in another one, by hash of the normalised text.

    Evaluated splits are compared with train, test splits also with validation splits.
    """
    hashes = {
        name: [hash(normalised(row.text, row.text_pair)) for row in split.rows]
        for name, split in splits.items()
    }
    found = {}
    for inner in splits:
        for outer in splits:
            is_compared = (outer == "train" and inner != "train") or (
                inner.startswith("test") and outer.startswith("validation")
            )
            if is_compared:
                known = set(hashes[outer])
                found[f"{inner} in {outer}"] = sum(key in known for key in hashes[inner])
    if "train" in hashes:
        found[DUPLICATES] = len(hashes["train"]) - len(set(hashes["train"]))
    return found


def unlike_published(spec: TaskSpec, num_rows: Mapping[str, int]) -> tuple[str, ...]:
    """Return a sentence for every split whose size is not the distribution's.

    Args:
        spec: The task; one with folds has no sizes to compare with.
        num_rows: Split -> its rows. Validation rows carved from train count as train's.
    """
    if spec.num_folds:
        return ()
    found = dict(num_rows)
    if spec.carve_validation and {"train", "validation"} <= set(found):
        found["train"] += found.pop("validation")
    return tuple(
        f"{name} has {found[name]:,} rows, the distribution {size:,}"
        for name, size in spec.sizes.items()
        if name in found and found[name] != size
    )


def constant_targets(loaded: LoadedTask) -> tuple[float | None, float | None]:
    """Return train's most frequent label, and the one that scores best if it is always given.

    Of equals the first; the mean score of a regression is both; None without training rows.
    """
    from finetune.metrics import scores

    spec = loaded.spec
    if "train" not in loaded.splits:
        return None, None
    targets = targets_of(spec, loaded.splits["train"].rows)
    if spec.is_regression:
        mean = float(targets.mean(dtype=np.float64))
        return mean, mean
    counts = np.bincount(targets, minlength=len(spec.labels))
    found = {
        label: scores(spec, *_constant(spec, label, targets))["score"]
        for label in np.argsort(-counts, kind="stable").tolist()
    }
    return float(counts.argmax()), float(max(found, key=found.__getitem__))


def constant_metrics(loaded: LoadedTask, answer: float | None) -> dict[str, dict[str, float]]:
    """Return what always giving one label or score scores; nothing if there is none.

    Args:
        loaded: Every validation and labelled test split of it is scored.
        answer: Place of the label in `TaskSpec.labels`, or a score.
    """
    from finetune.metrics import scores

    if answer is None:
        return {}
    spec = loaded.spec
    return {
        name: scores(spec, *_constant(spec, answer, targets_of(spec, loaded.splits[name].rows)))
        for name in (*loaded.validation_splits, *loaded.test_splits)
    }


def targets_of(spec: TaskSpec, rows: Sequence[Row]) -> NDArray[Any]:
    """Return the targets, (rows,): int64 classes, or float32 scores of a regression.

    Args:
        spec: The task.
        rows: Labelled rows.
    """
    dtype = np.float32 if spec.is_regression else np.int64
    return np.array([row.target for row in rows], dtype=dtype)


def _inspect_split(
    spec: TaskSpec,
    split: SplitRows,
    texts: "PackedTexts | None",
    *,
    num_rows_whole: int,
    repairs: Mapping[str, int],
) -> SplitInspection:
    is_labelled = split.rows[0].target is not None
    targets = targets_of(spec, split.rows) if is_labelled else np.empty(0)
    labels = {}
    if is_labelled and not spec.is_regression:
        counts = np.bincount(targets, minlength=len(spec.labels)).tolist()
        labels = dict(zip(spec.labels, counts, strict=True))
    has_scores = is_labelled and spec.is_regression
    return SplitInspection(
        num_rows=len(split.rows),
        num_rows_whole=num_rows_whole,
        labels=labels,
        target_mean=float(targets.mean(dtype=np.float64)) if has_scores else None,
        target_std=float(targets.std(dtype=np.float64)) if has_scores else None,
        lengths=LengthInspection.of(texts) if texts is not None else None,
        repairs=repairs,
    )


def _constant(
    spec: TaskSpec, answer: float, targets: NDArray[Any]
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return outputs that always give the answer, and the targets, as tensors."""
    import torch

    outputs = torch.zeros(len(targets), spec.num_outputs)
    if spec.is_regression:
        outputs[:] = answer
    else:
        outputs[:, int(answer)] = 1.0
    return outputs, torch.from_numpy(targets)


def _answer(spec: TaskSpec, answer: float | None) -> str:
    if answer is None:
        return ""
    return f"{answer:.3f}" if spec.is_regression else repr(spec.labels[int(answer)])
