"""The results as a figure: a panel per task, a line per encoder, every seed visible."""

from pathlib import Path
from typing import Any

from finetune.reporting.choice import Column, Entry
from finetune.reporting.model import Report
from finetune.reporting.text import metric_text, percent

COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#34495e", "#16a085", "#7f6000")
SEED_COLOUR, CONSTANT_COLOUR = "#9a9a9a", "#555555"
PUBLISHED_COLOURS = ("#000000", "#b08d00", "#5b5b5b")
_PANELS_PER_ROW = 3


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
    per_row = min(_PANELS_PER_ROW, len(columns))
    num_rows = -(-len(columns) // per_row)
    height = num_rows * (1.05 + 0.3 * len(encoders)) + 0.6
    figure = Figure(figsize=(1.2 + 3.6 * per_row, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, per_row, squeeze=False, sharey=True).ravel()
    models = list(dict.fromkeys(model for column in columns for model in column.published))
    models = models if report.with_published else []
    for axis, column in zip(axes, columns, strict=False):
        entries = {e.encoder: e for e in report.entries if e.column.key == column.key}
        _draw_panel(axis, column, entries, encoders, models=models)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    figure.suptitle(
        "Scores in per cent; every panel has its own scale", fontsize=9, color="#555555"
    )
    _draw_legend(figure, report, models)
    figure.savefig(path, dpi=130)
    return path


def _draw_panel(
    axis: Any,
    column: Column,
    entries: dict[str, Entry],
    encoders: list[str],
    *,
    models: list[str],
) -> None:
    for place, name in enumerate(encoders):
        if name in entries:
            _draw_encoder(axis, place, entries[name], COLOURS[place % len(COLOURS)])
    levels = [entry.constant for entry in entries.values() if entry.constant is not None]
    if levels:
        axis.axvline(100 * max(levels), color=CONSTANT_COLOUR, lw=1.2, ls=(0, (2, 2)), zorder=1)
    if models:
        for model, value in column.published.items():
            colour = PUBLISHED_COLOURS[models.index(model) % len(PUBLISHED_COLOURS)]
            style = {"marker": "D", "mfc": "none", "mec": colour, "ms": 6, "ls": ""}
            axis.plot([value], [-0.75], clip_on=False, zorder=4, **style)
    split = column.split.replace("_mismatched", "")
    axis.set_title(f"{column.title}: {metric_text(column)}, {split}", fontsize=8.5, loc="left")
    axis.set_yticks(range(len(encoders)), encoders, fontsize=8)
    axis.set_ylim(len(encoders) - 0.45, -1.05)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.margins(x=0.08)


def _draw_encoder(axis: Any, place: int, entry: Entry, colour: str) -> None:
    scores = [100 * score for score in entry.scores]
    if len(scores) > 1:
        axis.plot(scores, [place] * len(scores), "|", color=SEED_COLOUR, ms=11, mew=1.3, zorder=2)
    summary = entry.summary
    mean = 100 * summary.mean
    if summary.half_width is not None:
        width = 100 * summary.half_width
        axis.errorbar(mean, place, xerr=width, color=colour, lw=1.8, capsize=3, zorder=3)
    face = "white" if entry.num_diverged else colour
    axis.plot([mean], [place], "o", mfc=face, mec=colour, mew=1.6, ms=6, zorder=5)
    text = percent(summary.mean) + (
        f" ({entry.num_diverged} diverged)" if entry.num_diverged else ""
    )
    axis.annotate(
        text,
        (mean, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=7,
        color=colour,
    )


def _draw_legend(figure: Any, report: Report, models: list[str]) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, **style)

    several = any(entry.summary.n > 1 for entry in report.entries)
    handles = [mark("mean", marker="o", ls="", color=COLOURS[0])]
    if several:
        handles[0] = mark("mean, 95 % interval", marker="o", ls="-", color=COLOURS[0])
        handles.append(mark("one seed", marker="|", ls="", color=SEED_COLOUR, ms=10))
    if any(entry.num_diverged for entry in report.entries):
        handles.append(mark("with diverged seeds", marker="o", ls="", mfc="white", mec=COLOURS[0]))
    handles.append(mark("best constant answer", ls=(0, (2, 2)), color=CONSTANT_COLOUR))
    for number, model in enumerate(models):
        colour = PUBLISHED_COLOURS[number % len(PUBLISHED_COLOURS)]
        style = {"marker": "D", "ls": "", "mfc": "none", "mec": colour}
        handles.append(mark(f"{model}, published", **style))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(6, len(handles)),
        fontsize=8,
        frameon=False,
    )
