"""Curves: of configurations the mean over seeds with least and greatest, of runs as they are.

Invariant: a run that diverged or has not ended bends no mean; it is drawn beside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.metrics_file import last_value, series
from training.reports.configurations import Configuration, Study
from training.reports.figures import DASHES, GREY, MARKERS, SOFT, Panel, colour_of, save_png, tidy
from training.reports.measures import ACCURACY, LOSS, PAIRS
from training.reports.runs import Run

Points = list[tuple[float, float]]
Rows = list[dict[str, float]]
_EARLY = 0.05
"""Share of the steps at the beginning whose training values do not set the range of the axis."""
_MOST_MARKS = 24


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one configuration, at the steps that all its finished, finite runs have."""

    number: int
    """Of the configuration."""
    label: str
    """Of the configuration."""
    n: int
    """Runs in the mean."""
    steps: Sequence[float] = ()
    """Optimiser steps."""
    mean: Sequence[float] = ()
    """Mean over those runs."""
    low: Sequence[float] = ()
    """Least."""
    high: Sequence[float] = ()
    """Greatest."""
    strays: Sequence[Points] = ()
    """Finite values of runs beside the mean, which would hide them or be bent: those that diverged,
    up to there, and those that have not ended."""

    @property
    def values(self) -> list[float]:
        """What sets the range of an axis: the mean's, or the strays' where there is none."""
        return [*self.low, *self.high] or [value for points in self.strays for _, value in points]

    @property
    def last_step(self) -> float:
        """The newest step."""
        strays = (step for points in self.strays for step, _ in points)
        return max((*self.steps, *strays), default=0.0)


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
    return [curve for curve in curves if curve.values]


def curve_of_run(rows: Rows, metric: str, *, number: int, label: str) -> Curve:
    """The curve of one run by itself, values that are not finite included.

    Args:
        rows: Its metrics.
        metric: A key of them.
        number: Which colour and mark it gets.
        label: What it is called.
    """
    steps, values = series(rows, metric)
    return Curve(number=number, label=label, n=1, steps=steps, mean=values, low=values, high=values)


def _curve(number: int, configuration: Configuration, metric: str, scale: float) -> Curve:
    together: list[dict[float, float]] = []
    strays: list[Points] = []
    for run in configuration.runs:
        points = _points(run, metric, scale)
        finite = [point for point in points.items() if math.isfinite(point[1])]
        is_whole = run.diverged_at is None and len(finite) == len(points)
        if points and is_whole and run in configuration.counted:
            together.append(points)
        elif finite:
            strays.append(finite)
    steps = sorted(set.intersection(*map(set, together))) if together else []
    columns = [[points[step] for points in together] for step in steps]
    return Curve(
        number=number,
        label=configuration.label,
        n=len(together),
        steps=steps,
        mean=[sum(column) / len(column) for column in columns],
        low=[min(column) for column in columns],
        high=[max(column) for column in columns],
        strays=strays,
    )


def _points(run: Run, metric: str, scale: float) -> dict[float, float]:
    steps, values = series(run.rows, metric)
    pairs = zip(steps, values, strict=True)
    return {step: value * scale for step, value in pairs if step is not None}


@dataclass(frozen=True, kw_only=True)
class CurvePanel(Panel):
    """A metric over optimiser steps."""

    unit: str
    """Unit of the values, beside the axis."""
    main: Sequence[Curve]
    """Validation: thick, with marks and bands."""
    faint: Sequence[Curve] = ()
    """Training: thin, without marks."""
    levels: Sequence[tuple[float, str]] = ()
    """What guessing scores, and in words: lines across."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no value to draw."""
        return not any(curve.values for curve in (*self.main, *self.faint))

    def draw(self, axis: Any) -> None:
        """Draw it."""
        for curve in self.faint:
            _draw_faint(axis, curve)
        for curve in self.main:
            _draw_main(axis, curve)
        for level, text in self.levels:
            axis.axhline(level, color=GREY, ls="--", lw=1, label=text)
            axis.annotate(
                text,
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color=SOFT,
            )
        self._set_range(axis)
        axis.set_xlim(left=0)
        axis.set_xlabel("optimiser steps")
        axis.set_ylabel(self.unit)
        axis.set_title(self.title, fontsize=10)
        tidy(axis, grid="y")
        axis.locator_params(axis="x", nbins=5)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        if self.has_legend and self.main:
            axis.legend(fontsize=8, frameon=False)

    def _set_range(self, axis: Any) -> None:
        """Show validation whole, and training without its first steps."""
        values = [value for curve in self.main for value in curve.values]
        last = max((curve.last_step for curve in (*self.main, *self.faint)), default=0.0)
        for curve in self.faint:
            pairs = zip(curve.steps, curve.mean, strict=True)
            values += [v for step, v in pairs if step > _EARLY * last or not self.main]
        finite = [v for v in (*values, *(level for level, _ in self.levels)) if math.isfinite(v)]
        if finite:
            low, high = min(finite), max(finite)
            room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
            axis.set_ylim(low - room if low < 0 else max(0.0, low - room), high + room)


def _draw_faint(axis: Any, curve: Curve) -> None:
    style = {"color": colour_of(curve.number), "lw": 0.8, "alpha": 0.4}
    axis.plot(curve.steps, curve.mean, **style)
    for points in curve.strays:
        axis.plot(*zip(*points, strict=True), **style)


def _draw_main(axis: Any, curve: Curve) -> None:
    colour = colour_of(curve.number)
    if curve.n > 1:
        axis.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, lw=0)
    if curve.steps:
        axis.plot(
            curve.steps,
            curve.mean,
            color=colour,
            label=curve.label,
            lw=1.6,
            ls=DASHES[curve.number % len(DASHES)],
            marker=MARKERS[curve.number % len(MARKERS)],
            ms=4,
            mec="white",
            mew=0.5,
            markevery=-(-len(curve.steps) // _MOST_MARKS),
        )
    for points in curve.strays:
        axis.plot(*zip(*points, strict=True), color=colour, ls=":", lw=1.2)
        axis.plot(*points[-1], "x", color=colour, ms=6, mew=1.6)


def curve_panels(study: Study) -> list[CurvePanel]:
    """A panel for every metric that was validated."""
    panels: list[CurvePanel] = []
    for metric, measure in (
        ("mlm_loss", LOSS),
        ("mlm_accuracy", ACCURACY),
        ("pair_accuracy", PAIRS),
    ):
        levels = {level for run in study.runs if (level := measure.level(run)) is not None}
        panel = CurvePanel(
            title=measure.title,
            unit=measure.unit,
            has_legend=not panels,
            main=make_curves(study, f"val/{metric}", scale=measure.scale),
            faint=make_curves(study, f"train/{metric}", scale=measure.scale),
            levels=[
                (level, f"{measure.baseline_title} {measure.text(level)}")
                for level in sorted(levels)[:3]
            ],
        )
        panels += [panel] if panel.main else []
    return panels


def plot_curves(runs: Mapping[str, Rows], path: str | Path) -> Path | None:
    """Draw every run's training windows (thin) and validations (marks), and what guessing scores.

    Args:
        runs: Metrics rows by the run's label; one colour each.
        path: PNG to write.

    Returns:
        The path, or None while no run has a training or validation row (nothing is written).
    """
    everything = [row for rows in runs.values() for row in rows]
    panels = []
    for metric, title, baseline, guesser in (
        ("mlm_loss", "masked-LM loss (nats)", "baseline/unigram_loss", "unigram"),
        ("mlm_accuracy", "masked-LM accuracy", "baseline/unigram_accuracy", "unigram"),
        ("pair_accuracy", "pair accuracy", "baseline/pair_chance", "chance"),
    ):
        level = last_value(everything, baseline)
        faint, main = (
            [
                curve_of_run(rows, f"{stage}/{metric}", number=number, label=label)
                for number, (label, rows) in enumerate(runs.items())
            ]
            for stage in ("train", "val")
        )
        panel = CurvePanel(
            title=title,
            unit="",
            main=main,
            faint=faint,
            levels=[] if level is None else [(level, f"{guesser} {level:.3f}")],
            has_legend=True,
        )
        panels += [] if panel.is_empty else [panel]
    return save_png(panels, Path(path)) if panels else None
