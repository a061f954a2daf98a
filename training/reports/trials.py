"""The finished fine-tuning trials below some folders, as a table of results can use them.

Invariant: every result.json below the folders is used, or counted as left out, or is an error.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from training.configuration import changed_inputs
from training.result import read_result

RESULT_FILE, TRIAL_FILE, RECORD_FILE = "result.json", "trial.yaml", "trial.json"
PAIRED_BY = ("seed", "fold", "repeat")
"""Settings that make repetitions of one another; all others together are what is chosen."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One finished trial."""

    path: Path
    """Its folder."""
    result: Mapping[str, Any]
    """Content of its result.json."""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """Settings its result.json does not know, as all results that know them have them."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.result["task"])

    @property
    def title(self) -> str:
        """What tables call the task."""
        return str(self.result["title"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """What tables must know of the task; empty: the result is of an earlier version."""
        return dict(self.result["task_facts"])

    @property
    def has_diverged(self) -> bool:
        """Whether its loss stopped being finite."""
        return bool(self.result["diverged"])

    @property
    def validation(self) -> float:
        """Score on the first validation split; minus infinity: it was not scored."""
        return float(self.result["evaluation"].get("validation", {}).get("score", -math.inf))

    @cached_property
    def encoder(self) -> str:
        """What tables call the encoder; one without pretrained weights says so."""
        name = str(self.result["encoder"]["name"])
        return f"{name} (random)" if self.result["encoder"]["random_init"] else name

    @cached_property
    def setting(self) -> tuple[tuple[str, Any], ...]:
        """All settings that may be chosen."""
        settings = {**self.result["settings"], **self.assumed}
        return tuple((name, settings[name]) for name in sorted(settings) if name not in PAIRED_BY)

    @cached_property
    def repetition(self) -> tuple[int, ...]:
        """Seed, fold and repeat."""
        return tuple(int(self.result["settings"][name]) for name in PAIRED_BY)

    @property
    def has_scores(self) -> bool:
        """Whether any epoch was scored; a run may diverge before."""
        return bool(self.result["evaluation"])

    def score(self, split: str, metric: str = "score") -> float:
        """Score of its best epoch; of the majority answer where no epoch was scored.

        Raises:
            ValueError: The split was not scored.
        """
        for scores in (self.result["evaluation"], self.result["majority"]):
            value = scores.get(split, {}).get(metric)
            if value is not None and math.isfinite(value):
                return float(value)
        raise ValueError(f"{self.path / RESULT_FILE}: has no {metric} of {split}")

    def constant(self, split: str) -> float | None:
        """Score of the best constant answer; None: unknown.

        That is the most frequent training label (or mean score), or, of two classes, always the
        one that F1 is of (the second one, unless another was chosen), where that scores better.
        """
        value = self.result["majority"].get(split, {}).get("score")
        if value is None:
            return None
        positive = self._always_positive(split)
        return float(value) if positive is None else max(float(value), positive)

    def _always_positive(self, split: str) -> float | None:
        """Score of always giving the class that F1 is of; None: there are not two, or unknown."""
        counts = [int(n) for n in (self.split_facts(split).get("labels") or {}).values()]
        if len(counts) != 2 or not sum(counts):
            return None
        labels = list(self.split_facts(split)["labels"])
        positive = self.result["data"].get("f1_label") or labels[1]
        share = counts[labels.index(positive)] / sum(counts)
        known = {"accuracy": share, "f1": 2 * share / (1 + share), "matthews": 0.0}
        metrics = self.result["score"]
        if not set(metrics) <= set(known):
            return None
        return fmean(known[name] for name in metrics)

    def split_facts(self, split: str) -> Mapping[str, Any]:
        """What was looked at before training: rows, lengths."""
        splits = self.result["data"].get("splits") or {}
        return dict(splits.get(split) or {})

    def share_truncated(self, split: str) -> float | None:
        """Share of the split's texts that were cut; None: unknown."""
        lengths = self.split_facts(split).get("lengths") or {}
        value = lengths.get("share_truncated")
        return None if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class FoundTrials:
    """Everything below some folders."""

    runs: Sequence[Trial]
    """Finished trials, each once."""
    num_duplicates: int = 0
    """Results left out because the same trial stands in an earlier folder."""
    failed: Sequence[str] = field(default_factory=tuple)
    """Trials that failed, below their grid's folder."""
    unfinished: Sequence[str] = field(default_factory=tuple)
    """Trials that were started and have not ended, below their grid's folder."""
    changed: Sequence[str] = field(default_factory=tuple)
    """Files, in words, that are not any more what these trials have read."""


def find_trials(folders: Iterable[Path]) -> FoundTrials:
    """Return all trials below some folders.

    Raises:
        ValueError: A folder is missing or holds no result, a result is damaged, or two results
            must not stand in one table.
    """
    everything: list[Trial] = []
    failed: list[str] = []
    unfinished: list[str] = []
    for folder in folders:
        paths = sorted(folder.rglob(RESULT_FILE)) if folder.is_dir() else []
        if not paths:
            raise ValueError(
                f"{folder}: holds no {RESULT_FILE}; give the --output folder of a grid"
            )
        everything += [Trial(path=path.parent, result=read_result(path)) for path in paths]
        for path in sorted(folder.rglob(TRIAL_FILE)):
            if (path.parent / RESULT_FILE).exists():
                continue
            record = path.parent / RECORD_FILE
            has_failed = record.is_file() and json.loads(record.read_text())["state"] == "failed"
            name = path.parent.relative_to(folder).as_posix()
            (failed if has_failed else unfinished).append(name)
    runs: dict[tuple[Any, ...], Trial] = {}
    for run in _with_unknown_settings(everything):
        runs.setdefault((run.task, run.encoder, run.setting, run.repetition), run)
    found = list(runs.values())
    _check_same_weights(found)
    _check_same_rows(found)
    num_duplicates = len(everything) - len(found)
    return FoundTrials(
        runs=found,
        num_duplicates=num_duplicates,
        failed=failed,
        unfinished=unfinished,
        changed=list(dict.fromkeys(text for run in found for text in changed_inputs(run.path))),
    )


def _with_unknown_settings(runs: Sequence[Trial]) -> list[Trial]:
    """The runs; a setting that older ones do not know is what all others agree on.

    Otherwise the same setting would count as two, each with a part of the seeds.
    """
    known: dict[str, set[Any]] = {}
    for run in runs:
        for name, value in run.result["settings"].items():
            known.setdefault(name, set()).update(() if value is None else (value,))
    agreed = {name: next(iter(values)) for name, values in known.items() if len(values) == 1}
    filled = []
    for run in runs:
        unknown = {name for name, value in run.result["settings"].items() if value is None}
        assumed = {name: agreed[name] for name in sorted(unknown & set(agreed))}
        filled.append(replace(run, assumed=assumed))
    return filled


def _check_same_weights(runs: Iterable[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for run in runs:
        first = seen.setdefault(run.encoder, run)
        if run.result["encoder"]["digest"] != first.result["encoder"]["digest"]:
            raise ValueError(
                f"{first.path} and {run.path} are both of an encoder {run.encoder!r}, but started "
                "from different weights: rename one of the pretraining runs and run its trials "
                "again, or report the folders separately"
            )


def _check_same_rows(runs: Iterable[Trial]) -> None:
    seen: dict[tuple[Any, ...], Trial] = {}
    for run in runs:
        if not run.has_scores:
            continue
        counts = {name: v.get("num_rows") for name, v in run.result["evaluation"].items()}
        for split, count in counts.items():
            first = seen.setdefault((run.task, split, run.repetition[1:]), run)
            before = first.result["evaluation"][split].get("num_rows")
            if count != before:
                raise ValueError(
                    f"{first.path} and {run.path} were scored on {before} and {count} rows of "
                    f"{split}: report their folders separately"
                )


ALWAYS = ("lr", "batch_size")
"""Settings that stand beside every number, searched or not."""
_WORDS: dict[str, Callable[[Any], str]] = {
    "lr": lambda value: f"lr {value:g}",
    "batch_size": lambda value: f"batch {value}",
    "epochs": lambda value: "1 epoch" if value == 1 else f"{value} epochs",
    "max_len": lambda value: f"length {value:,}",
    "warmup_share": lambda value: f"warm-up {100 * value:g} %" if value else "no warm-up",
    "schedule": lambda value: f"{value} schedule",
    "weight_decay": lambda value: f"weight decay {value:g}" if value else "no weight decay",
    "dropout_prob": lambda value: f"dropout {value:g}",
    "gradient_clip": lambda value: f"clip {value:g}" if value else "no clip",
    "class_weights": lambda value: f"class weights {value}",
}


def searched_names(trials: Sequence[Trial]) -> list[str]:
    """Learning rate, batch size, and every other setting in which the trials of a task differ."""
    settings = [dict(trial.setting) for trial in trials]
    varied = [name for name in settings[0] if len({found[name] for found in settings}) > 1]
    return [*ALWAYS, *(name for name in varied if name not in ALWAYS)]


def setting_text(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some settings, such as `lr 0.0003, batch 32`; unknown ones are called so."""
    return ", ".join(_words(name, setting[name]) for name in names)


def shared_text(trials: Sequence[Trial]) -> str:
    """The settings all trials of a task have in common, but those that tables name elsewhere."""
    searched, setting = searched_names(trials), dict(trials[0].setting)
    names = [n for n in _WORDS if n not in searched and setting.get(n) is not None]
    return setting_text(setting, names)


def _words(name: str, value: Any) -> str:
    if value is None:
        return f"{name} unknown"
    return _WORDS[name](value) if name in _WORDS else f"{name} {value}"
