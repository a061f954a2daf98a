"""Every seed as a mark on a line of its configuration, with mean and interval, as SVG."""

from collections.abc import Sequence

from training.reports.measures import Column
from training.reports.svg import (
    Scale,
    colour_class,
    escape,
    mark,
    spanning,
    tag,
    text,
    tick_texts,
    ticks,
)

WIDTH, LEFT, RIGHT, ROW = 420, 14, 400, 40


def draw_dots(column: Column, labels: Sequence[str], *, from_zero: bool = False) -> str:
    """The figure as an `svg` element; empty text: there is no value.

    Args:
        column: The measure, with a cell for every label.
        labels: Of the configurations.
        from_zero: Whether the axis begins at 0, as lengths that are compared must.
    """
    measure = column.measure
    values = [value for cell in column.cells for value in cell.by_seed.values()]
    if not values:
        return ""
    ends = [
        cell.estimate.mean + sign * cell.estimate.half_width
        for cell in column.cells
        if cell.estimate and cell.estimate.half_width is not None and cell.estimate.n > 2
        for sign in (-1, 1)
    ]
    levels = [] if from_zero else _near(column.levels, [*values, *ends])
    x = spanning([*values, *ends, *([0.0] if from_zero else levels)], LEFT, RIGHT)
    bottom = ROW * len(labels) + 6
    parts = [_axis(x, bottom, f"{measure.title}, {measure.unit}")]
    for level in levels:
        at = x(level)
        title = f"{measure.baseline_title} {measure.text(level)} {measure.unit}"
        line = tag("line", tag("title", escape(title)), x1=at, x2=at, y1=4, y2=bottom)
        parts.append(tag("g", line, class_="level"))
    for number, label in enumerate(labels):
        parts.append(_row(column, number, label, x))
    height = bottom + 42
    title = tag("title", escape(f"{measure.title} of every seed, {measure.unit}"))
    return tag("svg", title, *parts, viewBox=f"0 0 {WIDTH} {height}", role="img")


def _near(levels: Sequence[float], values: Sequence[float]) -> list[float]:
    """Levels that do not squeeze the values into less than half of the axis."""
    low, high = min(values), max(values)
    return [x for x in levels if max(high, x) - min(low, x) <= 2 * (high - low)]


def _axis(x: Scale, bottom: float, title: str) -> str:
    parts = [tag("line", x1=LEFT, x2=RIGHT, y1=bottom, y2=bottom, class_="axis")]
    values = ticks(x, 4)
    for value, label in zip(values, tick_texts(values), strict=True):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=0, y2=bottom, class_="grid"))
        parts.append(text(x(value), bottom + 16, label, text_anchor="middle"))
    parts.append(text((LEFT + RIGHT) / 2, bottom + 36, title, text_anchor="middle"))
    return tag("g", *parts, class_="axes")


def _row(column: Column, number: int, label: str, x: Scale) -> str:
    cell, measure = column.cells[number], column.measure
    y = ROW * number + 30
    found = cell.estimate
    name = label if len(label) <= 56 else label[:55] + "…"
    if found is None:
        return text(LEFT, y - 14, f"{name}: no value", class_="rowlabel")
    parts = [text(LEFT, y - 14, name, class_="rowlabel")]
    if found.half_width is not None and found.n > 2:
        low, high = x(found.mean - found.half_width), x(found.mean + found.half_width)
        parts.append(tag("line", x1=low, x2=high, y1=y, y2=y, class_="interval"))
    at = x(found.mean)
    if found.n > 1:
        parts.append(tag("line", x1=at, x2=at, y1=y - 8, y2=y + 8, class_="mean"))
    for seed, value in cell.by_seed.items():
        tip = f"{label}, seed {seed}: {measure.text(value)} {measure.unit}"
        parts.append(mark(number, x(value), y, size=4, tip=tip))
    return tag("g", *parts, class_=colour_class(number))
