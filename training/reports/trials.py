"""The finished fine-tuning trials below some folders, as a table of results can use them.

Invariant: every result.json below the folders is used, or counted as left out, or is an error.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from data_prep.command import counted
from training.configuration import changed_inputs
from training.reports.alike import differences, facts_of
from training.result import BASELINE, read_result
from training.run_config import RESULT_FILE, TRIAL_CONFIG_FILE, TRIAL_FILE

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
PAIRED_BY = ("seed", "fold", "repeat")
"""Settings that make repetitions of one another; all others together are what is chosen."""


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in the order they came."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One finished trial: its folder and the content of its result.json."""

    path: Path
    result: Mapping[str, Any]

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.result["task"])

    @property
    def title(self) -> str:
        """What tables call the task."""
        return str(self.result["title"])

    @property
    def has_scores(self) -> bool:
        """Whether any epoch was scored; a run may diverge before."""
        return bool(self.result["evaluation"])

    @property
    def validation(self) -> float:
        """Score on the first validation split; minus infinity: it was not scored."""
        return float(self.result["evaluation"].get("validation", {}).get("score", -math.inf))

    @cached_property
    def encoder(self) -> str:
        """What tables call the encoder; one without pretrained weights says so."""
        name = str(self.result["encoder"]["name"])
        encoder = self.result["encoder"]
        left_weights = encoder["random_init"] and not encoder["path"].endswith((".yaml", ".yml"))
        return f"{name} (random)" if left_weights else name

    @property
    def is_baseline(self) -> bool:
        """Whether it is a linear model, which has no seed and nothing to set."""
        return bool(self.result["encoder"]["kind"] == BASELINE)

    @cached_property
    def setting(self) -> tuple[tuple[str, Any], ...]:
        """All settings that may be chosen."""
        settings = self.result["settings"]
        return tuple((name, settings[name]) for name in sorted(settings) if name not in PAIRED_BY)

    @cached_property
    def repetition(self) -> tuple[int, ...]:
        """Seed, fold and repeat."""
        return tuple(int(self.result["settings"][name]) for name in PAIRED_BY)

    def score(self, split: str, metric: str = "score") -> float:
        """Score of its best epoch; of the majority answer where no epoch was scored.

        Raises:
            ValueError: The split was not scored.
        """
        value = self.known_score(split, metric)
        if value is None:
            raise ValueError(f"{self.path / RESULT_FILE}: has no {metric} of {split}")
        return value

    def known_score(self, split: str, metric: str) -> float | None:
        """Score as above; None: there is none, nor of the majority answer."""
        for scores in (self.result["evaluation"], self.result["majority"]):
            value = scores.get(split, {}).get(metric)
            if value is not None and math.isfinite(value):
                return float(value)
        return None

    def constant(self, split: str) -> float | None:
        """Score of the better one of two constant answers; None: unknown.

        They are the most frequent training label (or mean score) and the label that scores best.
        """
        found = (self.result["majority"], self.result["data"].get("best_constant") or {})
        scores = [scores.get(split, {}).get("score") for scores in found]
        return max((float(score) for score in scores if score is not None), default=None)

    def split_facts(self, split: str) -> Mapping[str, Any]:
        """What was looked at before training: rows, lengths."""
        return dict((self.result["data"].get("splits") or {}).get(split) or {})


@dataclass(frozen=True, kw_only=True)
class FoundTrials:
    """Everything below some folders: the finished trials, each once, and what is not among them.

    `duplicates` has, for each trial that is left out, the one before it that has the same task,
    encoder, settings and seed; failed and unfinished trials are named below their grid's folder;
    `changed` says which files are not any more what these trials have read.
    """

    runs: Sequence[Fit]
    duplicates: Mapping[Path, Path]
    failed: Sequence[str]
    unfinished: Sequence[str]
    changed: Sequence[str]


def _has_failed(trial: Path) -> bool:
    """Whether a trial without a result failed; else it has not ended."""
    record = trial / TRIAL_FILE
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return found.get("state") == "failed"


def find_trials(folders: Iterable[Path]) -> FoundTrials:
    """Return all trials below some folders.

    Raises:
        ValueError: A folder is missing or holds no result, a result is damaged, or two results
            must not stand in one table.
    """
    everything: list[Fit] = []
    missing: dict[bool, list[str]] = {True: [], False: []}
    for folder in folders:
        paths = sorted(folder.rglob(RESULT_FILE)) if folder.is_dir() else []
        if not paths:
            there = f"holds no {RESULT_FILE} of a fit that has ended" * folder.is_dir()
            raise ValueError(
                f"{folder}: {there or 'no such folder'}; give runs that have ended, or the "
                "--output folder of a grid"
            )
        everything += [Fit(path=path.parent, result=read_result(path)) for path in paths]
        for trial in sorted(path.parent for path in folder.rglob(TRIAL_CONFIG_FILE)):
            if not (trial / RESULT_FILE).exists():
                missing[_has_failed(trial)].append(trial.relative_to(folder).as_posix())
    _check_alike(everything)
    runs: dict[tuple[Any, ...], Fit] = {}
    duplicates: dict[Path, Path] = {}
    _check_repetitions(everything)
    for run in everything:
        first = runs.setdefault((run.task, run.encoder, run.setting, run.repetition), run)
        duplicates |= {} if first is run else {run.path: first.path}
    found = list(runs.values())
    return FoundTrials(
        runs=found,
        duplicates=duplicates,
        failed=missing[True],
        unfinished=missing[False],
        changed=list(dict.fromkeys(text for run in found for text in changed_inputs(run.path))),
    )


def scored_split(runs: Iterable[Fit]) -> str:
    """What a table of some runs shows: test where all that were scored have it, else validation.

    One that diverged before it was scored counts as the majority answer on either.
    """
    scored = [run.result["evaluation"] for run in runs if run.has_scores]
    return "test" if scored and all("test" in found for found in scored) else "validation"


def _check_alike(runs: Iterable[Fit]) -> None:
    """Tasks must have one score, encoders of one name the same weights, splits the same rows."""
    scores: dict[str, Fit] = {}
    weights: dict[str, Fit] = {}
    scored: dict[tuple[Any, ...], Fit] = {}
    counts: dict[tuple[Any, ...], tuple[Fit, Any]] = {}
    for run in runs:
        first = weights.setdefault(run.encoder, run)
        if run.result["encoder"]["digest"] != first.result["encoder"]["digest"]:
            raise ValueError(
                f"{first.path} and {run.path} are both of an encoder {run.encoder!r}, but started "
                "from different weights: rename one of the pretraining runs and run its trials "
                "again, or report the folders separately"
            )
        first = scores.setdefault(run.task, run)
        folds = [str(trial.result["task_facts"]["num_folds"] or "no") for trial in (first, run)]
        if folds[0] != folds[1]:
            raise ValueError(
                f"{first.path} and {run.path} are both of {run.task}, but with {folds[0]} and "
                f"{folds[1]} folds: report their folders separately"
            )
        if run.result["score"] != first.result["score"]:
            both = [" + ".join(trial.result["score"]) for trial in (first, run)]
            raise ValueError(
                f"{first.path} and {run.path} are both of {run.task}, but chosen by {both[0]} and "
                f"{both[1]}: report their folders separately"
            )
        for split, values in run.result["evaluation"].items():
            count, place = values.get("num_rows"), (run.task, split, run.repetition[1:])
            # a baseline has no batches, of which some fits score whole ones alone
            first, before = counts.setdefault((*place, run.is_baseline), (run, count))
            if count != before:
                raise ValueError(
                    f"{first.path} and {run.path} were scored on {before} and {count} rows of "
                    f"{split}: report their folders separately"
                )
            first = scored.setdefault(place, run)
            if not may_be_one(first.split_facts(split), run.split_facts(split)):
                raise ValueError(
                    f"{first.path} and {run.path} were scored on other rows of {split}, both of "
                    f"the task {run.task}: report their folders separately"
                )


def _check_repetitions(runs: Iterable[Fit]) -> None:
    """Refuse runs of one setting that differ in more than seed and fold: a mean would hide it."""
    for group in grouped(runs, lambda run: (run.task, run.encoder, run.setting)).values():
        first, *others = group
        known = facts_of(first.path) if others else ({}, {})
        for run in others:
            if found := differences(known, facts_of(run.path)):
                raise ValueError(
                    f"{first.path} and {run.path} would be one row of the table, as repetitions "
                    f"with other seeds, but differ in {', '.join(found[:3])}: report their folders "
                    "separately"
                )


def may_be_one(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two splits have as many rows of every label that both know, and one mean."""
    both = [facts.get("labels") or {} for facts in (first, second)]
    one, other = (facts.get("target_mean") for facts in (first, second))
    known = both[0].keys() & both[1].keys()
    if all(both) and (not known or any(both[0][label] != both[1][label] for label in known)):
        return False
    return one is None or other is None or math.isclose(one, other, rel_tol=1e-6)


_ALWAYS = ("lr", "batch_size")
"""Settings that stand beside every number, searched or not."""


def _frozen_words(value: Any) -> str:
    if not isinstance(value, str):
        value = f"embeddings, {counted(value, 'block(s)')}" if value else "nothing"
    return f"{value} frozen"


_WORDS: dict[str, Callable[[Any], str]] = {
    "lr": lambda value: f"lr {value:g}",
    "batch_size": lambda value: f"batch {value}",
    "epochs": lambda value: "1 epoch" if value == 1 else f"{value} epochs",
    "max_len": lambda value: f"length {value:,}",
    "warmup_share": lambda value: f"warm-up {100 * value:.3g} %" if value else "no warm-up",
    "schedule": lambda value: f"{value} schedule",
    "weight_decay": lambda value: f"weight decay {value:g}" if value else "no weight decay",
    "dropout_prob": lambda value: f"dropout {value if isinstance(value, str) else f'{value:g}'}",
    "gradient_clip": lambda value: f"clip {value:g}" if value else "no clip",
    "class_weights": lambda value: f"class weights {value}",
    "freeze": _frozen_words,
}
_UNSAID = {"freeze": 0}
"""Values that go without saying where all trials have them."""


def searched_names(trials: Sequence[Fit]) -> list[str]:
    """Learning rate, batch size, and every other setting in which the trials of a task differ."""
    settings = [dict(trial.setting) for trial in trials]
    varied = [name for name in settings[0] if len({found[name] for found in settings}) > 1]
    return [*_ALWAYS, *(name for name in varied if name not in _ALWAYS)]


def setting_text(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some settings, such as `lr 0.0003, batch 32`."""
    return ", ".join(_words(name, setting[name]) for name in names)


def _words(name: str, value: Any) -> str:
    return _WORDS[name](value) if name in _WORDS else f"{name} {value}"


def shared_text(trials: Sequence[Fit]) -> str:
    """The settings all trials of a task have in common, but those that tables name elsewhere."""
    searched, setting = searched_names(trials), dict(trials[0].setting)
    names = [name for name in _WORDS if name not in searched and setting[name] != _UNSAID.get(name)]
    return setting_text(setting, names)
