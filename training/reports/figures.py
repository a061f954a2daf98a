"""How reports draw: an SVG in a page, a PNG beside it, and every seed of a grid on a line.

Invariant: a series is told from others by colour and by the shape of its marks or its place, never
by colour alone, and nothing is cut off: the layout makes room for every label.

Source of the colours: Okabe and Ito's palette for all kinds of colour vision, without its yellow,
darkened until each stands out from white by a contrast of 3 to 1 or more.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Generic, TypeVar

from training.statistics import Estimate

COLOURS = ("#0072b2", "#c44e00", "#00785a", "#a8407f", "#8a5f00", "#3f4852", "#2a86c8")
MARKERS, GLYPHS = ("o", "s", "^", "D"), ("●", "■", "▲", "◆")
"""With the colours they repeat after 28 series."""
DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
SOFT, GREY = "#444444", "#777777"
_GUESS: dict[str, Any] = {"color": SOFT, "lw": 1.0, "ls": (0, (2, 2))}
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 9.0),
    "svg.fonttype": "none",
    "text.parse_math": False,
}
_ROW_LENGTH, _TITLE_LENGTH = 24, 27
"""Characters of a line that fit beside the panels, and above one of three with a key."""
_BARE_SVG = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def colour_of(number: int) -> str:
    """Colour of a series."""
    return COLOURS[number % len(COLOURS)]


def wrapped(label: str, length: int) -> str:
    """A label in at most three lines."""
    return "\n".join(textwrap.wrap(label, length, max_lines=3, placeholder="…"))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a column holds: a heading and a unit, and how its numbers are shown.

    `shown_factor` leads from the numbers of the cells to the shown ones, `limits` are shown values
    that can be (an interval of few seeds may run out of them), and `published` holds shown values
    by model, where any may stand beside ours.
    """

    title: str
    unit: str = "%"
    digits: int = 1
    shown_factor: float = 1.0
    limits: tuple[float, float] = (-math.inf, math.inf)
    published: Mapping[str, float] = field(default_factory=dict)

    def text(self, value: float, *, signed: bool = False) -> str:
        """A number of a cell without its unit."""
        rounded = round(self.shown_factor * value, self.digits) + 0.0  # no minus before a zero
        return f"{rounded:{'+' if signed else ''},.{self.digits}f}"


M_co = TypeVar("M_co", bound=Measure, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A row under a measure: finite values by seed, or by whatever makes a pair, and their mean.

    Runs that are NaN or infinite are not in it; those that diverged, though their value is finite,
    are. Missing ones have no value. The best is separably better than every other row.
    """

    by_seed: Mapping[Any, float]
    estimate: Estimate | None
    num_not_finite: int = 0
    num_diverged: int = 0
    num_missing: int = 0
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class Column(Generic[M_co]):
    """A measure over all rows, of which those without any value may be left out.

    `level` is what guessing scores, as drawn across the figure (None: unknown, or not the same for
    all); `note` stands below the figure: unit, split, number of seeds.
    """

    measure: M_co
    cells: Mapping[str, Result]
    level: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A drawing on one axis of matplotlib, which `draw` gets empty and leaves without a title.

    The size in inches is about as wide as a phone, where 9 points can be read; a wide one keeps its
    width and is scrolled there.
    """

    title: str
    note: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = (4.4, 3.0)
    is_wide: bool = False

    @property
    def svg(self) -> str:
        """The drawing as an `svg` element that stands for itself in a page."""
        title, stream = f"{self.title}, {self.note}", io.StringIO()
        with _style(title):
            figure = _new_figure(self.size)
            self.draw(figure.subplots())
            figure.savefig(stream, format="svg", metadata=_BARE_SVG, transparent=True)
        text = stream.getvalue()
        text = re.sub(r'<g id="\w+?_\d+">', "<g>", text[text.index("<svg") :])
        return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _style(salt: str) -> Any:
    """The context that drawings are made in; `salt` tells names in an SVG from other drawings'."""
    from matplotlib import rc_context

    return rc_context({**_STYLE, "svg.hashsalt": salt})


def _new_figure(size: tuple[float, float], *, dpi: int = 110) -> Any:
    """A figure whose layout makes room for every label; size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=dpi, layout="constrained")


def tidy(axis: Any, *, grid: str) -> None:
    """Leave the lines of an axis that are read: its values along `grid`, x or y."""
    axis.grid(axis=grid, alpha=0.25, lw=0.6)
    axis.spines[["top", "right", *(["left"] if grid == "x" else [])]].set_visible(False)
    if axis.get_xscale() == "linear":
        axis.locator_params(axis="x", nbins=5)


def dot_panels(
    columns: Sequence[Column[Measure]], rows: Sequence[str], *, least_n: int = 2
) -> list[Panel]:
    """A panel of every seed for every column, with all rows; intervals from `least_n` seeds on."""
    models = published_models(columns)
    lines = max((wrapped(label, _ROW_LENGTH).count("\n") + 1 for label in rows), default=1)
    row_height = max(0.42, 0.21 * lines)
    return [
        Panel(
            title=column.measure.title,
            note=column.note,
            draw=partial(_draw_dots, column=column, rows=rows, models=models, least_n=least_n),
            size=(4.4, 0.75 + row_height * (len(rows) + bool(models))),
        )
        for column in columns
    ]


def published_models(columns: Sequence[Column[Measure]]) -> list[str]:
    """Models with a published value in any column."""
    return list(dict.fromkeys(m for column in columns for m in column.measure.published))


def _draw_dots(
    axis: Any, *, column: Column[Measure], rows: Sequence[str], models: Sequence[str], least_n: int
) -> None:
    measure, factor = column.measure, column.measure.shown_factor
    values = [factor * value for cell in column.cells.values() for value in cell.by_seed.values()]
    if column.level is not None and _is_near(factor * column.level, values):
        axis.axvline(factor * column.level, zorder=1, **_GUESS)
    for place, label in enumerate(rows):
        cell = column.cells.get(label)
        if cell and cell.estimate:
            _draw_row(axis, place, cell, measure, least_n=least_n)
        else:
            faint: dict[str, Any] = {"fontsize": 8, "color": GREY, "va": "center", **readable()}
            axis.text(0.02, place, "no value", transform=axis.get_yaxis_transform(), **faint)
    for model, value in measure.published.items():
        axis.plot([value], [-1], **_published_style(models.index(model)))
    places = {-1: "published"} if models else {}
    places |= {place: wrapped(label, _ROW_LENGTH) for place, label in enumerate(rows)}
    axis.set_yticks(list(places), list(places.values()))
    axis.set_ylim(len(rows) - 0.5, min(places, default=0) - 0.6)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.1)
    axis.set_xlim(*_range(measure, *axis.get_xlim()))
    axis.set_xlabel(wrapped(column.note, 34))
    tidy(axis, grid="x")


def _range(measure: Measure, left: float, right: float) -> tuple[float, float]:
    """Ends of the axis: no score that cannot be, lengths from zero."""
    low, high = measure.limits
    if math.isinf(high) and low == 0:  # lengths, which are compared
        return 0.0, 1.08 * right
    room = 0.04 * (high - low) if math.isfinite(high - low) else 0.0
    return max(left, low - room), min(right, high + room)


def _is_near(level: float, values: Sequence[float]) -> bool:
    """Whether a level leaves at least a third of the axis to the values."""
    low, high = min(values, default=level), max(values, default=level)
    return max(high, level) - min(low, level) <= 3 * (high - low) or len(set(values)) < 2


def _published_style(number: int) -> dict[str, Any]:
    """How a published value is drawn: hollow and black."""
    markers = "Ds^vphX*<>dP8H"
    marker = markers[number % len(markers)]
    return {"marker": marker, "mfc": "none", "mec": "#000000", "ms": 5, "ls": "", "zorder": 4}


def readable() -> dict[str, Any]:
    """How a text stands over lines: white around it."""
    from matplotlib.patheffects import withStroke

    return {"zorder": 6, "path_effects": [withStroke(linewidth=2, foreground="white")]}


def _draw_row(axis: Any, place: int, cell: Result, measure: Measure, *, least_n: int) -> None:
    summary, factor, colour = cell.estimate, measure.shown_factor, colour_of(place)
    assert summary is not None
    mean, num_lost = factor * summary.mean, cell.num_not_finite + cell.num_diverged
    if summary.half_width is not None and summary.n >= least_n:
        width = factor * summary.half_width
        axis.errorbar(mean, place, xerr=width, color=colour, lw=1.4, capsize=2.5, zorder=2)
    if summary.n > 1:
        values = [factor * value for value in cell.by_seed.values()]
        axis.plot(values, [place] * len(values), "|", color=GREY, ms=9, mew=1, zorder=3)
    mark = {"marker": MARKERS[place % len(MARKERS)], "mfc": "white" if num_lost else colour}
    axis.plot([mean], [place], mec=colour, mew=1.1, ms=5, zorder=5, **mark)
    axis.annotate(
        measure.text(summary.mean) + (f" ({num_lost} diverged)" if num_lost else ""),
        (mean, place),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
        annotation_clip=True,
        **readable(),
    )


def save_dots(panels: Sequence[Panel], columns: Sequence[Column[Measure]], path: Path) -> None:
    """Panels of seeds, with the columns they show, as one PNG as wide as a printed page."""
    from matplotlib.lines import Line2D

    dot: dict[str, Any] = {"marker": "o", "ms": 5, "color": SOFT}
    handles = [
        Line2D([], [], label="mean, 95 % interval", lw=1.4, **dot),
        Line2D([], [], label="one seed", marker="|", ls="", color=GREY, ms=9),
        Line2D([], [], label="mean with diverged seeds", ls="", mfc="white", **dot),
    ]
    if any(column.level is not None for column in columns):
        handles.append(Line2D([], [], label="best constant answer or guess", **_GUESS))
    for number, model in enumerate(published_models(columns)):
        handles.append(Line2D([], [], label=f"{model}, published", **_published_style(number)))
    save_png(panels, path, key=handles)


def save_png(panels: Sequence[Panel], path: Path, *, key: Sequence[Any] = ()) -> None:
    """Panels in rows of three as a PNG, with a key below.

    Args:
        panels: One or more.
        path: PNG to write.
        key: Lines and marks that are explained, of panels with the same rows, which are named once,
            at the left; empty: the panels stand alone, and what they show is explained, each once.
    """
    per_row, height = min(3, len(panels)), panels[0].size[1]
    num_rows = -(-len(panels) // per_row)
    size = (max(4.0, 1.2 + 2.4 * per_row), 0.5 + num_rows * (0.4 + 0.8 * height))
    if not key:
        size = (panels[0].size[0] * per_row, 0.5 + num_rows * height)
    with _style(path.name):
        figure = _new_figure(size, dpi=160)
        axes = figure.subplots(num_rows, per_row, squeeze=False, sharey=bool(key)).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            panel.draw(axis)
            title = wrapped(panel.title, _TITLE_LENGTH) if key else panel.title
            axis.set_title(title, fontsize=9, fontweight="bold", loc="left")
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        look = {"fontsize": 7.5, "frameon": False, "columnspacing": 1.0, "handlelength": 1.6}
        named: dict[str, Any] = {}
        for axis in axes:
            handles, labels = axis.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        handles = key or list(named.values())
        for columns in range(per_row + 1, 0, -1):  # as many as the width has room for
            place = {"loc": "outside lower center", "ncols": columns}
            legend = figure.legend(handles=handles, **place, **look)
            figure.draw_without_rendering()
            if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
                break
            legend.remove()
        figure.savefig(path)
