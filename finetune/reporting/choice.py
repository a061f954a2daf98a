"""From trials to the numbers of a table: choice on validation, mean and spread, comparison.

Invariant: pure; the test split is never looked at to choose anything, and no seed is left out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from finetune.grids.files import validation_score
from finetune.reporting.runs import Run
from finetune.tasks.registry import GLUE, TASKS
from finetune.tasks.spec import TaskSpec
from training.statistics import Estimate, estimate, paired_difference

MISMATCHED = "_mismatched"
_CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The setting of an encoder on a task, and the runs of that setting."""

    runs: Sequence[Run]
    """One per seed, in the order of seeds."""
    num_settings: int
    """Settings that were searched."""
    num_incomplete: int
    """Settings with fewer seeds than others; they could not be chosen."""
    num_trials: int
    """Trials of all settings."""
    num_diverged_trials: int
    """How many of those diverged."""
    best_run: Run
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


def choose(runs: Sequence[Run]) -> Choice:
    """Choose the setting with the best mean validation score over its seeds.

    Args:
        runs: All runs of an encoder on a task, one or more. Only settings with the most seeds can
            be chosen: the best of few seeds would win by luck. Equal means: the first setting.
    """
    by_setting: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        by_setting[run.setting].append(run)
    most = max(len(found) for found in by_setting.values())
    complete = [found for found in by_setting.values() if len(found) == most]
    best = max(complete, key=lambda found: fmean(run.score("validation") for run in found))
    return Choice(
        runs=sorted(best, key=lambda run: run.repetition),
        num_settings=len(by_setting),
        num_incomplete=len(by_setting) - len(complete),
        num_trials=len(runs),
        num_diverged_trials=sum(bool(run.result["diverged"]) for run in runs),
        best_run=max(
            sorted(runs, key=lambda run: run.path), key=lambda run: validation_score(run.result)
        ),
    )


def entries_of(runs: Sequence[Run]) -> list[Entry]:
    """Every number of the table, task by task in the order of the registry, then by encoder."""
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_task[run.task].append(run)
    order = {name: number for number, name in enumerate(TASKS)}
    entries = []
    for task in sorted(by_task, key=lambda name: (order.get(name, len(order)), name)):
        by_encoder: dict[str, list[Run]] = defaultdict(list)
        for run in by_task[task]:
            by_encoder[run.encoder].append(run)
        choices = {name: choose(found) for name, found in sorted(by_encoder.items())}
        for column in columns_of(by_task[task]):
            entries += [_entry(column, name, choice) for name, choice in choices.items()]
    return entries


def columns_of(runs: Sequence[Run]) -> list[Column]:
    """The columns of a task: its test split where all runs scored it, else validation."""
    scored = [run.result["evaluation"] for run in runs if run.has_scores]
    base = "test" if scored and all("test" in found for found in scored) else "validation"
    first = runs[0].result
    title, spec = str(first["title"]), TASKS.get(str(first["task"]))
    splits = [base]
    if scored and all(base + MISMATCHED in found for found in scored):
        splits.append(base + MISMATCHED)
    titles = [f"{title} m", f"{title} mm"] if len(splits) > 1 else [title]
    return [
        Column(
            task=str(first["task"]),
            title=name,
            split=split,
            metrics=tuple(first["score"]),
            published=_published(spec, is_mismatched=split != base),
        )
        for split, name in zip(splits, titles, strict=True)
    ]


def _published(spec: TaskSpec | None, *, is_mismatched: bool) -> dict[str, float]:
    """Published scores that may stand beside ours: not those of other splits."""
    if spec is None or spec.num_folds:
        return {}
    suffix = " (mismatched)"
    return {
        model.removesuffix(suffix): value
        for model, value in spec.published.items()
        if model.endswith(suffix) == is_mismatched
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
        num_diverged=sum(bool(run.result["diverged"]) for run in choice.runs),
    )


def shared_rows_ratio(column: Column, runs: Sequence[Run]) -> float:
    """Scored rows / training rows of a cross-validated task; 0 for others, see `estimate`."""
    spec = TASKS.get(column.task)
    if spec is None or not spec.num_folds:
        return 0.0
    counts = [
        (run.split_facts(column.split).get("num_rows"), run.split_facts("train").get("num_rows"))
        for run in runs
    ]
    ratios = [scored / trained for scored, trained in counts if scored and trained]
    return fmean(ratios) if ratios else 1 / (spec.num_folds - 2)


def compare(entries: Sequence[Entry]) -> list[Comparison]:
    """Every two encoders of a column, paired by seed and fold."""
    by_column: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_column[entry.column.key].append(entry)
    comparisons = []
    for found in by_column.values():
        for first, second in combinations(found, 2):
            comparisons += _comparison(first, second)
    return comparisons


def _comparison(first: Entry, second: Entry) -> list[Comparison]:
    of_first, of_second = (
        {run.repetition: score for run, score in zip(entry.choice.runs, entry.scores, strict=True)}
        for entry in (first, second)
    )
    common = sorted(set(of_first) & set(of_second))
    if not common:
        return []
    difference = paired_difference(
        [of_first[key] for key in common],
        [of_second[key] for key in common],
        shared_rows_ratio=shared_rows_ratio(first.column, first.choice.runs),
    )
    return [
        Comparison(
            column=first.column,
            first=first.encoder,
            second=second.encoder,
            difference=difference,
            num_unpaired=len(of_first) + len(of_second) - 2 * len(common),
        )
    ]


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

    Columns count that every encoder has; of GLUE only those that the papers average (not WNLI).
    """
    encoders = sorted({entry.encoder for entry in entries})
    table = {(entry.column.key, entry.encoder): entry for entry in entries}
    columns = {entry.column.key: entry.column for entry in entries}
    used = [
        column
        for key, column in columns.items()
        if all((key, name) in table for name in encoders)
        and (column.task not in GLUE or TASKS[column.task].published)
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
    by_seed = [
        dict(zip((run.repetition for run in entry.choice.runs), entry.scores, strict=True))
        for entry in entries
    ]
    seeds = sorted(by_seed[0])
    if all(sorted(found) == seeds for found in by_seed):
        return estimate([fmean(found[seed] for found in by_seed) for seed in seeds])
    return estimate([fmean(entry.summary.mean for entry in entries)])
