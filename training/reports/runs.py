"""Pretraining runs as a report sees them, read from what every run folder holds.

Invariant: a folder that was named or found is either a run of the report or listed with the reason
why it is not.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import yaml

from training.configuration import flatten
from training.metrics_file import last_value, own_test_rows, read_metrics
from training.reports.settings import SEED_KEY
from training.run_config import (
    BUNDLE_FOLDER,
    CONFIG_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    STUDY_FILE,
)

TRIAL_FILE = "trial.json"
FINETUNE_FILE = "result.json"
WATCHED = ("val/mlm_loss", "train/loss", "train/mlm_loss", "val/loss")
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
    settings: Mapping[str, Any]
    """Dotted key -> value of its resolved configuration; empty: it has none."""
    config_text: str = ""
    """The configuration as it stands in the file."""
    downstream: Mapping[str, float] = field(default_factory=dict)
    """Task -> score of the study, as a fraction."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Task -> score of the best constant answer, where the study says it."""
    downstream_notes: Sequence[str] = field(default_factory=tuple)
    """Per task: from how many fine-tunings its score comes, and on which split."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What its bundle says about its making; empty: there is no bundle."""
    starts: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    """Its starts and resumes, with command and versions where they were recorded."""
    remarks: Sequence[str] = field(default_factory=tuple)
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
            if any(name in row and not math.isfinite(row[name]) for name in WATCHED)
        ]
        return int(min(steps)) if steps else None

    @property
    def elapsed_s(self) -> float:
        """Seconds of training and validation, as far as logged."""
        return max((row.get("elapsed_s", 0.0) for row in self.rows), default=0.0)

    @property
    def tokens_per_s(self) -> float | None:
        """Median training speed over the logged windows."""
        values = [row["train/tokens_per_s"] for row in self.rows if "train/tokens_per_s" in row]
        return median(values) if values else None

    def last(self, metric: str) -> float | None:
        """The newest value of a metric."""
        return last_value(self.rows, metric)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A folder without a usable run."""

    folder: str
    """The folder as named or found."""
    reason: str
    """What is missing or broken."""


def find_runs(paths: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """Every run at or below some folders, and everything there that is none.

    Args:
        paths: Run folders, or folders that hold some, such as a sweep's.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in paths:
        folders = list(_run_folders(path))
        if not folders:
            problems.append(Problem(folder=str(path), reason=_why_none(path)))
        for folder in folders:
            if folder.resolve() in seen:
                problems.append(Problem(folder=str(folder), reason="named twice; read once"))
                continue
            seen.add(folder.resolve())
            try:
                runs.append(read_run(folder, name=_name(folder, path)))
            except (ValueError, OSError) as error:
                reason = str(error).removeprefix(f"{folder}: ")
                problems.append(Problem(folder=str(folder), reason=reason))
    return _with_unique_names(runs), problems


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


def _name(folder: Path, root: Path) -> str:
    below = folder.relative_to(root)
    return str(below) if below.parts else folder.resolve().name


def _with_unique_names(runs: Sequence[Run]) -> list[Run]:
    names = [run.name for run in runs]
    return [
        Run(**{**vars(run), "name": str(run.folder)}) if names.count(run.name) > 1 else run
        for run in runs
    ]


def read_run(folder: Path, *, name: str = "") -> Run:
    """Return one run.

    Args:
        folder: Its folder.
        name: What to call it; empty: as its folder.

    Raises:
        ValueError: There are no usable metrics; says why.
    """
    if not (folder / METRICS_FILE).is_file():
        raise ValueError(f"{folder}: has no {METRICS_FILE}; the run has not logged anything yet")
    rows = [*read_metrics(folder / METRICS_FILE), *own_test_rows(folder)]
    if not all(map(_is_metrics, rows)):
        raise ValueError(f"{folder / METRICS_FILE}: has lines that are not numbers with a step")
    if not rows:
        raise ValueError(f"{folder / METRICS_FILE}: is empty")
    remarks: list[str] = []
    text, settings = _read_config(folder / CONFIG_FILE, remarks)
    tasks = _tasks(_read_mapping(folder / STUDY_FILE, "JSON", remarks).get("downstream"), remarks)
    bundle = _read_mapping(folder / BUNDLE_FOLDER / "config.json", "JSON", remarks)
    return Run(
        folder=folder,
        name=name or folder.resolve().name,
        rows=rows,
        settings=settings,
        config_text=text,
        downstream={task: float(result["score"]) for task, result in tasks.items()},
        constants={
            task: float(result["constant"])
            for task, result in tasks.items()
            if isinstance(result.get("constant"), int | float)
        },
        downstream_notes=[_task_note(task, result) for task, result in tasks.items()],
        metadata=bundle.get("metadata") or bundle,
        starts=_read_starts(folder),
        remarks=remarks,
    )


def _is_metrics(row: Any) -> bool:
    if not isinstance(row, dict) or "step" not in row:
        return False
    step = row["step"]
    others = (value for name, value in row.items() if name != "step")
    return isinstance(step, int | float | None) and all(isinstance(v, int | float) for v in others)


def _read_config(path: Path, remarks: list[str]) -> tuple[str, dict[str, Any]]:
    """The configuration as text and as settings; what is missing or broken becomes a remark."""
    if not path.is_file():
        remarks.append(f"has no {CONFIG_FILE}: its settings are unknown")
        return "", {}
    config = _read_mapping(path, "YAML", remarks)
    text = path.read_text(encoding="utf-8", errors="replace")
    return text, flatten({str(key): value for key, value in config.items()})


def _read_mapping(path: Path, kind: Literal["YAML", "JSON"], remarks: list[str]) -> dict[Any, Any]:
    """What a file holds; a broken one becomes a remark, one that is not there is empty."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = yaml.safe_load(text) if kind == "YAML" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        remarks.append(f"{path.name} is not {kind} ({error}); it was left out")
        return {}
    if not isinstance(content, dict):
        remarks.append(f"{path.name} holds no settings; it was left out")
        return {}
    return content


def _tasks(downstream: Any, remarks: list[str]) -> dict[str, dict[str, Any]]:
    """The tasks of a study that have a score."""
    found = {}
    for task, result in (downstream if isinstance(downstream, dict) else {}).items():
        if isinstance(result, dict) and isinstance(result.get("score"), int | float):
            found[str(task)] = result
        else:
            remarks.append(f"{STUDY_FILE} has no score for {task}")
    return found


def _task_note(task: str, result: Mapping[str, Any]) -> str:
    parts = [f"n {result['n']}"] if "n" in result else []
    parts += [str(result["split"])] if result.get("split") else []
    parts += [f"{result['num_diverged']} diverged"] if result.get("num_diverged") else []
    return f"{task} {100 * result['score']:.1f} ({', '.join(parts) or 'n not said'})"


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
        trial = _read_mapping(place / TRIAL_FILE, "JSON", [])
        if not found and trial.get("command"):
            found.append({"event": "trial", "command": trial["command"]})
    return found
