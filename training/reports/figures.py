"""The drawings of reports: curves over steps, every seed on a line, settings against results.

Invariant: a series is told from others by colour and by the shape of its marks or its place, never
by colour alone, and nothing is cut off: the layout makes room for every label.

Source of the colours: Okabe and Ito's palette for all kinds of colour vision, without its yellow,
darkened until each stands out from white by a contrast of 3 to 1 or more.
"""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from training.statistics import Estimate

COLOURS = ("#0072b2", "#c44e00", "#00785a", "#a8407f", "#8a5f00", "#3f4852", "#2a86c8")
MARKERS, GLYPHS = ("o", "s", "^", "D"), ("●", "■", "▲", "◆")
"""With the colours they repeat after 28 series."""
DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
SOFT, GREY = "#444444", "#777777"
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 9.0),
    "svg.fonttype": "none",
    "text.parse_math": False,
}
_BARE_SVG = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_PANELS_PER_ROW = 3
_LABEL_LENGTH, _LABEL_LINES = 24, 3


def colour_of(number: int) -> str:
    """Colour of a series."""
    return COLOURS[number % len(COLOURS)]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A drawing on one axis."""

    title: str = ""
    """What is shown; empty: the caption says it."""
    has_legend: bool = False
    """Whether it names its series."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches; about as wide as a phone, where 9 points can be read."""
        return 4.4, 3.0

    def draw(self, axis: Any) -> None:
        """Draw it.

        Args:
            axis: An axis of matplotlib, empty.
        """
        raise NotImplementedError


def svg_text(panel: Panel, *, title: str) -> str:
    """A drawing as an `svg` element that stands for itself in a page.

    Args:
        panel: What is drawn.
        title: What is shown, for readers who hear the page; tells its names from other drawings'.
    """
    stream = io.StringIO()
    with _style(title):
        figure = _figure(panel.size)
        panel.draw(figure.subplots())
        figure.savefig(stream, format="svg", metadata=_BARE_SVG, transparent=True)
    text = stream.getvalue()
    text = re.sub(r'<g id="\w+?_\d+">', "<g>", text[text.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def save_png(panels: Sequence[Panel], path: Path) -> Path:
    """Drawings beside each other as a PNG; returns its path."""
    widths, heights = zip(*(panel.size for panel in panels), strict=True)
    with _style(path.name):
        figure = _figure((sum(widths), max(heights)))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            panel.draw(axis)
        figure.savefig(path)
    return path


def _style(salt: str) -> Any:
    from matplotlib import rc_context

    return rc_context({**_STYLE, "svg.hashsalt": salt})


def _figure(size: tuple[float, float], *, dpi: int = 110) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=dpi, layout="constrained")


def tidy(axis: Any, *, grid: str) -> None:
    """Leave the lines of an axis that are read: its values along `grid`, x or y."""
    axis.grid(axis=grid, alpha=0.25, lw=0.6)
    axis.spines[["top", "right", *(["left"] if grid == "x" else [])]].set_visible(False)


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """The seeds of a configuration or an encoder under one measure."""

    values: Sequence[float]
    """Value of every seed."""
    summary: Estimate
    """Of those."""
    text: str
    """The mean in words."""
    is_flagged: bool = False
    """Whether some seeds diverged: the mean is drawn hollow."""


@dataclass(frozen=True, kw_only=True)
class DotPanel(Panel):
    """Rows of seeds under one measure, with mean and interval."""

    note: str
    """Unit, split, number of seeds."""
    rows: Mapping[str, DotRow | None]
    """Label -> its seeds; None: it has no value here."""
    level: float | None = None
    """What guessing scores: a line across; drawn where it does not squeeze the values."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Model -> published value."""
    models: Sequence[str] = ()
    """All models with a published value in this or another panel, each with a mark of its own."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """Values that can be; an interval of few seeds may run out of them."""
    from_zero: bool = False
    """Whether the axis begins at 0, as lengths that are compared must."""
    least_n: int = 2
    """Seeds from which on an interval is drawn."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        return 4.4, 0.75 + 0.42 * (len(self.rows) + bool(self.models))

    def draw(self, axis: Any) -> None:
        """Draw it."""
        values = [v for row in self.rows.values() if row for v in row.values]
        if self.level is not None and _is_near(self.level, values):
            axis.axvline(self.level, color=SOFT, lw=1.0, ls=(0, (2, 2)), zorder=1)
        for place, row in enumerate(self.rows.values()):
            if row:
                _draw_row(axis, place, row, least_n=self.least_n)
            else:
                style = {"fontsize": 8, "color": GREY, "va": "center"}
                axis.text(0.02, place, "no value", transform=axis.get_yaxis_transform(), **style)
        for model, value in self.published.items():
            axis.plot([value], [-1], **published_style(self.models.index(model)))
        places = {-1: "published"} if self.models else {}
        places |= {place: _wrapped(label) for place, label in enumerate(self.rows)}
        axis.set_yticks(list(places), list(places.values()))
        axis.set_ylim(len(self.rows) - 0.5, min(places, default=0) - 0.6)
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.1)
        axis.set_xlim(*self._range(*axis.get_xlim()))
        axis.locator_params(axis="x", nbins=5)
        axis.set_title(self.title, fontsize=9, fontweight="bold", loc="left")
        axis.set_xlabel(self.note)
        tidy(axis, grid="x")

    def _range(self, left: float, right: float) -> tuple[float, float]:
        """Ends of the axis: no score that cannot be, lengths from zero."""
        if self.from_zero:
            return 0.0, 1.08 * right
        low, high = self.limits
        room = 0.04 * (high - low) if math.isfinite(high - low) else 0.0
        return max(left, low - room), min(right, high + room)


def _is_near(level: float, values: Sequence[float]) -> bool:
    """Whether a level leaves at least a third of the axis to the values."""
    low, high = min(values, default=level), max(values, default=level)
    return max(high, level) - min(low, level) <= 3 * (high - low) or len(set(values)) < 2


def _wrapped(label: str) -> str:
    lines = textwrap.wrap(label, _LABEL_LENGTH, max_lines=_LABEL_LINES, placeholder="…")
    return "\n".join(lines)


def published_style(number: int) -> dict[str, Any]:
    """How a published value is drawn: hollow and black."""
    marker = ("D", "s", "^", "v", "p")[number % 5]
    return {"marker": marker, "mfc": "none", "mec": "#000000", "ms": 5, "ls": "", "zorder": 4}


def _draw_row(axis: Any, place: int, row: DotRow, *, least_n: int) -> None:
    from matplotlib.patheffects import withStroke

    colour, summary = colour_of(place), row.summary
    if summary.half_width is not None and summary.n >= least_n:
        axis.errorbar(
            summary.mean,
            place,
            xerr=summary.half_width,
            color=colour,
            lw=1.4,
            capsize=2.5,
            zorder=2,
        )
    if summary.n > 1:
        axis.plot(row.values, [place] * len(row.values), "|", color=GREY, ms=9, mew=1, zorder=3)
    face = "white" if row.is_flagged else colour
    axis.plot(
        [summary.mean],
        [place],
        MARKERS[place % len(MARKERS)],
        mfc=face,
        mec=colour,
        mew=1.1,
        ms=5,
        zorder=5,
    )
    axis.annotate(
        row.text,
        (summary.mean, place),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
        zorder=6,
        annotation_clip=True,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def save_dots(panels: Sequence[DotPanel], path: Path, *, models: Sequence[str] = ()) -> Path:
    """Panels of seeds as one PNG, as wide as a printed page; returns its path.

    Args:
        panels: All with the same rows.
        path: PNG to write.
        models: Those with a published value in any panel.
    """
    per_row = min(_PANELS_PER_ROW, len(panels))
    num_rows = -(-len(panels) // per_row)
    height = 0.5 + num_rows * (0.4 + 0.8 * panels[0].size[1])
    with _style(path.name):
        figure = _figure((1.2 + 2.4 * per_row, height), dpi=200)
        axes = figure.subplots(num_rows, per_row, squeeze=False, sharey=True).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            panel.draw(axis)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        has_level = any(panel.level is not None for panel in panels)
        handles = _handles(models, has_level=has_level)
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=per_row + 1,
            fontsize=7.5,
            frameon=False,
            columnspacing=1.0,
            handlelength=1.6,
        )
        figure.savefig(path)
    return path


def _handles(models: Sequence[str], *, has_level: bool) -> list[Any]:
    """What the legend of the panels explains."""
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"marker": "o", "ms": 5, "color": SOFT}
    handles = [
        Line2D([], [], label="mean, 95 % interval", lw=1.4, **dot),
        Line2D([], [], label="one seed", marker="|", ls="", color=GREY, ms=9),
        Line2D([], [], label="mean with diverged seeds", ls="", mfc="white", **dot),
    ]
    if has_level:
        guess = "best constant answer or guess"
        handles.append(Line2D([], [], label=guess, lw=1, ls=(0, (2, 2)), color=SOFT))
    for number, model in enumerate(models):
        handles.append(Line2D([], [], label=f"{model}, published", **published_style(number)))
    return handles
