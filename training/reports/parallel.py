"""Settings against results: one line per run through its settings and its scores."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.reports.configurations import Study
from training.reports.figures import DASHES, SOFT, Panel, colour_of
from training.reports.measures import Column
from training.reports.runs import Run

_ABSENT = -0.12
"""Height of runs that do not have a setting or a score; the others are in [0, 1]."""
_AXIS_WIDTH, _HEIGHT, _LABEL_LENGTH = 1.6, 3.2, 18


@dataclass(frozen=True, kw_only=True)
class ParallelAxis:
    """One vertical line."""

    title: str
    """Setting or measure, with its unit."""
    heights: Sequence[float | None]
    """Height per run in [0, 1]; None: it has no value."""
    ticks: Sequence[tuple[float, str]]
    """Height and text."""


@dataclass(frozen=True, kw_only=True)
class ParallelPanel(Panel):
    """All runs through all axes."""

    axes: Sequence[ParallelAxis]
    """Settings, then measures."""
    series: Sequence[int]
    """Number of every run's configuration."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return _AXIS_WIDTH * len(self.axes), _HEIGHT

    def draw(self, axis: Any) -> None:
        """Draw it."""
        places = list(range(len(self.axes)))
        for run, number in enumerate(self.series):
            heights = [_ABSENT if (h := a.heights[run]) is None else h for a in self.axes]
            dashes = DASHES[number % len(DASHES)]
            axis.plot(places, heights, color=colour_of(number), ls=dashes, lw=1.4, alpha=0.85)
        for place, found in enumerate(self.axes):
            axis.plot([place, place], [0, 1], color=SOFT, lw=1)
            axis.text(place, 1.06, _wrapped(found.title), ha="center", va="bottom", fontsize=8)
            absent = [(_ABSENT, "none")] if None in found.heights else []
            for height, text in (*found.ticks, *absent):
                axis.plot([place], [height], "_", color=SOFT, ms=6)
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
                label = text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"
                axis.text(place + 0.05, height, label, va="center", fontsize=8, bbox=box)
        axis.set_xlim(-0.5, len(self.axes) - 0.3)
        axis.set_ylim(-0.2, 1.08)
        axis.set_axis_off()


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, _LABEL_LENGTH, max_lines=3, placeholder="…"))


def make_parallel(study: Study, columns: Sequence[Column]) -> ParallelPanel | None:
    """The panel; None: fewer than two axes or runs.

    Args:
        study: All configurations.
        columns: The measures to end in.
    """
    axes = [_setting_axis(study, key) for key in study.keys]
    axes += [axis for column in columns if (axis := _measure_axis(column, study.runs))]
    if len(axes) < 2 or len(study.runs) < 2:
        return None
    series = [n for n, found in enumerate(study.configurations) for _ in found.runs]
    return ParallelPanel(axes=axes, series=series)


def _setting_axis(study: Study, key: str) -> ParallelAxis:
    values = [found.factors.get(key) for found in study.configurations for _ in found.runs]
    present = list(dict.fromkeys(value for value in values if value is not None))
    places = _number_places(present)
    if places is None:
        places = {value: 1 - (n + 0.5) / len(present) for n, value in enumerate(present)}
    return ParallelAxis(
        title=study.names[key],
        heights=[None if value is None else places[value] for value in values],
        ticks=[(place, value) for value, place in places.items()],
    )


def _number_places(values: Sequence[str]) -> dict[str, float] | None:
    """Heights of numbers, by their logarithms where they span much; None: they are no numbers."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    if len(set(numbers)) < max(2, len(values)) or not all(map(math.isfinite, numbers)):
        return None
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 20:
        numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    return {
        value: (number - low) / (high - low) for value, number in zip(values, numbers, strict=True)
    }


def _measure_axis(column: Column, runs: Sequence[Run]) -> ParallelAxis | None:
    from matplotlib.ticker import MaxNLocator

    measure = column.measure
    read = [measure.read(run) for run in runs]
    finite = [value for value in read if value is not None and math.isfinite(value)]
    if not finite:
        return None
    room = 0.06 * (max(finite) - min(finite)) or 0.05 * abs(max(finite)) or 1.0
    low, high = min(finite) - room, max(finite) + room
    start, end = (low, high) if measure.better == "higher" else (high, low)
    ticks = [float(t) for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]
    direction = "" if measure.better == "higher" else ", low at the top"
    return ParallelAxis(
        title=f"{measure.title} ({measure.unit}{direction})",
        heights=[
            (value - start) / (end - start) if value is not None and math.isfinite(value) else None
            for value in read
        ],
        ticks=[((tick - start) / (end - start), f"{tick:,.6g}") for tick in ticks],
    )
