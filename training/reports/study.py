"""Pretraining runs as a study: configurations that differ in more than their seed, and measures.

Invariant: every run belongs to exactly one configuration; none is dropped. An argument of one class
is never held against a configuration of another class, nor answers to different questions.
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from training.configuration import relevant
from training.reports.figures import Column, Result
from training.reports.measures import (
    ACCURACY,
    LOSS,
    PAIRS,
    SPEED,
    WHOLE_SPLIT,
    Logged,
    task_score,
)
from training.reports.runs import Run
from training.statistics import estimate, paired_difference

NOT_STATED = "(not stated)"
SPEAKS_FOR_ITSELF = ("model.encoder", "model.objective")
"""Settings whose value needs no name beside it."""
_MOST_PARTS = 4
"""Of a label; the table of what differs has the rest."""
_WRITTEN = {"Bert": "BERT"}
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs that are repetitions of each other, under a label that says what sets them apart.

    `factors` are differing keys with their values here, without keys that its classes do not have;
    `mixed` are keys that differ between its runs, the seed aside, as grouping by chosen keys does.
    """

    label: str
    runs: Sequence[Run]
    factors: Mapping[str, str]
    mixed: Sequence[str] = ()

    @property
    def is_finished(self) -> bool:
        """Whether any run reached its last step."""
        return any(run.is_finished for run in self.runs)

    @property
    def counted(self) -> Sequence[Run]:
        """The runs that stand in tables: finished ones, or all while none is finished."""
        return [run for run in self.runs if run.is_finished] or self.runs

    @property
    def repeated_seeds(self) -> Sequence[str]:
        """Seeds that more than one run was made with."""
        counts = Counter(run.seed for run in self.counted if run.seed)
        return [seed for seed, count in counts.items() if count > 1]

    @property
    def has_mixed_data(self) -> bool:
        """Whether its runs were trained on different data, as far as their bundles say."""
        return len({run.metadata.get("data_digest") for run in self.runs} - {None}) > 1


@dataclass(frozen=True, kw_only=True)
class Study:
    """All configurations, in the order their first runs were named, and what they differ in.

    `names` are differing settings with their short names; `unchanged` is what labels leave unsaid:
    short names with the value that most configurations have.
    """

    configurations: Sequence[Configuration]
    names: Mapping[str, str]
    unchanged: Mapping[str, str]

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
    allowed = sorted({key for run in runs for key in run.settings})
    for key in sorted(set(group_by).difference(allowed)):
        near = difflib.get_close_matches(key, allowed, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see any run_config.yaml"
        raise ValueError(f"--group_by {key}: no run has this setting; {hint}")
    groups: dict[str, tuple[Settings, list[Run]]] = {}
    for run in runs:
        own = {k: v for k, v in run.settings.items() if k in group_by}
        own = own if group_by else relevant(run.settings)
        identity = json.dumps(own, sort_keys=True, default=str) if run.settings else run.name
        groups.setdefault(identity, (own, []))[1].append(run)
    known = [own for own, members in groups.values() if members[0].settings]
    keys = sorted(differing_keys(known), key=lambda key: key not in SPEAKS_FOR_ITSELF)
    names = short_names(keys)
    factors = [
        {k: _in_short(k, own.get(k, NOT_STATED), known) for k in keys if _applies(k, own, known)}
        if members[0].settings
        else {}
        for own, members in groups.values()
    ]
    usual = _usual_values(keys, factors)
    seen: Counter[str] = Counter()
    configurations = []
    for found, (_, members) in zip(factors, groups.values(), strict=True):
        label = _label(members[0], found, names, usual, is_alone=len(groups) == 1)
        seen[label] += 1
        configurations.append(
            Configuration(
                label=label if seen[label] == 1 else f"{label} ({seen[label]})",
                runs=members,
                factors=found,
                mixed=differing_keys([relevant(run.settings) for run in members]),
            )
        )
    unchanged = {names[key]: value for key, value in usual.items()}
    return Study(configurations=configurations, names=names, unchanged=unchanged)


def differing_keys(configurations: Sequence[Settings]) -> list[str]:
    """Keys whose values differ, among the configurations that can have them at all.

    An argument of a class is not looked for in configurations of another class: PoNet's window
    says nothing about BERT.
    """
    differing = []
    for key in dict.fromkeys(key for settings in configurations for key in settings):
        having = [own for own in configurations if _applies(key, own, configurations)]
        if len({shown(own.get(key, NOT_STATED)) for own in having}) > 1:
            differing.append(key)
    return differing


def _applies(key: str, settings: Settings, configurations: Sequence[Settings]) -> bool:
    """Whether a configuration can have a setting: its classes are not others than of those."""
    if key in settings:
        return True
    parts = key.split(".")
    having = [other for other in configurations if key in other]
    return not any(
        owner in settings and all(other.get(owner) != settings[owner] for other in having)
        for owner in (".".join(parts[:n]) for n in range(1, len(parts)))
    )


def shown(value: Any) -> str:
    """A value in short: floats without zeros, the rest as in JSON but for quotes."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its last words, as many as tell it from the other keys."""
    names = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        names[key] = next(
            (tail for tail in tails if not any(o.endswith(f".{tail}") for o in others)), key
        )
    return names


def _in_short(key: str, value: Any, configurations: Sequence[Settings]) -> str:
    """A value as labels and tables say it: a class by its name, a path by its end."""
    text = shown(value)
    if key in SPEAKS_FOR_ITSELF:
        name = text.rsplit(".", 1)[-1].removesuffix("Config")
        return _WRITTEN.get(name, name)
    others = {shown(settings.get(key)) for settings in configurations} - {text}
    last = PurePath(text).name
    if "/" not in text or any(PurePath(other).name == last for other in others):
        return text
    return last


def _usual_values(keys: Sequence[str], factors: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Values that most configurations share in a study that changes one thing at a time.

    Nothing is usual in a full grid: there every value stands as often as the others.
    """
    usual = {}
    for key in keys:
        counts = Counter(factor[key] for factor in factors if key in factor)
        value, count = counts.most_common(1)[0]
        if key in SPEAKS_FOR_ITSELF or len(factors) < 3 or len(keys) < 2:
            continue
        if count > sum(counts.values()) / 2:
            usual[key] = value
    return usual


def _label(
    run: Run,
    factors: Mapping[str, str],
    names: Mapping[str, str],
    usual: Mapping[str, str],
    *,
    is_alone: bool,
) -> str:
    """What a configuration is called, by its first run."""
    if not run.settings:
        return f"{run.name} (no settings)"
    if is_alone:
        own = [_in_short(k, run.settings[k], []) for k in SPEAKS_FOR_ITSELF if k in run.settings]
        return ", ".join(own) or run.name
    parts = [
        value if key in SPEAKS_FOR_ITSELF else f"{names[key]}={value}"
        for key, value in factors.items()
        if usual.get(key) != value
    ]
    if len(parts) > _MOST_PARTS:
        parts = [*parts[: _MOST_PARTS - 1], f"and {len(parts) - _MOST_PARTS + 1} more settings"]
    return ", ".join(parts) or "unchanged"


def choose_baseline(study: Study, wanted: str) -> Configuration:
    """The configuration that others are compared with.

    Args:
        study: All configurations.
        wanted: A label, or the name or folder of one of its runs; empty: the first.

    Raises:
        ValueError: Nothing is called so; lists what there is.
    """
    for found in study.configurations:
        names = {name for run in found.runs for name in (run.name, str(run.folder))}
        if not wanted or wanted == found.label or wanted.rstrip("/") in names:
            return found
    labels = "; ".join(configuration.label for configuration in study.configurations)
    raise ValueError(f"--baseline {wanted}: no such configuration or run; there are: {labels}")


def measured(study: Study) -> list[Column[Logged]]:
    """The columns of a study's table that at least one run has, with the best cells marked."""
    tasks = dict.fromkeys(task for run in study.runs for task in run.downstream)
    downstream = map(task_score, tasks)
    return [
        _column(measure, study)
        for measure in (ACCURACY, LOSS, PAIRS, *WHOLE_SPLIT, *downstream, SPEED)
        if any(measure.read(run) is not None for run in study.runs)
    ]


def _column(measure: Logged, study: Study) -> Column[Logged]:
    levels = measure.levels(study.runs)
    note = f"{measure.unit}, {'lower' if measure.is_lower_better else 'higher'} is better"
    if levels:
        ends = dict.fromkeys(map(measure.text, (levels[0], levels[-1])))
        note += f"; {measure.guesser} {' to '.join(ends)}"
    is_comparable = measure.is_one_question(study.runs)
    cells = {found.label: _result(measure, found.counted) for found in study.configurations}
    if is_comparable:
        finished = [found.label for found in study.configurations if found.is_finished]
        best = [label for label in finished if _is_best(label, measure, cells)]
        cells |= {label: replace(cells[label], is_best=True) for label in best}
    level = levels[-1] if levels and is_comparable else None
    return Column(measure=measure, cells=cells, level=level, note=note)


def _result(measure: Logged, runs: Sequence[Run]) -> Result:
    """Several runs of one seed count as their mean, a run without a seed as a seed of its own."""
    values = [(run, measure.read(run)) for run in runs]
    finite = [(run, v) for run, v in values if v is not None and math.isfinite(v)]
    groups: dict[str, list[float]] = {}
    for run, value in finite:
        groups.setdefault(run.seed or run.name, []).append(value)
    by_seed = {seed: sum(some) / len(some) for seed, some in groups.items()}
    num_missing = sum(value is None for _, value in values)
    return Result(
        by_seed=by_seed,
        estimate=estimate(list(by_seed.values())) if by_seed else None,
        num_not_finite=len(values) - len(finite) - num_missing,
        num_diverged=sum(run.diverged_at is not None for run, _ in finite),
        num_missing=num_missing,
    )


def _is_best(label: str, measure: Logged, cells: Mapping[str, Result]) -> bool:
    """Whether a configuration is separably better than all others; never with diverged runs."""
    own = cells[label]
    others = [cell for cell in cells.values() if cell is not own and cell.by_seed]
    gaps = [paired_difference(own.by_seed, other.by_seed) for other in others]
    sign = -1 if measure.is_lower_better else 1
    if not gaps or own.num_not_finite or own.num_diverged:
        return False
    return all(gap and gap.verdict == "separable" and sign * gap.mean > 0 for gap in gaps)
