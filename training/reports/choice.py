"""From trials to the numbers of a table: choice on validation, mean and spread, comparison.

Invariant: pure; the test split is never looked at to choose anything, no seed is left out, and what
there is to know of a task stands in the results themselves.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, TypeVar

from training.reports.trials import FoundTrials, Trial
from training.statistics import Estimate, estimate, paired_difference

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
OTHER_FAMILY = "Tasks"
"""The table of tasks whose results do not say where they belong."""
MISMATCHED = "_mismatched"
_CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The setting of an encoder on a task, and the runs of that setting."""

    runs: Sequence[Trial]
    """One per seed, in the order of seeds."""
    num_settings: int
    """Settings that were searched."""
    num_incomplete: int
    """Settings with fewer seeds than others; they could not be chosen."""
    num_trials: int
    """Trials of all settings."""
    num_diverged_trials: int
    """How many of those diverged."""
    best_run: Trial
    """Of all trials the one with the best validation score, whose classifier the grid keeps."""

    @property
    def setting(self) -> dict[str, Any]:
        """The chosen setting."""
        return dict(self.runs[0].setting)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number of a table: a task, or one of the two halves of MNLI."""

    task: str
    """Name of the task."""
    title: str
    """What tables call it."""
    split: str
    """The split whose score is reported."""
    metrics: tuple[str, ...]
    """Metrics whose mean is the score."""
    published: Mapping[str, float]
    """Model -> published score in per cent; empty where none may stand beside ours."""
    published_source: str = ""
    """Where those stand, or why they may not stand here."""
    family: str = OTHER_FAMILY
    """Heading of the table it stands in."""
    place: float = math.inf
    """Where among the tasks."""
    num_folds: int = 0
    """Folds of a cross-validation; 0: the splits are fixed."""
    in_average: bool = True
    """Whether the average of its table counts it."""

    @property
    def key(self) -> tuple[str, str]:
        """What tells columns apart."""
        return self.task, self.split


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An encoder's result in a column. Scores are fractions, not per cent."""

    column: Column
    """Where it stands."""
    encoder: str
    """Whose it is."""
    choice: Choice
    """Setting and runs."""
    scores: Sequence[float]
    """Score of each run."""
    summary: Estimate
    """Their mean and spread."""
    constant: float | None
    """Mean score of the best constant answer over the same runs; None: unknown."""
    num_diverged: int
    """Runs of the chosen setting that diverged; they count as they are."""

    @property
    def by_seed(self) -> dict[tuple[int, ...], float]:
        """Seed, fold and repeat -> score."""
        repetitions = [run.repetition for run in self.choice.runs]
        return dict(zip(repetitions, self.scores, strict=True))

    @property
    def num_at_constant(self) -> int:
        """Runs that are not better than the best constant answer on their rows."""
        levels = [run.constant(self.column.split) for run in self.choice.runs]
        return sum(
            level is not None and score <= level + _CLOSE
            for score, level in zip(self.scores, levels, strict=True)
        )

    @property
    def against_constant(self) -> str:
        """In words, where the mean stands beside the best constant answer."""
        if self.constant is None:
            return "unknown"
        if self.summary.mean <= self.constant + _CLOSE:
            return "at or below"
        if self.summary.low is None:
            return "above (one seed)"
        return "above" if self.summary.low > self.constant else "above, not separable"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two encoders in a column, on equal seeds."""

    column: Column
    """Where."""
    first: str
    """An encoder."""
    second: str
    """Another one."""
    difference: Estimate
    """First minus second, as a fraction."""
    num_unpaired: int
    """Runs without a partner of the same seed and fold; they are not compared."""

    @property
    def verdict(self) -> str:
        """In words, whether the two can be told apart."""
        return self.difference.verdict


def choose(runs: Sequence[Trial]) -> Choice:
    """Choose the setting with the best mean validation score over its seeds.

    Args:
        runs: All runs of an encoder on a task, one or more. Only settings with the most seeds can
            be chosen: the best of few seeds would win by luck. Equal means: the first setting.
    """
    by_setting = grouped(runs, lambda run: run.setting)
    most = max(len(found) for found in by_setting.values())
    complete = [found for found in by_setting.values() if len(found) == most]
    best = max(complete, key=lambda found: fmean(run.score("validation") for run in found))
    return Choice(
        runs=sorted(best, key=lambda run: run.repetition),
        num_settings=len(by_setting),
        num_incomplete=len(by_setting) - len(complete),
        num_trials=len(runs),
        num_diverged_trials=sum(run.has_diverged for run in runs),
        best_run=max(sorted(runs, key=lambda run: run.path), key=lambda run: run.validation),
    )


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in the order they came."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def entries_of(runs: Sequence[Trial]) -> list[Entry]:
    """Every number of the table, task by task in their families' order, then by encoder."""
    tasks = [(columns_of(found), found) for found in grouped(runs, lambda run: run.task).values()]
    entries = []
    for columns, found in sorted(tasks, key=lambda task: (task[0][0].place, task[0][0].task)):
        by_encoder = sorted(grouped(found, lambda run: run.encoder).items())
        choices = {name: choose(runs_of) for name, runs_of in by_encoder}
        for column in columns:
            entries += [_entry(column, name, choice) for name, choice in choices.items()]
    return entries


def columns_of(runs: Sequence[Trial]) -> list[Column]:
    """The columns of a task: its test split where all runs scored it, else validation."""
    scored = [run.result["evaluation"] for run in runs if run.has_scores]
    base = "test" if scored and all("test" in found for found in scored) else "validation"
    title = runs[0].title
    splits = [base]
    if scored and all(base + MISMATCHED in found for found in scored):
        splits.append(base + MISMATCHED)
    titles = [f"{title} m", f"{title} mm"] if len(splits) > 1 else [title]
    return [
        Column(
            task=runs[0].task,
            title=name,
            split=split,
            metrics=tuple(runs[0].result["score"]),
            **_facts(runs, is_mismatched=split != base),
        )
        for split, name in zip(splits, titles, strict=True)
    ]


def _facts(runs: Sequence[Trial], *, is_mismatched: bool) -> dict[str, Any]:
    """What the results say of their task; of earlier ones only that there are folds is seen."""
    facts: dict[str, Any] = next((dict(run.facts) for run in runs if run.facts), {})
    folds = {run.repetition[1:] for run in runs}
    if not facts:
        return {"num_folds": len(folds) if len(folds) > 1 else 0, "published": {}}
    return {**facts, "published": _published(facts, is_mismatched=is_mismatched)}


def _published(facts: Mapping[str, Any], *, is_mismatched: bool) -> dict[str, float]:
    """Published scores that may stand beside ours: not those of other splits."""
    suffix = " (mismatched)"
    return {
        model.removesuffix(suffix): value
        for model, value in facts["published"].items()
        if model.endswith(suffix) == is_mismatched and not facts["num_folds"]
    }


def _entry(column: Column, encoder: str, choice: Choice) -> Entry:
    scores = [run.score(column.split) for run in choice.runs]
    levels = [run.constant(column.split) for run in choice.runs]
    known = [level for level in levels if level is not None]
    ratio = shared_rows_ratio(column, choice.runs)
    return Entry(
        column=column,
        encoder=encoder,
        choice=choice,
        scores=scores,
        summary=estimate(scores, shared_rows_ratio=ratio),
        constant=fmean(known) if known else None,
        num_diverged=sum(run.has_diverged for run in choice.runs),
    )


def shared_rows_ratio(column: Column, runs: Sequence[Trial]) -> float:
    """Scored rows / training rows of a cross-validated task; 0 for others, see `estimate`."""
    if not column.num_folds:
        return 0.0
    counts = [
        (run.split_facts(column.split).get("num_rows"), run.split_facts("train").get("num_rows"))
        for run in runs
    ]
    ratios = [scored / trained for scored, trained in counts if scored and trained]
    return fmean(ratios) if ratios else 1 / max(1, column.num_folds - 2)


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Every two encoders of a column, paired by seed and fold."""
    comparisons = []
    for found in grouped(entries, lambda entry: entry.column.key).values():
        comparisons += [_comparison(first, second) for first, second in combinations(found, 2)]
    return [comparison for comparison in comparisons if comparison]


def _comparison(first: Entry, second: Entry) -> Comparison | None:
    ratio = shared_rows_ratio(first.column, first.choice.runs)
    difference = paired_difference(first.by_seed, second.by_seed, shared_rows_ratio=ratio)
    if difference is None:
        return None
    return Comparison(
        column=first.column,
        first=first.encoder,
        second=second.encoder,
        difference=difference,
        num_unpaired=len(first.scores) + len(second.scores) - 2 * difference.n,
    )


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean over columns that all encoders have."""

    columns: Sequence[Column]
    """What it is the mean of."""
    summaries: Mapping[str, Estimate]
    """Encoder -> mean and, over seeds that all columns share, its spread; else n is 1."""
    published: Mapping[str, float]
    """Model -> mean of its published scores in per cent, where all of them are published."""


def average_of(entries: Sequence[Entry]) -> Average | None:
    """The average of some columns' entries; None where fewer than two columns can be averaged.

    Columns count that every encoder has and that papers average (not WNLI).
    """
    encoders = sorted({entry.encoder for entry in entries})
    table = {(entry.column.key, entry.encoder): entry for entry in entries}
    columns = {entry.column.key: entry.column for entry in entries}
    used = [
        column
        for key, column in columns.items()
        if all((key, name) in table for name in encoders) and column.in_average
    ]
    if len(used) < 2:
        return None
    models = set.intersection(*(set(column.published) for column in used))
    return Average(
        columns=used,
        summaries={
            name: _average_over_seeds([table[column.key, name] for column in used])
            for name in encoders
        },
        published={m: fmean(column.published[m] for column in used) for m in sorted(models)},
    )


def _average_over_seeds(entries: Sequence[Entry]) -> Estimate:
    by_seed = [entry.by_seed for entry in entries]
    seeds = sorted(by_seed[0])
    if all(sorted(found) == seeds for found in by_seed):
        return estimate([fmean(found[seed] for found in by_seed) for seed in seeds])
    return estimate([fmean(entry.summary.mean for entry in entries)])


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that a report on fine-tuning is made from."""

    found: FoundTrials
    """The trials."""
    entries: Sequence[Entry]
    """Every number."""
    comparisons: Sequence[Comparison]
    """Every two encoders."""
    averages: Mapping[str, Average]
    """Family of tasks -> average over its columns."""
    with_published: bool
    """Whether published scores stand beside ours."""

    @property
    def families(self) -> dict[str, list[Entry]]:
        """Family -> its numbers."""
        return grouped(self.entries, lambda entry: entry.column.family)

    @property
    def tasks(self) -> dict[str, list[Trial]]:
        """Task -> its trials, in the order of the table."""
        by_task = grouped(self.found.runs, lambda run: run.task)
        return {task: by_task[task] for task in dict.fromkeys(e.column.task for e in self.entries)}


def make_results(found: FoundTrials, *, with_published: bool) -> Results:
    """Choose, summarise and compare the trials that were found."""
    entries = entries_of(found.runs)
    families = grouped(entries, lambda entry: entry.column.family)
    averages = {name: average_of(some) for name, some in families.items()}
    return Results(
        found=found,
        entries=entries,
        comparisons=compare(entries),
        averages={name: average for name, average in averages.items() if average},
        with_published=with_published,
    )
