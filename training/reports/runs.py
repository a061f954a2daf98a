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
from training.metrics_file import last_value, run_rows
from training.run_config import (
    BUNDLE_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    STUDY_FILE,
    TRIAL_FILE,
)
from training.run_folder import read_events

SEED_KEY = "seed_everything"
SPEED_METRIC, TASK_METRIC, CONSTANT_METRIC = "train/tokens_per_s", "downstream/", "constant/"
_WATCHED = ("val/mlm_loss", "train/loss", "train/mlm_loss", "val/loss")
Rows = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pretraining run.

    Its name is unique in a report. Settings are those of its resolved configuration by their dotted
    keys, `config_text` is the file. `downstream` is what the study says of a task: score and
    constant as fractions, n, split; `metadata` what its bundle says about its making. Starts have
    command and versions where they were recorded, `ended_at` is the last step that its events call
    its end (-1: none), remarks say what could not be read.
    """

    folder: Path
    name: str
    rows: Rows
    settings: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    downstream: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    starts: Sequence[Mapping[str, Any]] = ()
    ended_at: int = -1
    remarks: Sequence[str] = ()

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
        """Whether it reached its last step, as far as its folder tells, or a callback ended it.

        A run writes its bundle when it ends; one that was made longer since has an older one. One
        whose settings say nothing of its length counts as finished.
        """
        if self.planned_steps is None and "trainer.max_steps" not in self.settings:
            return True
        bundled = self.metadata and (self.metadata.get("steps") or math.inf) >= self.last_step
        if bundled or self.last_step >= (self.planned_steps or math.inf):
            return True
        return self.planned_steps is None and self.ended_at >= self.last_step

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
        folder, is_run = Path(place), not {METRICS_FILE, CONFIG_FILE}.isdisjoint(files)
        if TRIAL_FILE in files and not is_run:
            inner = (METRICS_FILE, CONFIG_FILE)
            is_run = not any(next(folder.rglob(name), None) for name in inner)
        if RESULT_FILE in files or is_run:
            below.clear()
        if is_run and RESULT_FILE not in files:
            yield folder


def _why_none(path: Path) -> str:
    if not path.exists():
        return "there is no such folder"
    if not path.is_dir():
        return "is a file; give the folder of a run or of a sweep"
    if next(path.rglob(RESULT_FILE), None):
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
    rows = run_rows(folder)
    if not all(map(_is_metrics, rows)):
        raise ValueError(f"{path}: has lines that are not numbers with a step")
    if not rows:
        raise ValueError(f"{path}: is empty")
    config_file, remarks = folder / CONFIG_FILE, list[str]()
    config, has_config = _read_mapping(config_file, remarks), config_file.is_file()
    remarks += [] if has_config else [f"has no {CONFIG_FILE}: its settings are unknown"]
    study = _read_mapping(folder / STUDY_FILE, remarks).get("downstream")
    tasks = study if isinstance(study, dict) else {}
    scored = {
        str(task): result
        for task, result in tasks.items()
        if isinstance(result, dict) and isinstance(result.get("score"), int | float)
    }
    remarks += [f"{STUDY_FILE} has no score for {task}" for task in tasks if task not in scored]
    ends = [e.get("step") for e in read_events(folder) if e.get("event") == "finished"]
    bundle = _read_mapping(folder / BUNDLE_FOLDER / "config.json", remarks)
    return Run(
        folder=folder,
        name=name or folder.resolve().name,
        rows=rows,
        settings=flatten({str(key): value for key, value in config.items()}),
        config_text=config_file.read_text("utf-8", "replace") if has_config else "",
        downstream=scored,
        metadata=bundle.get("metadata") or bundle,
        starts=_read_starts(folder),
        ended_at=max((step for step in ends if isinstance(step, int)), default=-1),
        remarks=remarks,
    )


def _is_metrics(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("step", ""), int | float | None):
        return False
    return all(isinstance(value, int | float) for name, value in row.items() if name != "step")


def _read_mapping(path: Path, remarks: list[str]) -> dict[Any, Any]:
    """What a YAML or JSON file holds; a broken one becomes a remark, a missing one is empty."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    is_yaml = path.suffix == ".yaml"
    try:
        content = yaml.safe_load(text) if is_yaml else json.loads(text)
        reason = "" if isinstance(content, dict) else "holds no settings"
    except (ValueError, yaml.YAMLError) as error:
        reason = f"is not {'YAML' if is_yaml else 'JSON'} ({' '.join(str(error).split())})"
    if reason:
        remarks.append(f"{path.name} {reason}; it was left out")
    return {} if reason else dict(content)


def _read_starts(folder: Path) -> list[Mapping[str, Any]]:
    """Starts and resumes with a command, from the run's events and from a sweep's trial."""
    found: list[Mapping[str, Any]] = [e for e in read_events(folder) if e.get("command")]
    for place in (folder, folder.parent):
        trial = _read_mapping(place / TRIAL_FILE, [])
        if not found and trial.get("command"):
            found.append({"event": "trial", "command": trial["command"]})
    return found
