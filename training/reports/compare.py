"""`compare`: two runs side by side in the terminal: configuration, curves, results."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from training.metrics_rows import series
from training.reports.runs import Run, read_run
from training.reports.settings import NOT_STATED, shown

NUM_SHOWN_STEPS = 8
_CURVES = ("train/loss", "train/mlm_loss", "train/pair_accuracy")


def run_compare(arguments: Sequence[str]) -> None:
    """`compare A B`.

    Raises:
        ValueError: A folder has no usable metrics.
    """
    parser = argparse.ArgumentParser("ponet-pretrain compare", description=__doc__)
    parser.add_argument("first", type=Path, help="folder of a run, A")
    parser.add_argument("second", type=Path, help="folder of another run, B")
    options = parser.parse_args(list(arguments))
    print(compare_text(read_run(options.first), read_run(options.second)))


def compare_text(first: Run, second: Run) -> str:
    """All that is printed."""
    lines = [f"A: {first.folder}", f"B: {second.folder}"]
    for letter, run in (("A", first), ("B", second)):
        lines += [f"{letter} {remark}" for remark in run.remarks]
    sections = (
        ("Configuration (A | B)", _settings(first, second)),
        ("Curves (B minus A at the steps both have)", _curves(first, second)),
        ("Results (last value)", _results(first, second)),
    )
    for title, content in sections:
        lines += ["", title, *(f"  {line}" for line in content)]
    return "\n".join(lines)


def _settings(first: Run, second: Run) -> list[str]:
    keys = dict.fromkeys((*first.settings, *second.settings))
    lines = []
    for key in keys:
        a, b = (shown(run.settings.get(key, NOT_STATED)) for run in (first, second))
        if a != b:
            lines.append(f"{key}: {a} | {b}")
    return lines or ["no difference"]


def _metrics(first: Run, second: Run, prefixes: tuple[str, ...]) -> list[str]:
    found = [{name for row in run.rows for name in row} for run in (first, second)]
    return sorted(name for name in found[0] & found[1] if name.startswith(prefixes))


def _curves(first: Run, second: Run) -> list[str]:
    lines = []
    for metric in _metrics(first, second, ("val/", *_CURVES)):
        lines += _curve(metric, _points(first, metric), _points(second, metric))
    return lines or ["no metric that both have"]


def _points(run: Run, metric: str) -> dict[float, float]:
    pairs = zip(*series(run.rows, metric), strict=True)
    return {step: value for step, value in pairs if step is not None}


def _curve(metric: str, first: dict[float, float], second: dict[float, float]) -> list[str]:
    steps = sorted(set(first) & set(second))
    if not steps:
        return [f"{metric}: no step that both have"]
    apart = [step for step in steps if not _same(first[step], second[step])]
    title = f"{metric}: {len(steps):,} shared steps"
    if not apart:
        return [f"{title}, equal at every one"]
    gaps = {s: abs(second[s] - first[s]) for s in steps}
    finite = {step: gap for step, gap in gaps.items() if math.isfinite(gap)}
    lines = [f"{title}, first different at step {apart[0]:,.0f}"]
    if finite:
        widest = max(finite, key=lambda step: finite[step])
        mean = sum(finite.values()) / len(finite)
        lines[0] += f"; mean |difference| {mean:.4g}, greatest {finite[widest]:.4g}"
        lines[0] += f" at step {widest:,.0f}"
    unequal = [step for step in apart if step not in finite]
    if unequal:
        lines[0] += f"; not finite at {len(unequal):,} steps"
    if metric.startswith("val/"):
        lines += _values(_some(steps), first, second)
    return lines


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _some(steps: Sequence[float]) -> list[float]:
    """At most `NUM_SHOWN_STEPS` steps, evenly chosen, the last one among them."""
    count = min(NUM_SHOWN_STEPS, len(steps))
    return [steps[(number + 1) * len(steps) // count - 1] for number in range(count)]


def _values(
    steps: Sequence[float], first: dict[float, float], second: dict[float, float]
) -> list[str]:
    lines = [f"  {'step':>10}{'A':>12}{'B':>12}{'B - A':>12}"]
    for step in steps:
        a, b = first[step], second[step]
        lines.append(f"  {step:>10,.0f}{a:>12.4f}{b:>12.4f}{b - a:>+12.4f}")
    return lines


def _results(first: Run, second: Run) -> list[str]:
    lines = [f"{'':<28}{'A':>12}{'B':>12}{'B - A':>12}"]
    steps = first.last_step, second.last_step
    lines.append(f"{'steps':<28}{steps[0]:>12,}{steps[1]:>12,}{steps[1] - steps[0]:>+12,}")
    names = {name for run in (first, second) for row in run.rows for name in row}
    wanted = sorted(name for name in names if name.startswith(("val/", "test/", "baseline/")))
    for name in wanted:
        lines.append(_result(name, first.last(name), second.last(name)))
    lines.append(_result("median tokens/s", first.tokens_per_s, second.tokens_per_s))
    for task in dict.fromkeys((*first.downstream, *second.downstream)):
        lines.append(_result(task, first.downstream.get(task), second.downstream.get(task)))
    return lines


def _result(name: str, first: float | None, second: float | None) -> str:
    cells = "".join(f"{'–' if v is None else f'{v:,.4f}':>12}" for v in (first, second))
    if first is None or second is None:
        return f"{name:<28}{cells}"
    return f"{name:<28}{cells}{second - first:>+12,.4f}"
