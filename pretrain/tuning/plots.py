"""What the finders saw, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.tuning.searches import LrCurve, SizeTrial
from training.reports.figures import COLOURS, GREY

GIB = 1024**3


def plot_lr(curve: LrCurve, path: Path) -> None:
    """Draw the loss against the learning rate, with the suggestion and the lowest loss."""
    figure = _figure(6.4)
    axis = figure.subplots()
    axis.plot(curve.lrs, curve.losses, color=COLOURS[0], lw=0.8, alpha=0.35, label="each step")
    axis.plot(curve.lrs, curve.smooth, color=COLOURS[0], lw=1.8, label="moving mean")
    for index, marker, colour, label in (
        (curve.steepest, "o", COLOURS[1], f"suggestion {curve.suggestion:.1e} (steepest fall)"),
        (curve.lowest, "s", COLOURS[2], f"lowest loss at {curve.lrs[curve.lowest]:.1e}"),
    ):
        place = (curve.lrs[index], curve.smooth[index])
        axis.plot(*place, marker, color=colour, ms=8, ls="none", label=label, zorder=3)
    axis.axvline(curve.lrs[curve.steepest], color=COLOURS[1], ls="--", lw=1)
    axis.set_xscale("log")
    top = max(curve.smooth[: curve.lowest + 1])
    room = 0.3 * (top - curve.smooth[curve.lowest])
    axis.set_ylim(min(curve.losses) - 0.3 * room, max(curve.losses[0], top) + room)
    _finish(axis, "learning rate (log scale)", "training loss (nats)", "Learning-rate range test")
    figure.savefig(path, dpi=110)


def plot_sizes(trials: Sequence[SizeTrial], chosen: SizeTrial, limit: int, path: Path) -> None:
    """Draw speed and memory of the sizes tried.

    Args:
        trials: In ascending order of size.
        chosen: The one that was found.
        limit: Bytes that a size may need.
        path: PNG to write.
    """
    figure = _figure(9.6)
    speed, memory = figure.subplots(1, 2)
    run = [trial for trial in trials if not trial.problem]
    speed.plot([t.size for t in run], [t.examples_per_s for t in run], "o-", color=COLOURS[0])
    known = [trial for trial in trials if trial.memory]
    memory.plot([t.size for t in known], [t.memory / GIB for t in known], "o-", color=COLOURS[0])
    text = f"limit {limit / GIB:.1f} GiB"
    if limit < 3 * max(trial.memory for trial in known):
        memory.axhline(limit / GIB, color=GREY, ls="--", lw=1, label=text)
    else:  # far above: a line would press the measurements flat
        memory.plot([], [], color=GREY, ls="--", lw=1, label=f"{text} (above)")
    for axis, value in ((speed, chosen.examples_per_s), (memory, chosen.memory / GIB)):
        label = f"chosen: {chosen.size}"
        axis.plot(chosen.size, value, "o", color=COLOURS[1], ms=9, label=label, zorder=3)
        for trial in trials[len(run) :]:
            text = f"{trial.size}: {trial.problem}"
            axis.axvline(trial.size, color=COLOURS[4], ls=":", label=text)
        axis.set_xscale("log", base=2)
        axis.set_xticks([trial.size for trial in trials], [str(trial.size) for trial in trials])
        axis.set_ylim(bottom=0)
    label = "micro-batch size (examples per device, log scale)"
    _finish(speed, label, "examples per second and device", "Speed at the whole global batch")
    _finish(memory, label, "GiB", "Peak memory")
    figure.savefig(path, dpi=110)


def _figure(width: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axis: Any, xlabel: str, ylabel: str, title: str) -> None:
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.set_title(title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
