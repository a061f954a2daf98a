"""Runs that differ only in their seed, under a name made of what sets them apart.

Invariant: every run belongs to exactly one configuration; none is dropped.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from training.configuration import relevant
from training.reports.runs import Run
from training.reports.settings import (
    NOT_STATED,
    applies,
    differing_keys,
    identity,
    short_names,
    shown,
)

SPEAKS_FOR_ITSELF = ("model.encoder", "model.objective")
"""Settings whose value needs no name beside it."""
UNCHANGED = "unchanged"
_MOST_PARTS = 4
"""Of a label; the table of what differs has the rest."""
_WRITTEN = {"Bert": "BERT"}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs that are repetitions of each other."""

    label: str
    """What sets it apart, in short words."""
    runs: Sequence[Run]
    """Its runs, in the order they were found."""
    factors: Mapping[str, str]
    """Differing key -> its value here; without the keys that its classes do not have."""
    mixed: Sequence[str] = ()
    """Keys that differ between its runs, the seed aside; only where grouping was by chosen keys."""

    @property
    def is_finished(self) -> bool:
        """Whether any run reached its last step."""
        return any(run.is_finished for run in self.runs)

    @property
    def counted(self) -> Sequence[Run]:
        """The runs that stand in tables: finished ones, or all while none is finished."""
        return [run for run in self.runs if run.is_finished] or self.runs

    def by_seed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Seed -> mean of its runs' values; a run without a seed counts as one of its own.

        Args:
            values: Value by the name of the run.
        """
        found: dict[str, list[float]] = {}
        for run in self.counted:
            if run.name in values:
                found.setdefault(run.seed or run.name, []).append(values[run.name])
        return {seed: sum(some) / len(some) for seed, some in found.items()}

    @property
    def repeated_seeds(self) -> Sequence[str]:
        """Seeds that more than one run was made with."""
        counts = Counter(run.seed for run in self.counted if run.seed)
        return [seed for seed, count in counts.items() if count > 1]


@dataclass(frozen=True, kw_only=True)
class Study:
    """All configurations, and what they differ in."""

    configurations: Sequence[Configuration]
    """Rows of the table, in the order their first runs were named."""
    keys: Sequence[str]
    """Settings that differ between configurations."""
    names: Mapping[str, str]
    """Short name of each of those."""
    unchanged: Mapping[str, str]
    """What a label leaves unsaid: short name -> the value most configurations have."""

    @property
    def runs(self) -> list[Run]:
        """All runs, configuration after configuration."""
        return [run for configuration in self.configurations for run in configuration.runs]


def make_study(runs: Sequence[Run], group_by: Sequence[str] = ()) -> Study:
    """Group runs into configurations and name these.

    Args:
        runs: Runs with unique names.
        group_by: Keys that alone tell configurations apart; empty: all that can change a result.

    Raises:
        ValueError: A key that no run has.
    """
    _check_keys(group_by, runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        own = _of(run, group_by)
        known = identity(own) if run.settings else f"unknown settings of {run.name}"
        groups.setdefault(known, []).append(run)
    members = list(groups.values())
    settings = [_of(group[0], group_by) for group in members]
    known_settings = [s for s, group in zip(settings, members, strict=True) if group[0].settings]
    keys = sorted(differing_keys(known_settings), key=lambda key: key not in SPEAKS_FOR_ITSELF)
    names = short_names(keys)
    factors = [
        {
            key: _in_short(key, s.get(key, NOT_STATED), known_settings)
            for key in keys
            if applies(key, s, known_settings)
        }
        if s
        else {}
        for s in settings
    ]
    usual = _usual_values(keys, factors)
    labels = [
        _label(factor, names, usual) if group[0].settings else f"{group[0].name} (no settings)"
        for factor, group in zip(factors, members, strict=True)
    ]
    if len(members) == 1 and members[0][0].settings:
        labels = [_only_label(members[0][0])]
    return Study(
        configurations=[
            Configuration(
                label=label,
                runs=group,
                factors=factor,
                mixed=differing_keys([relevant(run.settings) for run in group]),
            )
            for label, group, factor in zip(_unique(labels), members, factors, strict=True)
        ],
        keys=keys,
        names=names,
        unchanged={names[key]: value for key, value in usual.items()},
    )


def _of(run: Run, group_by: Sequence[str]) -> dict[str, Any]:
    if group_by:
        return {key: run.settings[key] for key in group_by if key in run.settings}
    return relevant(run.settings)


def _check_keys(keys: Sequence[str], runs: Sequence[Run]) -> None:
    allowed = sorted({key for run in runs for key in run.settings})
    for key in keys:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "see any run_config.yaml"
            raise ValueError(f"--group_by {key}: no run has this setting; {hint}")


def _in_short(key: str, value: Any, configurations: Sequence[Mapping[str, Any]]) -> str:
    text = shown(value)
    if key in SPEAKS_FOR_ITSELF:
        name = text.rsplit(".", 1)[-1].removesuffix("Config")
        return _WRITTEN.get(name, name)
    if "/" in text:
        others = {shown(s.get(key)) for s in configurations} - {text}
        last = PurePath(text).name
        return text if any(PurePath(other).name == last for other in others) else last
    return text


def _usual_values(keys: Sequence[str], factors: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Values that most configurations share in a study that changes one thing at a time.

    Nothing is usual in a full grid: there every value stands as often as the others.
    """
    usual = {}
    for key in keys:
        counts = Counter(factor[key] for factor in factors if key in factor)
        value, count = counts.most_common(1)[0]
        if key in SPEAKS_FOR_ITSELF or len(factors) < 3:
            continue
        if count > sum(counts.values()) / 2 and len(keys) > 1:
            usual[key] = value
    return usual


def _label(factors: Mapping[str, str], names: Mapping[str, str], usual: Mapping[str, str]) -> str:
    parts = [
        value if key in SPEAKS_FOR_ITSELF else f"{names[key]}={value}"
        for key, value in factors.items()
        if usual.get(key) != value
    ]
    if len(parts) > _MOST_PARTS:
        parts = [*parts[: _MOST_PARTS - 1], f"and {len(parts) - _MOST_PARTS + 1} more settings"]
    return ", ".join(parts) or UNCHANGED


def _only_label(run: Run) -> str:
    parts = [
        _in_short(key, run.settings[key], []) for key in SPEAKS_FOR_ITSELF if key in run.settings
    ]
    return ", ".join(parts) or run.name


def _unique(labels: Sequence[str]) -> list[str]:
    seen: Counter[str] = Counter()
    unique = []
    for label in labels:
        seen[label] += 1
        unique.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return unique


def choose_baseline(study: Study, wanted: str) -> Configuration:
    """The configuration that others are compared with.

    Args:
        study: All configurations.
        wanted: A label, or the name or folder of one of its runs; empty: the first.

    Raises:
        ValueError: Nothing is called so; lists what there is.
    """
    if not wanted:
        return study.configurations[0]
    for configuration in study.configurations:
        names = {str(run.folder) for run in configuration.runs} | {
            r.name for r in configuration.runs
        }
        if wanted == configuration.label or wanted.rstrip("/") in names:
            return configuration
    labels = "; ".join(configuration.label for configuration in study.configurations)
    raise ValueError(f"--baseline {wanted}: no such configuration or run; there are: {labels}")
