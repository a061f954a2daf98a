"""The results as a figure: a panel per task, a line per encoder, every seed visible.

Invariant: readable at the width of a printed page, in grey and by colour-blind readers: encoders
and published models are told apart by place or shape, never by colour alone.
"""

from pathlib import Path
from typing import Any

from finetune.reporting.choice import Column, Entry
from finetune.reporting.model import Report
from finetune.reporting.text import metric_text, percent, split_text

# Okabe and Ito's palette without its yellow, which is too light for text.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a8447f", "#946300", "#3a87ad", "#000000")
SEED_COLOUR, CONSTANT_COLOUR, PUBLISHED_COLOUR = "#8a8a8a", "#444444", "#000000"
PUBLISHED_MARKERS = ("D", "s", "^", "v", "p")
PAGE_WIDTH = 7.2
"""Inches; the figure is drawn at the size it is printed at."""
_PANELS_PER_ROW = 3
_PUBLISHED_PLACE = -1.0
_SIGNED = {"matthews", "pearson", "spearman"}


def plot_results(report: Report, path: Path) -> Path:
    """Draw means with intervals, single seeds, the best constant answer and published scores.

    Args:
        report: What to draw.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list({entry.column.key: entry.column for entry in report.entries}.values())
    encoders = sorted({entry.encoder for entry in report.entries})
    models = list(dict.fromkeys(model for column in columns for model in column.published))
    models = models if report.with_published else []
    per_row = min(_PANELS_PER_ROW, len(columns))
    num_rows = -(-len(columns) // per_row)
    height = num_rows * (0.6 + 0.23 * (len(encoders) + bool(models))) + 0.5
    width = PAGE_WIDTH if per_row == _PANELS_PER_ROW else 1.0 + 2.6 * per_row
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, per_row, squeeze=False, sharey=True).ravel()
    for axis, column in zip(axes, columns, strict=False):
        entries = {e.encoder: e for e in report.entries if e.column.key == column.key}
        _draw_panel(axis, column, entries, encoders, models=models)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    _draw_legend(figure, report, models, num_columns=2 * per_row)
    figure.savefig(path, dpi=220)
    return path


def _draw_panel(
    axis: Any,
    column: Column,
    entries: dict[str, Entry],
    encoders: list[str],
    *,
    models: list[str],
) -> None:
    levels = [entry.constant for entry in entries.values() if entry.constant is not None]
    if levels:
        axis.axvline(100 * max(levels), color=CONSTANT_COLOUR, lw=1.0, ls=(0, (2, 2)), zorder=1)
    for place, name in enumerate(encoders):
        if name in entries:
            _draw_encoder(axis, place, entries[name], COLOURS[place % len(COLOURS)])
    for model in models:
        if model in column.published:
            axis.plot(
                [column.published[model]], [_PUBLISHED_PLACE], **_published_style(model, models)
            )
    _draw_title(axis, column, entries)
    places = {_PUBLISHED_PLACE: "published"} if models else {}
    places |= dict(enumerate(encoders))
    axis.set_yticks(list(places), list(places.values()), fontsize=7)
    axis.set_ylim(len(encoders) - 0.55, min(places) - 0.5)
    axis.tick_params(axis="x", labelsize=6.5, pad=2)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=6)
    axis.grid(axis="x", alpha=0.25, lw=0.6)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.margins(x=0.1)
    _keep_to_possible(axis, column)


def _keep_to_possible(axis: Any, column: Column) -> None:
    """Show no score that cannot be: the interval of few, very different seeds may run out."""
    lowest = -100 if _SIGNED.intersection(column.metrics) else 0
    left, right = axis.get_xlim()
    axis.set_xlim(max(left, lowest - 4), min(right, 104))


def _draw_title(axis: Any, column: Column, entries: dict[str, Entry]) -> None:
    numbers = sorted({entry.summary.n for entry in entries.values()})
    n = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
    axis.set_title(column.title, fontsize=7.5, fontweight="bold", loc="left", pad=11)
    below = axis.annotate(
        f"{metric_text(column)}, {split_text(column)}, n = {n}",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=6.5,
        color=CONSTANT_COLOUR,
    )
    below.set_in_layout(False)  # a long one must not push the panels apart


def _published_style(model: str, models: list[str]) -> dict[str, Any]:
    marker = PUBLISHED_MARKERS[models.index(model) % len(PUBLISHED_MARKERS)]
    return {
        "marker": marker,
        "mfc": "none",
        "mec": PUBLISHED_COLOUR,
        "ms": 4.5,
        "ls": "",
        "zorder": 4,
    }


def _draw_encoder(axis: Any, place: int, entry: Entry, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    scores = [100 * score for score in entry.scores]
    summary, mean = entry.summary, 100 * entry.summary.mean
    if summary.half_width is not None:
        width = 100 * summary.half_width
        axis.errorbar(mean, place, xerr=width, color=colour, lw=1.2, capsize=2, zorder=2)
    if len(scores) > 1:
        axis.plot(scores, [place] * len(scores), "|", color=SEED_COLOUR, ms=7, mew=0.9, zorder=3)
    face = "white" if entry.num_diverged else colour
    axis.plot([mean], [place], "o", mfc=face, mec=colour, mew=1.1, ms=4, zorder=5)
    text = percent(summary.mean)
    if entry.num_diverged:
        text += f" ({entry.num_diverged} diverged)"
    axis.annotate(
        text,
        (mean, place),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=6,
        color=colour,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        zorder=6,
    )


def _draw_legend(figure: Any, report: Report, models: list[str], *, num_columns: int) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    several = any(entry.summary.n > 1 for entry in report.entries)
    dot = {"marker": "o", "ms": 4, "color": CONSTANT_COLOUR}
    handles = [
        mark("mean, 95 % interval" if several else "one seed", ls="-" if several else "", **dot)
    ]
    if several:
        handles.append(mark("one seed", marker="|", ls="", color=SEED_COLOUR, ms=7))
    if any(entry.num_diverged for entry in report.entries):
        handles.append(mark("with diverged seeds", ls="", mfc="white", **dot))
    handles.append(mark("best constant answer", lw=1, ls=(0, (2, 2)), color=CONSTANT_COLOUR))
    handles += [mark(f"{model}, published", **_published_style(model, models)) for model in models]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(num_columns, len(handles)),
        fontsize=6.5,
        title="Score in per cent" + ("; each panel has its own scale" if num_columns > 2 else ""),
        title_fontsize=6.5,
        frameon=False,
        columnspacing=0.9,
        handletextpad=0.4,
        handlelength=1.6,
    )
