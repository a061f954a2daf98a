"""Loss and accuracy curves as a PNG, with what chance and a unigram guesser score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from training.metrics_rows import last_value, series

Rows = list[dict[str, float]]
STAGES = ("train", "val")
COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#34495e")
BASELINE_COLOUR = "#777777"


class Panel(NamedTuple):
    """One axis: a metric, and the baseline drawn across it."""

    metric: str
    label: str
    baseline: str
    baseline_label: str


PANELS = (
    Panel("mlm_loss", "masked-LM loss (nats)", "unigram_loss", "unigram"),
    Panel("mlm_accuracy", "masked-LM accuracy", "unigram_accuracy", "unigram"),
    Panel("pair_accuracy", "pair accuracy", "pair_chance", "chance"),
)


def plot_curves(runs: Mapping[str, Rows], path: str | Path) -> Path | None:
    """Draw every run's training windows (thin) and validations (dots), and the baselines.

    Args:
        runs: Metrics rows by the run's label; one colour each.
        path: PNG to write.

    Returns:
        The path, or None while no run has a training or validation row (nothing is written).
    """
    everything = [row for rows in runs.values() for row in rows]
    panels = [p for p in PANELS if any(f"{s}/{p.metric}" in r for r in everything for s in STAGES)]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axis, runs, panel)
    figure.savefig(path, dpi=110)
    return Path(path)


def _draw_panel(axis: Any, runs: Mapping[str, Rows], panel: Panel) -> None:
    level = None
    for number, (label, rows) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(*series(rows, f"train/{panel.metric}"), color=colour, lw=0.8, alpha=0.35)
        steps, values = series(rows, f"val/{panel.metric}")
        axis.plot(steps, values, "o-", color=colour, lw=1.5, ms=3, label=label)
        level = last_value(rows, f"baseline/{panel.baseline}") or level
    if level is not None:
        text = f"{panel.baseline_label} {level:.3f}"
        axis.axhline(level, color=BASELINE_COLOUR, ls="--", lw=1, label=text)
    axis.set_xlabel("optimiser steps (thin: training, dots: validation)", fontsize=8)
    axis.set_title(panel.label, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
