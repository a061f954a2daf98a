"""`compare`: two runs side by side in the terminal: configuration, curves, results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.command_line import parse_options
from training.metrics_file import series
from training.reports.measures import LOSS
from training.reports.page import NOTHING, render
from training.reports.reach import common_loss, compared_rows
from training.reports.runs import SPEED_METRIC, TASK_METRIC, Run, read_run
from training.reports.study import NOT_STATED, shown
from training.run_config import check_numbers

_NUM_SHOWN_STEPS = 8
_RESULTS = ("val/", "test/", "baseline/", "test_baseline/")
_CURVES = ("val/", "train/loss", "train/mlm_loss", "train/pair_accuracy")
Points = Sequence[tuple[float, float, float]]
"""Steps that both runs have, with the value of either."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Print two runs side by side: configuration, curves, results."""

    runs: tuple[Path, ...]
    """Folders of two runs, A and B."""
    loss: float = 0.0
    """Validation loss of masked words, in nats, until which steps, tokens and seconds are shown, >
    0; 0: the worse last one, which both reach."""

    def __post_init__(self) -> None:
        check_numbers(self, ">= 0", "loss", group="--")
        if len(self.runs) != 2:
            raise ValueError(
                f"compare takes the folders of two runs, A and B; {len(self.runs)} given"
            )


def run_compare(arguments: Sequence[str]) -> None:
    """`compare A B`.

    Raises:
        ValueError: Other than two folders, or one has no usable metrics.
    """
    program = "ponet-pretrain compare"
    options = parse_options(
        CompareOptions, arguments, program=program, positional="runs", repeated=("runs",)
    )
    print(compare(*map(read_run, options.runs), loss=options.loss))


def compare(*runs: Run, loss: float = 0.0) -> str:
    """All that is printed of two runs.

    Args:
        runs: Both.
        loss: See `CompareOptions`.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    settings = [[key, *(shown(run.settings.get(key, NOT_STATED)) for run in runs)] for key in keys]
    logged = [{name for row in run.rows for name in row} for run in runs]
    shared = sorted(name for name in set.intersection(*logged) if name.startswith(_CURVES))
    names = sorted(n for n in set.union(*logged) if n.startswith(_RESULTS))
    metrics = {name: name for name in names} | {"median tokens/s": SPEED_METRIC}
    metrics |= {task: TASK_METRIC + task for run in runs for task in run.downstream}
    return render(
        "compare.j2",
        "md",
        runs=runs,
        settings=[row for row in settings if row[1] != row[2]],
        curves={name: _points(runs, name) for name in shared},
        results={title: [run.last(metric) for run in runs] for title, metric in metrics.items()},
        reach=compared_rows(runs, common_loss(runs, loss)),
        unlike=LOSS.unlike(runs),
        told=_told,
        some=_some,
        number=lambda value: NOTHING if value is None else f"{value:,.4f}",
    )


def _points(runs: Sequence[Run], metric: str) -> Points:
    a, b = (dict(zip(*series(run.rows, metric), strict=True)) for run in runs)
    return [(step, a[step], b[step]) for step in sorted((a.keys() & b.keys()) - {None})]


def _told(points: Points) -> str:
    """How far two curves are apart."""
    if not points:
        return "no step that both have"
    apart = [step for step, a, b in points if a != b and not (math.isnan(a) and math.isnan(b))]
    if not apart:
        return f"{len(points):,} shared steps, equal at every one"
    text = f"{len(points):,} shared steps, first different at step {apart[0]:,.0f}"
    gaps = [(abs(b - a), step) for step, a, b in points if math.isfinite(b - a)]
    if gaps:
        widest, at = max(gaps, key=lambda gap: gap[0])
        mean = sum(gap for gap, _ in gaps) / len(gaps)
        text += f"; mean |difference| {mean:.4g}, greatest {widest:.4g} at step {at:,.0f}"
    num_unequal = len(set(apart) - {step for _, step in gaps})
    return text + (f"; not finite at {num_unequal:,} steps" if num_unequal else "")


def _some(points: Points) -> Points:
    """At most `_NUM_SHOWN_STEPS` of them, evenly chosen, the last one among them."""
    count = min(_NUM_SHOWN_STEPS, len(points))
    return [points[(number + 1) * len(points) // count - 1] for number in range(count)]
