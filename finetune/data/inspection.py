"""What is looked at before training: balance, lengths, overlap, the majority guess.

Invariant: nothing here changes a row; it only counts, and what it found is plain JSON.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.command import counted
from finetune.data.batches import PackedTexts
from finetune.metrics import scores, sentence_scores, tagging_scores
from finetune.sentences.tasks import label_counts
from finetune.tasks.spec import LoadedTask, Row, SplitRows, TaskSpec

LENGTH_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Lower ends of the length histogram's bins, in tokens; the last bin is open."""
_FEW, _RARE = 20, 0.2
"""Of up to 20 classes, one with less than a fifth of its equal share is rare."""
_MANY_WORDS = 64
"""Of a text that is hardly ever tagged without a mistake."""
DUPLICATES = "duplicates in train"
"""What stands for train beside the pairs of splits in `overlaps`."""
_MISSING = {"nan", "na", "n/a", "#n/a", "<na>", "none", "null", "nil", "-", "?"}
_MOST_HINTS, _MOST_GIVEN = 5, 20
Constant = float | tuple[int, ...]
"""What is always answered: a label's place, several labels' places, or a score."""
Metrics = dict[str, dict[str, float]]
"""Evaluated split -> metric -> value."""
Inspection = dict[str, Any]
"""What `inspect_task` returns."""


def inspect_task(
    loaded: LoadedTask,
    encoded: Mapping[str, PackedTexts],
    *,
    max_len: int,
    whole: Mapping[str, SplitRows] | None = None,
) -> Inspection:
    """Return what is to be known about a task before training, as it stands in result.json.

    `splits` has, for each one: `num_rows` that are used of `num_rows_whole`; `labels` -> rows in
    the order of the classes, or label -> sentences with their number as `num_sentences`, or
    `target_mean` and `target_std` of scores; of tagged texts also `num_words` and how many of them
    have a tag other than O, `num_tagged_words`; `lengths` in tokens
    before the cut, where it was encoded; `repairs`. `overlaps` counts rows by "test in train" and
    so on, all rows, also where only a subset is used. `majority` is what always giving train's most
    frequent label (or mean), the `majority_answer`, scores on each evaluated split; `best_constant`
    the same for the label that scores best when it is always given on train, where that is another
    one: binary F1 is 0 for the negative class, however frequent it is. `hints` and
    `unlike_published` say in words what looks unlike what was meant.

    Args:
        loaded: The rows that are used.
        encoded: Split -> its texts, for the splits that were encoded.
        max_len: Most tokens of an example.
        whole: Split -> all its rows, where only a subset is used.
    """
    spec = loaded.spec
    splits = {**loaded.splits, **(whole or {})}
    num_rows = {name: len(split.rows) for name, split in splits.items()}
    found = {
        name: _inspect_split(spec, split, encoded.get(name), num_rows[name])
        for name, split in loaded.splits.items()
    }
    majority, best = _constant_answers(loaded, found)
    shared = overlaps(splits)
    unlike = contradictions(spec, splits["train"]) if shared.get(DUPLICATES) else []
    return {
        "task": spec.name,
        "title": spec.title,
        "warning": spec.warning,
        "max_len": max_len,
        "segments": spec.segments,
        "splits": found,
        "overlaps": shared,
        "unlike_published": unlike_published(spec, num_rows),
        "majority": constant_metrics(loaded, majority),
        "majority_answer": _answer(spec, majority),
        "best_constant": constant_metrics(loaded, best),
        "best_constant_answer": _answer(spec, best),
        "f1_label": spec.f1_label,
        "hints": [
            *_label_hints_of(spec),
            *unlike,
            *_imbalance(spec, found),
            *_few_texts(spec, splits),
            *_long_texts(spec, found),
        ],
        "length_edges": list(LENGTH_EDGES),
    }


def _inspect_split(
    spec: TaskSpec, split: SplitRows, texts: PackedTexts | None, num_rows_whole: int
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "num_rows": len(split.rows),
        "num_rows_whole": num_rows_whole,
        "labels": {},
        "target_mean": None,
        "target_std": None,
        "lengths": None if texts is None else _lengths_of(texts),
        "repairs": dict(split.repairs),
    }
    if spec.is_tagging and not spec.labels_sentences:
        tags = [tag for row in split.rows if row.tagged for tag in row.tagged.tags or ()]
        found |= {"num_words": len(tags), "num_tagged_words": len(tags) - tags.count("O")}
    if split.rows[0].target is None:
        return found
    if spec.labels_sentences:
        counts = label_counts(split.rows, spec.tags)
        sizes = [len(row.tagged.words) for row in split.rows if row.tagged]
        return {**found, "labels": counts, "num_sentences": sum(sizes)}
    targets = spec.targets_of(split.rows)
    if spec.is_multilabel:
        per_label = targets[:, :-1].sum(0).astype(int).tolist()
        return {**found, "labels": dict(zip(spec.labels, per_label, strict=True))}
    if spec.is_regression:
        mean, std = targets.mean(dtype=np.float64), targets.std(dtype=np.float64)
        return {**found, "target_mean": float(mean), "target_std": float(std)}
    counts = np.bincount(targets[targets >= 0], minlength=len(spec.labels)).tolist()
    return {**found, "labels": dict(zip(spec.labels, counts[: len(spec.labels)], strict=True))}


def _lengths_of(texts: PackedTexts) -> dict[str, Any]:
    whole = texts.lengths_whole
    found = length_facts(whole, share_truncated=float(np.mean(whole > texts.lengths)))
    return {**found, "segments_median": float(np.median(texts.num_segments))}


def length_facts(lengths: NDArray[np.integer[Any]], *, share_truncated: float) -> dict[str, Any]:
    """Return what is told of the lengths of a split's texts, in tokens."""
    return {
        "median": float(np.median(lengths)),
        "percentile_95": float(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "histogram": np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])[0].tolist(),
        "share_truncated": share_truncated,
        "segments_median": 0.0,
    }


def overlaps(splits: Mapping[str, SplitRows]) -> dict[str, int]:
    """Return how many rows of a split are also in another one, by hash of the normalised text."""
    return shared_rows(
        {name: [hash(row.key) for row in split.rows] for name, split in splits.items()}
    )


def shared_rows(hashes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return how many rows of a split are also in another one, by the hashes of its rows.

    Evaluated splits are compared with train, test splits also with validation splits.
    """
    known = {name: set(found) for name, found in hashes.items()}
    counts = {
        f"{inner} in {outer}": sum(key in known[outer] for key in hashes[inner])
        for inner in hashes
        for outer in hashes
        if (outer == "train" and inner != "train")
        or (inner.startswith("test") and outer.startswith("validation"))
    }
    if "train" in hashes:
        counts[DUPLICATES] = len(hashes["train"]) - len(known["train"])
    return counts


def contradictions(spec: TaskSpec, train: SplitRows) -> list[str]:
    """Return a sentence about texts that training has with one label here and another there."""
    if spec.is_regression or spec.labels_sentences:
        return []
    lines: defaultdict[int, dict[Any, int]] = defaultdict(dict)
    for row in train.rows:
        lines[hash(row.key)].setdefault(row.target, row.line)
    unlike = [list(found.values()) for found in lines.values() if len(found) > 1]
    if not unlike:
        return []
    begin = f"{len(unlike):,} texts stand" if len(unlike) > 1 else "a text stands"
    first, second = unlike[0][:2]
    return [
        f"{begin} in train with unlike labels, for instance in lines {first} and {second}: there "
        "one of them is wrong, or the text alone does not tell"
    ]


def unlike_published(spec: TaskSpec, num_rows: Mapping[str, int]) -> list[str]:
    """Return a sentence for every split whose size is not the distribution's.

    A task with folds has no sizes to compare with; carved validation rows count as train's.
    """
    found = dict(num_rows)
    if spec.carve_validation and {"train", "validation"} <= set(found):
        found["train"] += found.pop("validation")
    return [
        f"{name} has {found[name]:,} rows, the distribution {size:,}"
        for name, size in spec.sizes.items()
        if name in found and found[name] != size and not spec.num_folds
    ]


def _constant_answers(
    loaded: LoadedTask, found: Mapping[str, Any]
) -> tuple[float | None, Constant | None]:
    """Return train's most frequent label or mean, and another answer if it scores better.

    That is another label alone or, where texts have several, some of the most frequent ones.
    """
    if "train" not in found:
        return None, None
    if loaded.spec.is_regression:
        return found["train"]["target_mean"], None
    if not loaded.spec.classes:
        return 0.0, None
    rows, counts = loaded.splits["train"].rows, list(found["train"]["labels"].values())
    places = sorted(range(len(counts)), key=lambda place: -counts[place])
    spec = loaded.spec
    if spec.is_multilabel:
        firsts = [tuple(places[:number]) for number in range(1, _MOST_GIVEN + 1)][: len(places)]
        some = max(firsts, key=lambda given: _constant_scores(spec, given, rows)["score"])
        return places[0], some if len(some) > 1 else None
    if spec.is_tagging and len(spec.classes) != 2:
        return places[0], None
    best = max(places, key=lambda place: _constant_scores(loaded.spec, place, rows)["score"])
    return places[0], None if best == places[0] else best


def constant_metrics(loaded: LoadedTask, answer: Constant | None) -> Metrics:
    """Return what always giving the same answer scores on each evaluated split."""
    if answer is None:
        return {}
    train = loaded.splits["train"].rows if "train" in loaded.splits else ()
    return {
        name: _constant_scores(loaded.spec, answer, loaded.splits[name].rows, train)
        for name in (*loaded.validation_splits, *loaded.test_splits)
    }


def _constant_scores(
    spec: TaskSpec, answer: Constant, rows: Sequence[Row], train: Sequence[Row] = ()
) -> dict[str, float]:
    if isinstance(answer, tuple):
        given = torch.zeros(len(rows), spec.num_outputs)
        given[:, list(answer)] = 1.0
        return scores(spec, given, torch.from_numpy(spec.targets_of(rows)))
    if spec.labels_sentences:
        sizes = [len(row.tagged.words) for row in rows if row.tagged]
        return sentence_scores(spec, rows, [[int(answer)] * size for size in sizes])
    outputs = torch.zeros(len(rows), spec.num_outputs)
    if spec.is_regression:
        outputs[:] = answer
    elif spec.labels:
        outputs[:, int(answer)] = 1.0
    if not spec.is_tagging:
        return scores(spec, outputs, torch.from_numpy(spec.targets_of(rows)))
    outside = spec.tags.index("O") if "O" in spec.tags else 0
    tags = [[outside] * len(row.tagged.words) for row in rows if row.tagged]
    return tagging_scores(spec, rows, outputs, tags, train=train)


def _answer(spec: TaskSpec, answer: Constant | None) -> str:
    if answer is None:
        return ""
    if isinstance(answer, tuple):
        return " and ".join(repr(spec.labels[place]) for place in answer)
    if spec.is_regression:
        return f"{answer:.3f}"
    label = repr(spec.classes[int(answer)]) if spec.classes else ""
    outside = ["O"] * (spec.is_tagging and not spec.labels_sentences)
    return " and ".join([*outside, *[label] * bool(label)])


def _label_hints_of(spec: TaskSpec) -> tuple[str, ...]:
    if spec.is_multilabel:
        return label_hints(spec.labels, "labels are parted by | alone, or stand in a JSON list")
    if spec.labels_sentences:
        return label_hints(spec.tags, "a sentence has one label")
    return label_hints(spec.labels)


def label_hints(
    labels: Sequence[str],
    advice: str = "a text has one label here, any number with --data.kind multilabel",
) -> tuple[str, ...]:
    """Return a sentence for labels that look like one label, like none, or like several.

    Args:
        labels: Their names.
        advice: What is said of one that looks like several.
    """
    hints = []
    rules: tuple[tuple[Callable[[str], str | float], str], ...] = (
        (lambda label: unicodedata.normalize("NFKC", label), "look the same (Unicode forms)"),
        (lambda label: " ".join(label.casefold().split()), "differ in case or white space alone"),
        (_number, "are the same number"),
    )
    for same, how in rules:
        groups = defaultdict(list)
        for label in labels:
            groups[same(label)].append(label)
        hints += [
            f"the labels {', '.join(map(repr, group))} {how}; they count as {len(group)} classes"
            for group in groups.values()
            if len(group) > 1
        ]
    hints += [
        f"the label {label!r} is what programs write for a missing value; take such rows out, if "
        "they have no label"
        for label in labels
        if label.casefold() in _MISSING
    ]
    hints += [
        f"the label {label!r} looks like several; {advice}"
        for label in labels
        if len(parts := re.split(r"\s*[,;|]\s*", label)) > 1 and set(labels) & set(parts)
    ]
    return tuple(hints[:_MOST_HINTS])


def _number(label: str) -> str | float:
    try:
        return float(label)
    except ValueError:
        return label


def _imbalance(spec: TaskSpec, found: Mapping[str, Any]) -> list[str]:
    """Return a sentence where accuracy chooses although a class is rare."""
    is_published = bool(spec.sizes)  # its metric is what it is
    if is_published or "train" not in found or spec.score != ("accuracy",):
        return []
    counts = found["train"]["labels"]
    rarest = min(counts, key=counts.__getitem__)
    share = counts[rarest] / sum(counts.values())
    if len(counts) > _FEW or share * len(counts) > _RARE:
        return []
    what, weights = "rows", ", --model.class_weights balanced counts rare classes as much as "
    weights += "frequent ones"
    if spec.labels_sentences:  # a threshold does that
        what, weights = "sentences", ""
    return [
        f"{rarest!r} is {share:.1%} of the training {what}, so accuracy hardly sees it; "
        f"--data.score macro_f1 lets another metric choose the epoch{weights}"
    ]


def _few_texts(spec: TaskSpec, splits: Mapping[str, SplitRows]) -> list[str]:
    """Return a sentence where classes have too few texts for every fold to score them."""
    if not (spec.num_folds and spec.labels and {"train", "validation", "test"} <= splits.keys()):
        return []
    texts: dict[int, set[str]] = {place: set() for place in range(len(spec.labels))}
    for row in (row for split in splits.values() for row in split.rows):
        for place in row.target if isinstance(row.target, tuple) else (row.target,):
            if place in texts:  # not of a label that training never saw
                texts[int(place)].add(row.key)
    few = {spec.labels[k]: len(keys) for k, keys in texts.items() if len(keys) < spec.num_folds}
    if not few:
        return []
    named = ", ".join(f"{label!r} ({count})" for label, count in [*few.items()][:_MOST_HINTS])
    more = f" and {len(few) - _MOST_HINTS} more" * (len(few) > _MOST_HINTS)
    return [
        f"{counted(len(few), 'label(s)')} with fewer texts than the {spec.num_folds} folds: "
        f"{named}{more}, so some folds have none to score"
    ]


def _long_texts(spec: TaskSpec, found: Mapping[str, Any]) -> list[str]:
    """Return a sentence where whole texts must be right although texts are long."""
    lengths = found.get("train", {}).get("lengths")
    chosen = {"slot_em", "frame_em"} & {*spec.score}
    if spec.sizes or not chosen or not lengths or lengths["median"] <= _MANY_WORDS:
        return []
    return [
        f"{chosen.pop()} asks for every tag of a text, and half of the texts have more than "
        f"{_MANY_WORDS} tokens; --data.score span_f1 lets spans choose the epoch"
    ]
