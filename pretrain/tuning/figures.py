"""The frame of the finders' plots."""

from pathlib import Path
from typing import Any


def new_figure(num_axes: int) -> tuple[Any, list[Any]]:
    """Return a figure and its axes, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 4.5 * num_axes, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, num_axes, squeeze=False)[0])


def save_figure(figure: Any, path: Path) -> None:
    """Write it as PNG, with grid and legends."""
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
