"""A curve per configuration over optimiser steps, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.reports.curves import Curve
from training.reports.svg import (
    DASHES,
    Scale,
    colour_class,
    escape,
    mark,
    path,
    spanning,
    tag,
    text,
    tick_texts,
    ticks,
)

WIDTH, HEIGHT = 420, 290
LEFT, RIGHT, TOP, BOTTOM = 52, 408, 14, 244
_MAX_MARKS = 24
"""More marks than that on a line hide it; every k-th is drawn then."""
_EARLY = 0.05
"""Share of the steps at the beginning whose training values do not set the range of the axis."""


@dataclass(frozen=True, kw_only=True)
class LineFigure:
    """What to draw."""

    number: int
    """Of the figure on its page."""
    title: str
    """What is shown, for readers who hear the page."""
    unit: str
    """Unit of the values, beside the axis."""
    digits: int
    """Decimals in tips."""
    main: Sequence[Curve]
    """Validation: thick, with marks and bands."""
    faint: Sequence[Curve] = ()
    """Training: thin, without marks."""
    levels: Sequence[float] = ()
    """What guessing scores: lines across."""
    level_title: str = ""
    """Who guesses."""


def draw_lines(figure: LineFigure) -> str:
    """The figure as an `svg` element; empty text: there is no value to draw."""
    values, last = _extent(figure)
    if not values:
        return ""
    x = Scale(low=0.0, high=last or 1.0, start=LEFT, end=RIGHT)
    y = spanning([*values, *figure.levels], BOTTOM, TOP)
    clip = f"clip{figure.number}"
    inside = [_curve_faint(curve, x, y) for curve in figure.faint]
    inside += [_curve_main(curve, x, y, figure) for curve in figure.main]
    frame = tag("rect", x=LEFT, y=TOP - 6, width=RIGHT - LEFT + 8, height=BOTTOM - TOP + 6)
    return tag(
        "svg",
        tag("title", escape(figure.title)),
        tag("defs", tag("clipPath", frame, id=clip)),
        _axes(x, y, figure.unit),
        "".join(_level(level, y, figure) for level in figure.levels),
        tag("g", *inside, clip_path=f"url(#{clip})"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def _extent(figure: LineFigure) -> tuple[list[float], float]:
    """Values that set the range of the y axis, and the last step."""
    curves = [*figure.main, *figure.faint]
    bands = [curve.band for curve in curves if curve.band]
    steps = [step for band in bands for step in band.steps]
    steps += [step for curve in curves for stray in curve.strays for step, _ in stray.points]
    last = max(steps, default=0.0)
    values = [value for curve in figure.main for value in curve.values]
    for curve in figure.faint:
        if curve.band:
            pairs = zip(curve.band.steps, curve.band.mean, strict=True)
            values += [value for step, value in pairs if step > _EARLY * last]
    return values, last


def _axes(x: Scale, y: Scale, unit: str) -> str:
    parts = []
    rows = ticks(y)
    for value, label in zip(rows, tick_texts(rows), strict=True):
        parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(LEFT - 6, y(value) + 4, label, text_anchor="end"))
    columns = ticks(x, 4)
    for value, label in zip(columns, tick_texts(columns), strict=True):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=BOTTOM, y2=BOTTOM + 4, class_="axis"))
        parts.append(text(x(value), BOTTOM + 18, label, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=BOTTOM, y2=BOTTOM, class_="axis"))
    parts.append(text((LEFT + RIGHT) / 2, HEIGHT - 6, "optimiser steps", text_anchor="middle"))
    middle = (TOP + BOTTOM) / 2
    turned = f"rotate(-90 11 {middle})"
    parts.append(text(11, middle, unit, text_anchor="middle", transform=turned))
    return tag("g", *parts, class_="axes")


def _level(level: float, y: Scale, figure: LineFigure) -> str:
    at = y(level)
    label = f"{figure.level_title} {level:.{figure.digits}f}"
    return tag(
        "g",
        tag("line", x1=LEFT, x2=RIGHT, y1=at, y2=at),
        text(RIGHT, at - 4, label, text_anchor="end"),
        class_="level",
    )


def _curve_main(curve: Curve, x: Scale, y: Scale, figure: LineFigure) -> str:
    parts = []
    dash = DASHES[curve.number % len(DASHES)]
    band = curve.band
    if band:
        if band.n > 1:
            upper = [(x(s), y(v)) for s, v in zip(band.steps, band.high, strict=True)]
            lower = [(x(s), y(v)) for s, v in zip(band.steps, band.low, strict=True)]
            corners = " ".join(f"{px:.1f},{py:.1f}" for px, py in [*upper, *reversed(lower)])
            parts.append(tag("polygon", points=corners, class_="band"))
        points = [(x(s), y(v)) for s, v in zip(band.steps, band.mean, strict=True)]
        parts.append(path(points, class_="line", stroke_dasharray=dash))
        every = -(-len(points) // _MAX_MARKS)
        for number in range((len(points) - 1) % every, len(points), every):
            tip = _tip(curve, number, figure)
            parts.append(mark(curve.number, *points[number], tip=tip))
    for stray in curve.strays:
        points = [(x(step), y(value)) for step, value in stray.points]
        if points:
            tip = f"{curve.label}: {stray.name}, {stray.reason}"
            parts.append(path(points, class_="stray"))
            parts.append(_cross(*points[-1], tip))
    return tag("g", *parts, class_=colour_class(curve.number))


def _tip(curve: Curve, number: int, figure: LineFigure) -> str:
    band = curve.band
    assert band is not None
    digits, unit = figure.digits, figure.unit
    spread = ""
    if band.n > 1:
        spread = f" ({band.low[number]:.{digits}f} to {band.high[number]:.{digits}f}, n {band.n})"
    value = f"{band.mean[number]:.{digits}f} {unit}"
    return f"{curve.label}, step {band.steps[number]:,.0f}: {value}{spread}"


def _cross(x: float, y: float, tip: str) -> str:
    arms = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
    return tag("path", tag("title", escape(tip)), d=arms, class_="cross", data_tip=tip)


def _curve_faint(curve: Curve, x: Scale, y: Scale) -> str:
    parts = []
    if curve.band:
        pairs = zip(curve.band.steps, curve.band.mean, strict=True)
        parts.append(path([(x(step), y(value)) for step, value in pairs], class_="faint"))
    for stray in curve.strays:
        if stray.points:
            parts.append(path([(x(s), y(v)) for s, v in stray.points], class_="faint"))
    return tag("g", *parts, class_=f"{colour_class(curve.number)} training")
