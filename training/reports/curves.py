"""Lines of a study: its measures over training, and its settings against its results.

Invariant: a run that diverged or has not ended bends no mean; it is drawn beside it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from training.metrics_file import series
from training.reports.figures import (
    DASHES,
    GREY,
    MARKERS,
    SOFT,
    Panel,
    colour_of,
    readable,
    save_png,
    tidy,
    wrapped,
)
from training.reports.measures import CURVES, Logged
from training.reports.runs import Rows, Run
from training.reports.study import Configuration, Study

Points = dict[float, float]
_EARLY = 0.05
"""Share of the steps at the beginning whose training values do not set the range of the axis."""
_MOST_MARKS = 24
_ABSENT = -0.12
"""Height of runs that do not have a setting or a score; the others are in [0, 1]."""
_LABEL_LENGTH = 18


def points_of(rows: Rows, metric: str, *, scale: float) -> Points:
    """Values of a metric by optimiser step, times a scale; also those that are not finite."""
    pairs = zip(*series(rows, metric), strict=True)
    return {step: scale * value for step, value in pairs if step is not None}


def finite_points(points: Points) -> Points:
    """Those that can be drawn."""
    return {step: value for step, value in points.items() if math.isfinite(value)}


def curves_of(
    configuration: Configuration, metric: str, *, scale: float = 1.0
) -> tuple[list[Points], list[Points]]:
    """Values by optimiser step, times a scale, of its finished, finite runs and of the others.

    The others would hide the mean or be bent: those that diverged have their finite values, and
    those that have not ended.
    """
    together: list[Points] = []
    strays: list[Points] = []
    for run in configuration.runs:
        points = points_of(run.rows, metric, scale=scale)
        finite = finite_points(points)
        is_whole = run.diverged_at is None and len(finite) == len(points)
        if finite:
            (together if is_whole and run in configuration.counted else strays).append(finite)
    return together, strays


def curve_panels(study: Study) -> list[Panel]:
    """A panel for every metric that was logged while training or validating."""
    logged = {name for run in study.runs for row in run.rows for name in row}
    return [
        Panel(
            title=measure.title,
            note=f"{measure.unit}, over optimiser steps",
            draw=partial(_draw_curves, study=study, measure=measure),
        )
        for measure in CURVES
        if not logged.isdisjoint((measure.metric, measure.training_metric))
    ]


def plot_curves(runs: Mapping[str, Rows], path: str | Path) -> Path | None:
    """Draw every run's training windows (thin) and validations (marks), and what guessing scores.

    Args:
        runs: Metrics rows by the run's label; one colour each.
        path: PNG to write.

    Returns:
        The path, or None while no run has a training or validation row (nothing is written).
    """
    alone = [
        Configuration(label=label, runs=[Run(folder=Path(), name=label, rows=rows)], factors={})
        for label, rows in runs.items()
    ]
    panels = curve_panels(Study(configurations=alone, names={}, unchanged={}))
    if panels:
        save_png(panels, Path(path))
    return Path(path) if panels else None


def _draw_curves(axis: Any, *, study: Study, measure: Logged) -> None:
    """Validation thick, with marks and bands; training thin; guessing as lines across."""
    levels = measure.levels(study.runs)[:3]
    main: list[float] = []
    faint: list[tuple[float, float]] = []
    for number, found in enumerate(study.configurations):
        together, strays = curves_of(found, measure.training_metric, scale=measure.scale)
        for points in ([_over(together, fmean)] if together else []) + strays:
            axis.plot(*_xy(points), color=colour_of(number), lw=0.8, alpha=0.4)
            faint += points.items()
        together, strays = curves_of(found, measure.metric, scale=measure.scale)
        draw_main(axis, number, found.label, together, strays)
        main += [value for points in together or strays for value in points.values()]
    for level in levels:
        mark_level(axis, level, f"{measure.guesser} {measure.text(level)}")
    early = _EARLY * max((step for step, _ in faint), default=0.0) if main else -math.inf
    values = [*main, *levels, *(value for step, value in faint if step > early)]
    if values:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - room if low < 0 else max(0.0, low - room), high + room)
    finish_steps(axis, "; thin: training" * bool(faint and main))
    axis.set_ylabel(measure.unit)


def mark_level(axis: Any, level: float, text: str) -> None:
    """Draw a line across at what guessing scores, with a text on it."""
    axis.axhline(level, color=GREY, ls="--", lw=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2)}
    place |= {"textcoords": "offset points", "ha": "right"}
    axis.annotate(text, (1, level), fontsize=8, color=SOFT, **place, **readable())


def finish_steps(axis: Any, also: str = "") -> None:
    """Let the horizontal axis be optimiser steps from 0 on."""
    axis.set_xlim(left=0)
    axis.set_xlabel(f"optimiser steps{also}")
    tidy(axis, grid="y")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def draw_main(
    axis: Any, number: int, label: str, together: Sequence[Points], strays: Sequence[Points]
) -> None:
    """Draw the mean of the runs that may be averaged, their band, and the others by themselves.

    Args:
        axis: Of a panel.
        number: Of the series, for its colour and marks.
        label: Its name.
        together: Values by step of the runs that are averaged, at the steps that all have.
        strays: Of those that would bend the mean.
    """
    colour = colour_of(number)
    mean = _over(together, fmean)
    if len(together) > 1:
        ends = [list(_over(together, end).values()) for end in (min, max)]
        axis.fill_between(list(mean), *ends, color=colour, alpha=0.18, lw=0)
    if mean:
        marker = MARKERS[number % len(MARKERS)]
        look: dict[str, Any] = {"ls": DASHES[number % len(DASHES)], "marker": marker}
        look |= {"markevery": -(-len(mean) // _MOST_MARKS), "label": label, "color": colour}
        axis.plot(*_xy(mean), lw=1.6, ms=4, mec="white", mew=0.5, **look)
    for points in strays:
        axis.plot(*_xy(points), color=colour, ls=":", lw=1.2)
        axis.plot(*list(points.items())[-1], "x", color=colour, ms=6, mew=1.6)


def _over(runs: Sequence[Points], of: Callable[[list[float]], float]) -> Points:
    """Mean, least or greatest of some runs at the steps that all of them have."""
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    return {step: of([points[step] for points in runs]) for step in steps}


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return list(points), list(points.values())


_Axis = tuple[str, list[float | None], dict[str, float]]
"""Title of a setting or measure, height per run in [0, 1] or None, text -> height of ticks."""


def parallel_panel(study: Study, measures: Sequence[Logged]) -> Panel | None:
    """Every run as a line through its settings and its results; None: too few runs or axes."""
    axes = [_setting_axis(study, key) for key in study.names]
    axes += [axis for measure in measures if (axis := _measure_axis(measure, study.runs))]
    if len(axes) < 2 or len(study.runs) < 2:
        return None
    numbers = [n for n, found in enumerate(study.configurations) for _ in found.runs]
    return Panel(
        title="Settings and results of every run",
        note="one line per run, from its settings on the left to its results on the right; better "
        "is higher on every result axis",
        draw=partial(_draw_parallel, axes=axes, numbers=numbers),
        size=(1.6 * len(axes), 3.2),
        is_wide=True,
    )


def _draw_parallel(axis: Any, *, axes: Sequence[_Axis], numbers: Sequence[int]) -> None:
    for run, number in enumerate(numbers):
        heights = [_ABSENT if (h := found[run]) is None else h for _, found, _ in axes]
        look = {"color": colour_of(number), "ls": DASHES[number % len(DASHES)], "lw": 1.4}
        axis.plot(range(len(axes)), heights, alpha=0.85, **look)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    for place, (title, found, ticks) in enumerate(axes):
        axis.plot([place, place], [0, 1], color=SOFT, lw=1)
        shown = wrapped(title, _LABEL_LENGTH)
        axis.text(place, 1.06, shown, ha="center", va="bottom", fontsize=8)
        for text, height in {**ticks, **({"none": _ABSENT} if None in found else {})}.items():
            axis.plot([place], [height], "_", color=SOFT, ms=6)
            label = text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"
            axis.text(place + 0.05, height, label, va="center", fontsize=8, bbox=box)
    axis.set_xlim(-0.5, len(axes) - 0.3)
    axis.set_ylim(-0.2, 1.08)
    axis.set_axis_off()


def _setting_axis(study: Study, key: str) -> _Axis:
    """Numbers stand by their size or, where they span much, their logarithm; words in any order."""
    texts = [found.factors.get(key) for found in study.configurations for _ in found.runs]
    present = dict.fromkeys(text for text in texts if text is not None)
    try:
        places = {text: float(text) for text in present}
    except ValueError:
        places = {}
    if not places or not all(map(math.isfinite, places.values())):
        places = {text: -float(number) for number, text in enumerate(present)}
    elif min(places.values()) > 0 and max(places.values()) / min(places.values()) >= 20:
        places = {text: math.log(number) for text, number in places.items()}
    return _axis(study.names[key], [None if t is None else places[t] for t in texts], places)


def _measure_axis(measure: Logged, runs: Sequence[Run]) -> _Axis | None:
    read = [measure.read(run) for run in runs]
    finite = [value for value in read if value is not None and math.isfinite(value)]
    if not finite:
        return None
    sign, direction = (-1, ", low at the top") if measure.is_lower_better else (1, "")
    places = [sign * v if v in finite and v is not None else None for v in read]
    ticks = {measure.text(value): sign * value for value in (min(finite), max(finite))}
    return _axis(f"{measure.title} ({measure.unit}{direction})", places, ticks)


def _axis(title: str, places: Sequence[float | None], ticks: Mapping[str, float]) -> _Axis:
    """An axis from the least to the greatest of its places."""
    known = [place for place in places if place is not None]
    low, span = min(known), max(known) - min(known) or 1.0
    heights = [None if place is None else (place - low) / span for place in places]
    return title, heights, {text: (place - low) / span for text, place in ticks.items()}
