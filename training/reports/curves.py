"""Curves: of configurations the mean over seeds with least and greatest, of runs as they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.metrics_rows import series
from training.reports.configurations import Configuration, Study
from training.reports.runs import Run

Point = tuple[float, float]
Rows = list[dict[str, float]]
STAGES = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class Band:
    """One configuration's curve, at the steps that all its finished, finite runs have."""

    steps: Sequence[float]
    """Optimiser steps."""
    mean: Sequence[float]
    """Mean over the runs."""
    low: Sequence[float]
    """Least."""
    high: Sequence[float]
    """Greatest."""
    n: int
    """Runs."""


@dataclass(frozen=True, kw_only=True)
class Stray:
    """A run that stands beside its configuration's mean, because that would hide it or be bent."""

    name: str
    """The run."""
    points: Sequence[Point]
    """Step and finite value, up to where it ended or diverged."""
    reason: str
    """Why it stands apart."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one configuration."""

    number: int
    """Of the configuration."""
    label: str
    """Of the configuration."""
    band: Band | None
    """None: no run can be counted."""
    strays: Sequence[Stray]
    """Runs that diverged, or have not ended."""

    @property
    def values(self) -> list[float]:
        """What sets the range of an axis: the band, or the strays where there is none."""
        if self.band:
            return [*self.band.low, *self.band.high]
        return [value for stray in self.strays for _, value in stray.points]

    @property
    def points(self) -> list[Point]:
        """Step and mean of the band."""
        return list(zip(self.band.steps, self.band.mean, strict=True)) if self.band else []

    @property
    def last_step(self) -> float:
        """The newest step of the band and of the strays."""
        strays = (step for stray in self.strays for step, _ in stray.points)
        return max((*(step for step, _ in self.points), *strays), default=0.0)


def curve_of_run(rows: Rows, metric: str, *, number: int, label: str) -> Curve | None:
    """The curve of one run by itself, values that are not finite included; None: no value.

    Args:
        rows: Its metrics.
        metric: A key of them.
        number: Which colour and mark it gets.
        label: What it is called.
    """
    steps, values = series(rows, metric)
    if not values:
        return None
    band = Band(steps=steps, mean=values, low=values, high=values, n=1)
    return Curve(number=number, label=label, band=band, strays=())


def make_curves(study: Study, metric: str, *, scale: float = 1.0) -> list[Curve]:
    """One curve per configuration that has the metric at all.

    Args:
        study: All configurations.
        metric: A key of the metrics rows.
        scale: Factor on its values.
    """
    curves = [
        _curve(number, configuration, metric, scale)
        for number, configuration in enumerate(study.configurations)
    ]
    return [curve for curve in curves if curve.band or any(s.points for s in curve.strays)]


def _curve(number: int, configuration: Configuration, metric: str, scale: float) -> Curve:
    together: list[dict[float, float]] = []
    strays: list[Stray] = []
    for run in configuration.runs:
        points = _points(run, metric, scale)
        if not points:
            continue
        reason = _why_apart(run, points, configuration)
        if reason:
            finite = [point for point in points.items() if math.isfinite(point[1])]
            strays.append(Stray(name=run.name, points=finite, reason=reason))
        else:
            together.append(points)
    return Curve(number=number, label=configuration.label, band=_band(together), strays=strays)


def _points(run: Run, metric: str, scale: float) -> dict[float, float]:
    steps, values = series(run.rows, metric)
    pairs = zip(steps, values, strict=True)
    return {step: value * scale for step, value in pairs if step is not None}


def _why_apart(run: Run, points: dict[float, float], configuration: Configuration) -> str:
    bad = [step for step, value in points.items() if not math.isfinite(value)]
    if run.diverged_at is not None or bad:
        return f"diverged at step {run.diverged_at or min(bad):,.0f}"
    if run not in configuration.counted:
        return f"not finished: step {run.last_step:,} of {run.planned_steps or 0:,}"
    return ""


def _band(runs: Sequence[dict[float, float]]) -> Band | None:
    if not runs:
        return None
    steps = sorted(set.intersection(*(set(points) for points in runs)))
    if not steps:
        return None
    columns = [[points[step] for points in runs] for step in steps]
    return Band(
        steps=steps,
        mean=[sum(column) / len(column) for column in columns],
        low=[min(column) for column in columns],
        high=[max(column) for column in columns],
        n=len(runs),
    )
