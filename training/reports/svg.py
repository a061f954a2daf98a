"""Pieces of SVG figures: elements, ticks, scales, and the marks of a series.

Invariant: text and attributes are escaped here and nowhere else, and a series is told from others
by colour, dashes and the shape of its marks together.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Of the lines; with the colours they repeat after 28 series."""
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def escape(text: object) -> str:
    """Text as it may stand in HTML, also inside quotes."""
    return html.escape(str(text), quote=True)


def tag(name: str, *content: str, **attributes: object) -> str:
    """One element.

    Args:
        name: Its name.
        content: Markup inside it, escaped already.
        attributes: Its attributes: `stroke_width` becomes `stroke-width`, `class_` becomes `class`;
            floats get two decimals.
    """
    parts = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{parts}>{''.join(content)}</{name}>"


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def text(x: float, y: float, content: str, **attributes: object) -> str:
    """A text element with escaped content."""
    return tag("text", escape(content), x=x, y=y, **attributes)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values on a line of pixels."""

    low: float
    """Value at `start`."""
    high: float
    """Value at `end`; above `low`."""
    start: float
    """Pixel of the low value."""
    end: float
    """Pixel of the high value."""
    is_log: bool = False
    """Whether equal ratios are equally far apart."""

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def spanning(values: Sequence[float], start: float, end: float, *, margin: float = 0.06) -> Scale:
    """A scale that shows all values, with a little room around them.

    Args:
        values: One or more finite values.
        start: Pixel of the low end.
        end: Pixel of the high end.
        margin: Share of the range added at both ends.
    """
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    bottom = low - room
    if low >= 0 > bottom:
        bottom = 0.0
    return Scale(low=bottom, high=high + room, start=start, end=end)


def ticks(scale: Scale, count: int = 5) -> list[float]:
    """About `count` round values inside a linear scale."""
    rough = (scale.high - scale.low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in _ROUND_STEPS if size * factor >= rough * 0.999)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Labels with as many decimals as tell the ticks apart."""
    for digits in range(7):
        labels = [f"{value:,.{digits}f}" for value in values]
        exact = all(abs(float(f"{v:.{digits}f}") - v) < 1e-6 * max(1, abs(v)) for v in values)
        if exact and len(set(labels)) == len(labels):
            return labels
    return [f"{value:g}" for value in values]


def path(points: Sequence[tuple[float, float]], **attributes: object) -> str:
    """An open line through points."""
    joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{joined}", fill="none", **attributes)


def mark(number: int, x: float, y: float, *, size: float = 3.4, tip: str = "") -> str:
    """The mark of a series: circle, square, triangle or diamond.

    Args:
        number: Of the series.
        x: Centre.
        y: Centre.
        size: Half of its width.
        tip: What it stands for, shown when pointed at; empty: nothing.
    """
    title = tag("title", escape(tip)) if tip else ""
    extra = {"data_tip": tip, "tabindex": "-1"} if tip else {}
    shape = number % len(DASHES)
    if shape == 0:
        return tag("circle", title, cx=x, cy=y, r=size, class_="mark", **extra)
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
        3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }[shape]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return tag("polygon", title, points=points, class_="mark", **extra)


def colour_class(number: int) -> str:
    """CSS classes of a series: its colour, and what its switch hides."""
    return f"c{number % NUM_COLOURS} s{number}"


def swatch(number: int) -> str:
    """A line with the mark of a series, as it stands in keys."""
    line = path([(1, 7), (33, 7)], class_="line", stroke_dasharray=DASHES[number % len(DASHES)])
    return tag(
        "svg",
        tag("g", line, mark(number, 17, 7), class_=f"c{number % NUM_COLOURS}"),
        class_="swatch",
        viewBox="0 0 34 14",
        width="34",
        height="14",
        aria_hidden="true",
    )
