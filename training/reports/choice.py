"""From trials to the numbers of a table: choice on validation, mean and spread, comparison.

Invariant: pure; the test split is never looked at to choose anything, nor any row that a fold is
tested on to choose its setting; no seed is left out, and what there is to know of a task stands in
the results themselves.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from training.reports.figures import Column, Measure, Result
from training.reports.trials import PAIRED_BY, Fit, grouped, scored_split
from training.statistics import Estimate, estimate, paired_difference

MISMATCHED = "_mismatched"
_CLOSE = 1e-9
_LEAST = {"r2": -math.inf, **dict.fromkeys(("matthews", "pearson", "spearman"), -100.0)}
"""Shown values below which a metric cannot be; 0 where it is not among these."""
METRIC_TITLES = {
    "f1": "F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "slot_em": "slot EM",
    "frame_em": "frame EM",
    "span_f1": "span F1",
    "token_accuracy": "token accuracy",
    "intent_accuracy": "intent accuracy",
    "exact_match": "exact match",
    "border_f1": "border F1",
}


@dataclass(frozen=True, kw_only=True)
class Task(Measure):
    """The scores of a task on a split, or on one of the two halves of MNLI.

    The score is the mean of the metrics. What follows them is what a result says of its task: where
    published scores stand or why they may not stand here, their metric where it is another one, the
    family whose table it is in and the place there, the folds of a cross-validation (0: the splits
    are fixed), whether papers average it. Published scores may not be wanted at all.
    """

    name: str
    split: str
    metrics: tuple[str, ...]
    published_source: str
    published_metric: str
    family: str
    place: float
    num_folds: int
    in_average: bool
    with_published: bool

    @property
    def numbers(self) -> dict[str, str]:
        """What tells it from others."""
        return {"task": self.name, "title": self.title, "split": self.split}

    def notes(self, n: int | str) -> list[str]:
        """Metrics, and split with number of seeds; the title says which half of MNLI it is."""
        metrics = " + ".join(METRIC_TITLES.get(name, name) for name in self.metrics)
        return [metrics, f"{self.split.removesuffix(MISMATCHED)}, n = {n}"]


@dataclass(frozen=True, kw_only=True)
class Entry(Result):
    """An encoder's scores under a task, as fractions by seed, fold and repeat.

    `runs` are those of the chosen setting, or of each fold's, one per seed and fold in their order,
    out of all `trials`; `numbers` are what programs read of it.
    """

    task: Task
    encoder: str
    estimate: Estimate
    runs: Sequence[Fit]
    trials: Sequence[Fit]
    numbers: Mapping[str, Any]

    @property
    def is_baseline(self) -> bool:
        """Whether it is of a linear model: one run, or one for each fold, as nothing is random."""
        return self.runs[0].is_baseline

    @property
    def num_folds(self) -> int:
        """How many folds of a cross-validation were run."""
        return len({run.repetition[PAIRED_BY.index("fold")] for run in self.runs})


def trained(entries: Sequence[Entry]) -> list[Entry]:
    """The numbers of encoders, or those of baselines where there are no others."""
    return [entry for entry in entries if not entry.is_baseline] or list(entries)


def encoder_names(entries: Iterable[Entry]) -> list[str]:
    """The rows of a table: encoders by name, then the baselines."""
    found = sorted({(entry.is_baseline, entry.encoder) for entry in entries})
    return [name for _, name in found]


def task_columns(trials: Sequence[Fit], *, with_published: bool) -> list[Column[Task]]:
    """Every number of the tables, task by task in their families' order, its cells by encoder.

    Args:
        trials: All that were found.
        with_published: Whether published scores stand beside ours.
    """
    columns = []
    for found in grouped(trials, lambda run: run.task).values():
        by_encoder = grouped(found, lambda run: run.encoder).items()
        for task in _tasks(found, with_published=with_published):
            made = {name: _entry(task, name, some) for name, some in by_encoder}
            entries = {name: made[name] for name in encoder_names(list(made.values()))}
            levels = [entry.numbers["constant_answer"] for entry in entries.values()]
            known = [level for level in levels if level is not None]
            ns = sorted({entry.estimate.n for entry in trained(list(entries.values()))})
            n = "–".join(dict.fromkeys((str(ns[0]), str(ns[-1]))))
            level, note = max(known, default=None), ", ".join(task.notes(n))
            columns.append(Column(measure=task, cells=entries, level=level, note=note))
    return sorted(columns, key=lambda column: (column.measure.place, column.measure.name))


def _tasks(trials: Sequence[Fit], *, with_published: bool) -> list[Task]:
    """The columns of a task: its test split where all runs scored it, else validation."""
    scored = [run.result["evaluation"] for run in trials if run.has_scores]
    base = scored_split(trials)
    title, metrics = trials[0].title, tuple(trials[0].result["score"])
    titles = {base: title}
    if scored and all(base + MISMATCHED in found for found in scored):
        titles = {base: f"{title} m", base + MISMATCHED: f"{title} mm"}
    said = [run.result["task_facts"] for run in trials]
    # Versions may differ in what they know to be published; the largest knowledge counts.
    facts = max(said, key=lambda known: len(known["published"]))
    if not with_published:
        facts = {**facts, "published": {}, "published_source": ""}
    tasks = []
    for split, shown_title in titles.items():
        published = published_on(facts, split, base=base)
        if facts["published_metric"] not in ("", *metrics):
            published = {}  # they stand in the table of all metrics
        tasks.append(
            Task(
                name=trials[0].task,
                title=shown_title,
                split=split,
                metrics=metrics,
                shown_factor=100,
                with_published=with_published,
                limits=(min(_LEAST.get(name, 0.0) for name in metrics), 100.0),
                **{**facts, "published": published},  # not of folds or of another split
            )
        )
    return tasks


def published_on(facts: Mapping[str, Any], split: str, *, base: str) -> dict[str, float]:
    """Published scores of a split, in per cent by model; none of folds, which nobody else has.

    Args:
        facts: What a result says of its task; a model's name may say of which split its score is.
        split: The split.
        base: The split that the task's table is about; names that say nothing are of this one.
    """
    marks = {MISMATCHED: " (mismatched)", "validation": " (validation)"}
    mark = next((text for end, text in marks.items() if split.endswith(end)), None)
    found: dict[str, float] = {} if facts["num_folds"] else facts["published"]
    marked = {m.removesuffix(mark): v for m, v in found.items() if mark and m.endswith(mark)}
    plain = {m: v for m, v in found.items() if not m.endswith(tuple(marks.values()))}
    return marked or (plain if split == base else {})


def choose(settings: Sequence[Sequence[Fit]]) -> list[Fit]:
    """The trials of the setting with the best mean validation score, in the order of seeds.

    Each fold of a cross-validation has a setting of its own, by its own validation score: together
    the folds validate on the very rows that they are tested on, so one setting for all would be
    chosen by these, and flatter.

    Args:
        settings: The trials of each. Only those with the most seeds can be chosen: the best of few
            seeds would win by luck; of as many, only those with the seeds and folds that most have,
            then the first ones: others may be easier. Equal means: the one that diverged least,
            then the first.
    """
    seeds = [_repetitions(found) for found in settings]
    shared = min(seeds, key=lambda some: (-len(some), -seeds.count(some), some))
    complete = [found for found, own in zip(settings, seeds, strict=True) if own == shared]

    def worth(found: Sequence[Fit]) -> tuple[float, int]:
        return fmean(run.score("validation") for run in found), -_num_diverged(found)

    by_fold = [grouped(found, lambda run: run.repetition[1:]) for found in complete]
    best = [run for fold in by_fold[0] for run in max((s[fold] for s in by_fold), key=worth)]
    return sorted(best, key=lambda run: run.repetition)


def chosen_settings(runs: Sequence[Fit]) -> list[tuple[dict[str, Any], int]]:
    """The settings of chosen trials with in how many folds each was chosen, most often first."""
    folds = {run.repetition[1:]: run.setting for run in runs}
    return [(dict(setting), count) for setting, count in Counter(folds.values()).most_common()]


def _repetitions(runs: Sequence[Fit]) -> list[tuple[int, ...]]:
    return sorted(run.repetition for run in runs)


def _entry(task: Task, encoder: str, trials: Sequence[Fit]) -> Entry:
    """Incomplete settings lack seeds that were chosen by; a grid keeps the best run's model."""
    settings = list(grouped(trials, lambda run: run.setting).values())
    runs = choose(settings)
    by_seed = {run.repetition: run.score(task.split) for run in runs}
    summary = estimate(list(by_seed.values()), shared_rows_ratio=_shared_rows_ratio(task, runs))
    levels = [run.constant(task.split) for run in runs]
    known = [level for level in levels if level is not None]
    chosen = chosen_settings(runs)
    constant, num_diverged = fmean(known) if known else None, _num_diverged(runs)
    numbers = {
        **task.numbers,
        "encoder": encoder,
        "metrics": list(task.metrics),
        **asdict(summary),
        "scores": list(by_seed.values()),
        "seeds": [dict(zip(PAIRED_BY, run.repetition, strict=True)) for run in runs],
        "setting": chosen[0][0],
        "chosen_settings": [{"setting": found, "num_folds": count} for found, count in chosen],
        "num_settings": len(settings),
        "num_incomplete_settings": sum(
            _repetitions(found) != _repetitions(runs) for found in settings
        ),
        "num_trials": len(trials),
        "num_diverged": num_diverged,
        "num_diverged_trials": _num_diverged(trials),
        "constant_answer": constant,
        "against_constant": _against(summary, constant, has_seeds=not runs[0].is_baseline),
        "num_at_constant": sum(
            level is not None and score <= level + _CLOSE
            for score, level in zip(by_seed.values(), levels, strict=True)
        ),
        "published_per_cent": dict(task.published),
        "best_run": str(
            max(sorted(trials, key=lambda run: run.path), key=lambda run: run.validation).path
        ),
        "runs": [str(run.path) for run in runs],
    }
    return Entry(
        task=task,
        encoder=encoder,
        runs=runs,
        trials=trials,
        by_seed=by_seed,
        estimate=summary,
        num_diverged=num_diverged,
        numbers=numbers,
    )


def _num_diverged(runs: Sequence[Fit]) -> int:
    return sum(bool(run.result["diverged"]) for run in runs)


def _against(summary: Estimate, constant: float | None, *, has_seeds: bool) -> str:
    """In words, where the mean stands beside the best constant answer."""
    if constant is None:
        return "unknown"
    if summary.mean <= constant + _CLOSE:
        return "at or below"
    if summary.low is None:
        return "above (one seed)" if has_seeds else "above"
    if summary.has_no_spread:  # as of a difference: an interval without width covers nothing
        return "above, no spread: not judged"
    return "above" if summary.low > constant else "above, not separable"


def _shared_rows_ratio(task: Task, runs: Sequence[Fit]) -> float:
    """Scored rows / training rows of a cross-validated task; 0 for others, see `estimate`."""
    if not task.num_folds:
        return 0.0
    counts = [[r.split_facts(s).get("num_rows") for s in (task.split, "train")] for r in runs]
    ratios = [scored / trained for scored, trained in counts if scored and trained]
    return fmean(ratios) if ratios else 1 / max(1, task.num_folds - 2)


def compare(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Every two encoders of a task, first minus second, paired by seed and fold.

    A baseline says the same with every seed.
    """
    comparisons = []
    for first, second in combinations(entries, 2):
        if first.task is not second.task or (first.is_baseline and second.is_baseline):
            continue
        scores = [_by_seed_of(first, second), _by_seed_of(second, first)]
        ratio = _shared_rows_ratio(first.task, first.runs)
        gap = paired_difference(*scores, shared_rows_ratio=ratio)
        if gap is not None:
            comparisons.append(
                {
                    **first.task.numbers,
                    "first": first.encoder,
                    "second": second.encoder,
                    "difference": gap,
                    "num_unpaired": len(scores[0]) + len(scores[1]) - 2 * gap.n,
                    "verdict": gap.verdict,
                }
            )
    return comparisons


def _by_seed_of(entry: Entry, other: Entry) -> Mapping[Any, float]:
    """An entry's scores; a baseline's, for every seed that the other has of the same fold."""
    if not entry.is_baseline:
        return entry.by_seed
    by_fold = {repetition[1:]: score for repetition, score in entry.by_seed.items()}
    return {seed: by_fold[seed[1:]] for seed in other.by_seed if seed[1:] in by_fold}


def average_of(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """The average of tasks that all encoders have and that papers average; None: fewer than two.

    Its spread is that over seeds that all tasks share; else n is 1. A baseline that lacks one of
    them has no average.
    """
    names = {entry.encoder for entry in trained(entries)}
    by_task = grouped(entries, lambda entry: (entry.task.name, entry.task.split)).values()
    used = [
        {entry.encoder: entry for entry in some}
        for some in by_task
        if names <= {entry.encoder for entry in some} and some[0].task.in_average
    ]
    if len(used) < 2:
        return None
    tasks = [next(iter(some.values())).task for some in used]
    models = sorted(set.intersection(*(set(task.published) for task in tasks)))
    in_all = [name for name in encoder_names(entries) if all(name in some for some in used)]
    return {
        "columns": [task.title for task in tasks],
        "encoders": {name: _over_tasks([some[name] for some in used]) for name in in_all},
        "published_per_cent": {m: fmean(task.published[m] for task in tasks) for m in models},
    }


def _over_tasks(entries: Sequence[Entry]) -> Estimate:
    seeds = sorted(entries[0].by_seed)
    if all(sorted(entry.by_seed) == seeds for entry in entries):
        return estimate([fmean(entry.by_seed[seed] for entry in entries) for seed in seeds])
    return estimate([fmean(entry.estimate.mean for entry in entries)])
