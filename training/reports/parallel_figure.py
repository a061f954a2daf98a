"""Configuration against result: one line per run through its settings and its scores, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.reports.configurations import Study
from training.reports.measures import Column
from training.reports.runs import Run
from training.reports.svg import (
    DASHES,
    Scale,
    colour_class,
    escape,
    path,
    spanning,
    tag,
    text,
    tick_texts,
    ticks,
)

GAP, TOP, BOTTOM, HEIGHT, SIDE = 150, 44, 250, 300, 76
_ABSENT = 276
"""Height of runs that do not have a setting or a score."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One vertical line."""

    title: str
    """Short name."""
    unit: str
    """Unit, or the full key of a setting."""
    heights: Sequence[float | None]
    """Pixel per run; None: it has no value."""
    labels: Sequence[tuple[float, str]]
    """Pixel and text of ticks."""


def draw_parallel(study: Study, columns: Sequence[Column]) -> str:
    """The figure as an `svg` element; empty text: fewer than two axes or runs.

    Args:
        study: All configurations.
        columns: The measures to end in.
    """
    runs = study.runs
    axes = [_setting_axis(study, key) for key in study.keys]
    axes += [axis for column in columns if (axis := _measure_axis(column, runs))]
    if len(axes) < 2 or len(runs) < 2:
        return ""
    numbers = [n for n, conf in enumerate(study.configurations) for _ in conf.runs]
    xs = [SIDE + GAP * position for position in range(len(axes))]
    parts = []
    for place, (run, number) in enumerate(zip(runs, numbers, strict=True)):
        heights = [axis.heights[place] for axis in axes]
        points = [(x, _ABSENT if y is None else y) for x, y in zip(xs, heights, strict=True)]
        state = "" if run.is_finished else ", not finished"
        label = study.configurations[number].label
        tip = f"{label}, seed {run.seed or 'none'} ({run.name}{state})"
        line = path(points, class_="ray", stroke_dasharray=DASHES[number % len(DASHES)])
        wide = path(points, class_="wide", data_tip=tip)
        hint = tag("g", tag("title", escape(tip)), line, wide)
        parts.append(tag("g", hint, class_=colour_class(number)))
    parts += [_draw_axis(axis, at) for axis, at in zip(axes, xs, strict=True)]
    width = xs[-1] + SIDE
    title = tag("title", "Settings and results of every run")
    return tag(
        "svg",
        title,
        *parts,
        viewBox=f"0 0 {width} {HEIGHT}",
        width=width,
        height=HEIGHT,
        role="img",
    )


def _cut(label: str, length: int) -> str:
    """Escaped text of at most a length."""
    return escape(label if len(label) <= length else label[: length - 1] + "…")


def _draw_axis(axis: Axis, x: float) -> str:
    head = {"x": x, "y": 16, "text_anchor": "middle", "class_": "axistitle"}
    parts = [
        tag("line", x1=x, x2=x, y1=TOP, y2=BOTTOM, class_="axis"),
        tag("text", tag("title", escape(axis.title)), _cut(axis.title, 21), **head),
        text(x, 31, axis.unit, text_anchor="middle"),
    ]
    for y, label in axis.labels:
        place = {"x": x + 5, "y": y + 4, "class_": "halo"}
        parts.append(tag("text", tag("title", escape(label)), _cut(label, 16), **place))
        parts.append(tag("line", x1=x - 3, x2=x + 3, y1=y, y2=y, class_="axis"))
    if any(height is None for height in axis.heights):
        parts.append(text(x + 5, _ABSENT + 4, "none", class_="halo"))
    return tag("g", *parts, class_="axes")


def _setting_axis(study: Study, key: str) -> Axis:
    values = [conf.factors.get(key) for conf in study.configurations for _ in conf.runs]
    present = list(dict.fromkeys(value for value in values if value is not None))
    numbers = _numbers(present)
    if numbers and len(present) > 1:
        spread = list(numbers.values())
        wide = min(spread) > 0 and max(spread) / min(spread) >= 20
        scale = Scale(low=min(spread), high=max(spread), start=BOTTOM, end=TOP, is_log=wide)
        places = {value: scale(number) for value, number in numbers.items()}
    else:
        step = (BOTTOM - TOP) / max(1, len(present))
        places = {value: TOP + step * (n + 0.5) for n, value in enumerate(present)}
    return Axis(
        title=study.names[key],
        unit="",
        heights=[None if value is None else places[value] for value in values],
        labels=[(place, value) for value, place in places.items()],
    )


def _numbers(values: Sequence[str]) -> dict[str, float] | None:
    try:
        found = {value: float(value) for value in values}
    except ValueError:
        return None
    distinct = len(set(found.values())) == len(found)
    return found if distinct and all(map(math.isfinite, found.values())) else None


def _measure_axis(column: Column, runs: Sequence[Run]) -> Axis | None:
    measure = column.measure
    read = [measure.read(run) for run in runs]
    finite = [value for value in read if value is not None and math.isfinite(value)]
    if not finite:
        return None
    ends = (BOTTOM, TOP) if measure.better == "higher" else (TOP, BOTTOM)
    scale = spanning(finite, *ends)
    values = ticks(scale, 4)
    places = [scale(value) for value in values]
    title, _, rest = measure.title.partition(", ")
    notes = [*([rest] if rest else []), measure.unit]
    return Axis(
        title=title,
        unit=", ".join(notes if measure.better == "higher" else [*notes, "low at the top"]),
        heights=[
            scale(value) if value is not None and math.isfinite(value) else None for value in read
        ],
        labels=list(zip(places, tick_texts(values), strict=True)),
    )
