"""`compare`: two runs side by side in the terminal: configuration, curves, results."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.metrics_rows import series
from training.reports.page import NOTHING, render
from training.reports.runs import SPEED_METRIC, TASK_METRIC, Run, read_run
from training.reports.study import NOT_STATED, shown

_NUM_SHOWN_STEPS = 8
_CURVES = ("val/", "train/loss", "train/mlm_loss", "train/pair_accuracy")


def run_compare(arguments: Sequence[str]) -> None:
    """`compare A B`.

    Raises:
        ValueError: A folder has no usable metrics.
    """
    parser = argparse.ArgumentParser("ponet-pretrain compare", description=__doc__)
    parser.add_argument("first", type=Path, help="folder of a run, A")
    parser.add_argument("second", type=Path, help="folder of another run, B")
    options = parser.parse_args(list(arguments))
    print(compare(read_run(options.first), read_run(options.second)))


def compare(first: Run, second: Run) -> str:
    """All that is printed."""
    runs = {"A": first, "B": second}
    names = {name for run in runs.values() for row in run.rows for name in row}
    logged = [{name for row in run.rows for name in row} for run in runs.values()]
    shared = sorted(name for name in logged[0] & logged[1] if name.startswith(_CURVES))
    curves = {name: [_points(run, name) for run in runs.values()] for name in shared}
    return render(
        "compare.j2",
        "md",
        title=f"A: {first.folder}, B: {second.folder}",
        remarks=[f"{letter} {remark}" for letter, run in runs.items() for remark in run.remarks],
        settings=_settings(first, second),
        curves={name: _curve_text(*points) for name, points in curves.items()},
        steps=[_steps(name, *points) for name, points in curves.items()],
        results=_results(first, second, sorted(names)),
    )


def _settings(first: Run, second: Run) -> list[list[str]]:
    rows = [["setting", "A", "B"]]
    for key in dict.fromkeys((*first.settings, *second.settings)):
        values = [shown(run.settings.get(key, NOT_STATED)) for run in (first, second)]
        rows += [[key, *values]] if values[0] != values[1] else []
    return rows


def _points(run: Run, metric: str) -> dict[float, float]:
    pairs = zip(*series(run.rows, metric), strict=True)
    return {step: value for step, value in pairs if step is not None}


def _curve_text(a: Mapping[float, float], b: Mapping[float, float]) -> str:
    steps = sorted(set(a) & set(b))
    if not steps:
        return "no step that both have"
    apart = [step for step in steps if not _same(a[step], b[step])]
    if not apart:
        return f"{len(steps):,} shared steps, equal at every one"
    text = f"{len(steps):,} shared steps, first different at step {apart[0]:,.0f}"
    finite = {s: gap for s in steps if math.isfinite(gap := abs(b[s] - a[s]))}
    if finite:
        widest = max(finite, key=lambda step: finite[step])
        mean = sum(finite.values()) / len(finite)
        text += f"; mean |difference| {mean:.4g}, greatest {finite[widest]:.4g}"
        text += f" at step {widest:,.0f}"
    num_unequal = sum(step not in finite for step in apart)
    return text + (f"; not finite at {num_unequal:,} steps" if num_unequal else "")


def _steps(
    metric: str, a: Mapping[float, float], b: Mapping[float, float]
) -> list[list[str]] | None:
    """A validation metric at some of the steps both have, the last among them."""
    steps = sorted(set(a) & set(b))
    if not metric.startswith("val/") or all(_same(a[step], b[step]) for step in steps):
        return None
    count = min(_NUM_SHOWN_STEPS, len(steps))
    some = [steps[(number + 1) * len(steps) // count - 1] for number in range(count)]
    rows = [
        [f"{step:,.0f}", *map(_number, (a[step], b[step])), f"{b[step] - a[step]:+.4f}"]
        for step in some
    ]
    return [[metric, "A", "B", "B - A"], *rows]


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _results(first: Run, second: Run, names: Sequence[str]) -> list[list[str]]:
    tasks = dict.fromkeys((*first.downstream, *second.downstream))
    metrics = {name: name for name in names if name.startswith(("val/", "test/", "baseline/"))}
    metrics |= {"median tokens/s": SPEED_METRIC, **{task: TASK_METRIC + task for task in tasks}}
    rows = [["last value", "A", "B", "B - A"]]
    rows.append(["steps", f"{first.last_step:,}", f"{second.last_step:,}", ""])
    for title, metric in metrics.items():
        a, b = first.last(metric), second.last(metric)
        gap = "" if a is None or b is None else f"{b - a:+,.4f}"
        rows.append([title, _number(a), _number(b), gap])
    return rows


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.4f}"
