"""Pretraining runs as a report sees them, read from what every run folder holds.

Invariant: a folder that was named or found is either a run of the report or listed with the reason
why it is not.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from training.configuration import flatten
from training.metrics_rows import last_value, own_test_rows, read_metrics
from training.run_config import (
    BUNDLE_FOLDER,
    CONFIG_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    STUDY_FILE,
)

TRIAL_FILE = "trial.json"
FINETUNE_FILE = "result.json"
SEED_KEY = "seed_everything"
SPEED_METRIC, TASK_METRIC, CONSTANT_METRIC = "train/tokens_per_s", "downstream/", "constant/"
_WATCHED = ("val/mlm_loss", "train/loss", "train/mlm_loss", "val/loss")
Rows = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pretraining run."""

    folder: Path
    """Its folder."""
    name: str
    """What it is called in the report, unique there."""
    rows: Rows
    """Lines of its metrics file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key -> value of its resolved configuration; empty: it has none."""
    config_text: str = ""
    """The configuration as it stands in the file."""
    downstream: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Task -> what the study says of it: score and constant as fractions, n, split."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its bundle says about its making; empty: there is no bundle."""
    starts: Sequence[Mapping[str, Any]] = ()
    """Its starts and resumes, with command and versions where they were recorded."""
    remarks: Sequence[str] = ()
    """What could not be read."""

    @property
    def seed(self) -> str | None:
        """The seed as text; None: not fixed."""
        value = self.settings.get(SEED_KEY)
        return None if value is None or isinstance(value, bool) else str(value)

    @property
    def last_step(self) -> int:
        """The newest optimiser step in the metrics."""
        return int(max((row["step"] or 0 for row in self.rows), default=0))

    @property
    def planned_steps(self) -> int | None:
        """Optimiser steps it was asked for; None: not said in steps."""
        value = self.settings.get("trainer.max_steps")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def is_finished(self) -> bool:
        """Whether it reached its last step, as far as its folder tells."""
        if self.planned_steps is None:
            return True
        return bool(self.metadata) or self.last_step >= self.planned_steps

    @property
    def diverged_at(self) -> int | None:
        """The first step with a loss that is not finite; None: there is none."""
        steps = [
            row["step"]
            for row in self.rows
            if any(name in row and not math.isfinite(row[name]) for name in _WATCHED)
        ]
        return int(min(steps)) if steps else None

    @property
    def elapsed_s(self) -> float:
        """Seconds of training and validation, as far as logged."""
        return max((row.get("elapsed_s", 0.0) for row in self.rows), default=0.0)

    def last(self, metric: str) -> float | None:
        """The newest value of a metric; the median of the speed, the study's score of a task."""
        if metric == SPEED_METRIC:
            speeds = [row[metric] for row in self.rows if metric in row]
            return median(speeds) if speeds else None
        for prefix, key in ((TASK_METRIC, "score"), (CONSTANT_METRIC, "constant")):
            if metric.startswith(prefix):
                value = self.downstream.get(metric.removeprefix(prefix), {}).get(key)
                return float(value) if isinstance(value, int | float) else None
        return last_value(self.rows, metric)


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """Every run at or below some folders, and folder -> reason of everything there that is none.

    Args:
        paths: Run folders, or folders that hold some, such as a sweep's.
    """
    runs: list[Run] = []
    problems: dict[str, str] = {}
    seen: set[Path] = set()
    for path in paths:
        folders = list(_run_folders(path))
        if not folders:
            problems[str(path)] = _why_none(path)
        for folder in folders:
            if folder.resolve() in seen:
                problems[str(folder)] = "named twice; read once"
                continue
            seen.add(folder.resolve())
            try:
                below = folder.relative_to(path)
                runs.append(read_run(folder, name=str(below) if below.parts else ""))
            except (ValueError, OSError) as error:
                problems[str(folder)] = str(error).removeprefix(f"{folder}: ")
    names = [run.name for run in runs]
    runs = [replace(r, name=str(r.folder)) if names.count(r.name) > 1 else r for r in runs]
    return runs, problems


def _run_folders(path: Path) -> Iterator[Path]:
    """Folders with a run or a trial's start; what lies inside a run is part of it."""
    for place, below, files in os.walk(path):
        below.sort()
        if FINETUNE_FILE in files:
            below.clear()
            continue
        is_run = not {METRICS_FILE, CONFIG_FILE}.isdisjoint(files)
        if is_run or (TRIAL_FILE in files and not _has_run_below(Path(place))):
            yield Path(place)
            below.clear()


def _has_run_below(folder: Path) -> bool:
    return any(next(folder.rglob(name), None) for name in (METRICS_FILE, CONFIG_FILE))


def _why_none(path: Path) -> str:
    if not path.exists():
        return "there is no such folder"
    if not path.is_dir():
        return "is a file; give the folder of a run or of a sweep"
    if next(path.rglob(FINETUNE_FILE), None):
        return "holds fine-tuning runs only; `python -m finetune report` makes their table"
    return f"holds no run: there is no {METRICS_FILE} in it or below it"


def read_run(folder: Path, *, name: str = "") -> Run:
    """Return one run.

    Args:
        folder: Its folder.
        name: What to call it; empty: as its folder.

    Raises:
        ValueError: There are no usable metrics; says why.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: has no {METRICS_FILE}; the run has not logged anything yet")
    rows = [*read_metrics(path), *own_test_rows(folder)]
    if not all(map(_is_metrics, rows)):
        raise ValueError(f"{path}: has lines that are not numbers with a step")
    if not rows:
        raise ValueError(f"{path}: is empty")
    remarks: list[str] = []
    config, text = _read_mapping(folder / CONFIG_FILE, remarks)
    if not (folder / CONFIG_FILE).is_file():
        remarks.append(f"has no {CONFIG_FILE}: its settings are unknown")
    tasks = _read_mapping(folder / STUDY_FILE, remarks)[0].get("downstream")
    bundle = _read_mapping(folder / BUNDLE_FOLDER / "config.json", remarks)[0]
    return Run(
        folder=folder,
        name=name or folder.resolve().name,
        rows=rows,
        settings=flatten({str(key): value for key, value in config.items()}),
        config_text=text,
        downstream=_scored(tasks, remarks),
        metadata=bundle.get("metadata") or bundle,
        starts=_read_starts(folder),
        remarks=remarks,
    )


def _is_metrics(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("step", ""), int | float | None):
        return False
    return all(isinstance(value, int | float) for name, value in row.items() if name != "step")


def _read_mapping(path: Path, remarks: list[str]) -> tuple[dict[Any, Any], str]:
    """What a YAML or JSON file holds, and its text; a broken one becomes a remark."""
    if not path.is_file():
        return {}, ""
    text = path.read_text(encoding="utf-8", errors="replace")
    is_yaml = path.suffix == ".yaml"
    try:
        content = yaml.safe_load(text) if is_yaml else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "YAML" if is_yaml else "JSON"
        reason = " ".join(str(error).split())
        remarks.append(f"{path.name} is not {kind} ({reason}); it was left out")
        return {}, text
    if not isinstance(content, dict):
        remarks.append(f"{path.name} holds no settings; it was left out")
        return {}, text
    return content, text


def _scored(tasks: Any, remarks: list[str]) -> dict[str, dict[str, Any]]:
    """The tasks of a study that have a score."""
    found = {str(k): v for k, v in (tasks if isinstance(tasks, dict) else {}).items()}
    scored = {
        task: result
        for task, result in found.items()
        if isinstance(result, dict) and isinstance(result.get("score"), int | float)
    }
    remarks += [f"{STUDY_FILE} has no score for {task}" for task in found if task not in scored]
    return scored


def _read_starts(folder: Path) -> list[Mapping[str, Any]]:
    """Starts and resumes with a command, from the run's events and from a sweep's trial."""
    events = folder / EVENTS_FILE
    found: list[Mapping[str, Any]] = []
    for line in events.read_text(encoding="utf-8").splitlines() if events.is_file() else ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # a killed run leaves half of a last line
            continue
        if isinstance(event, dict) and event.get("command"):
            found.append(event)
    for place in (folder, folder.parent):
        trial = _read_mapping(place / TRIAL_FILE, [])[0]
        if not found and trial.get("command"):
            found.append({"event": "trial", "command": trial["command"]})
    return found
