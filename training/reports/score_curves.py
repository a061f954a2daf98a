"""Lines of fine-tuning: validation scores over training, of the runs behind a table's numbers.

Invariant: a run that diverged bends no mean; runs whose steps were not kept are left out.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from training.metrics_file import read_metrics
from training.reports.choice import MISMATCHED, Entry, Task
from training.reports.curves import (
    Points,
    draw_main,
    finish_steps,
    finite_points,
    mark_level,
    points_of,
)
from training.reports.figures import Column, Panel
from training.reports.trials import Fit
from training.run_config import METRICS_FILE

_LEAST_POINTS = 2
"""A panel is drawn where any run has as many validations."""


def score_panels(columns: Sequence[Column[Task]], encoders: Sequence[str]) -> list[Panel]:
    """Return a panel for every task whose runs were validated while they trained.

    Args:
        columns: Tasks, each with its numbers by encoder.
        encoders: All encoders, whose places give colours and marks.
    """
    panels = []
    for column in columns:
        task = column.measure
        if task.split.endswith(MISMATCHED):  # validated as one task with the matched half
            continue
        curves = {
            name: [(run, score_curve(run, task)) for run in cell.runs]
            for name, cell in column.cells.items()
            if isinstance(cell, Entry) and not cell.is_baseline
        }
        if any(len(points) >= _LEAST_POINTS for found in curves.values() for _, points in found):
            draw = partial(_draw, task=task, curves=curves, encoders=encoders)
            note = "validation score, % over optimiser steps"
            panels.append(Panel(title=task.title, note=note, draw=draw))
    return panels


def score_curve(run: Fit, task: Task) -> Points:
    """Return optimiser step -> finite validation score, as shown; none if it was not kept."""
    path = run.path / METRICS_FILE
    rows = read_metrics(path) if path.is_file() else []
    return finite_points(points_of(rows, "val/score", scale=task.shown_factor))


def _draw(
    axis: Any, *, task: Task, curves: dict[str, list[tuple[Fit, Points]]], encoders: Sequence[str]
) -> None:
    for name, found in curves.items():
        kept = [(run, points) for run, points in found if points]
        together = [points for run, points in kept if not run.result["diverged"]]
        strays = [points for run, points in kept if run.result["diverged"]]
        draw_main(axis, encoders.index(name), name, together, strays)
    runs = [run for found in curves.values() for run, points in found if points]
    levels = [level for run in runs if (level := run.constant("validation")) is not None]
    if levels:
        level = task.shown_factor * max(levels)
        mark_level(axis, level, f"best constant answer {level:.1f}")
    finish_steps(axis)
    axis.set_ylabel("validation score, %")
