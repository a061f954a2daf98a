"""`compare`: two runs side by side in the terminal: configuration, curves, results."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from training.metrics_file import series
from training.reports.document import NOTHING, Block, Document, Lines, Section, table
from training.reports.runs import Run, read_run
from training.reports.settings import NOT_STATED, shown

NUM_SHOWN_STEPS = 8
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
    print(compare(read_run(options.first), read_run(options.second)).markdown())


def compare(first: Run, second: Run) -> Document:
    """All that is printed."""
    runs = {"A": first, "B": second}
    remarks = [f"{letter} {remark}" for letter, run in runs.items() for remark in run.remarks]
    parts: dict[str, list[Block]] = {
        "": [Lines(lines=remarks)] if remarks else [],
        "Configuration": _settings(first, second),
        "Curves, B minus A at the steps both have": _curves(first, second),
        "Results, last value": [_results(first, second)],
    }
    return Document(
        title=f"A: {first.folder}, B: {second.folder}",
        sections=[Section(title=title, blocks=blocks) for title, blocks in parts.items()],
    )


def _settings(first: Run, second: Run) -> list[Block]:
    rows = []
    for key in dict.fromkeys((*first.settings, *second.settings)):
        values = [shown(run.settings.get(key, NOT_STATED)) for run in (first, second)]
        if values[0] != values[1]:
            rows.append([key, *values])
    return [table(["setting", "A", "B"], rows) if rows else Lines(lines=["no difference"])]


def _curves(first: Run, second: Run) -> list[Block]:
    found = [{name for row in run.rows for name in row} for run in (first, second)]
    metrics = sorted(name for name in found[0] & found[1] if name.startswith(_CURVES))
    lines, tables = [], []
    for metric in metrics:
        a, b = (_points(run, metric) for run in (first, second))
        steps = sorted(set(a) & set(b))
        lines.append(f"{metric}: {_curve_text(steps, a, b)}")
        if metric.startswith("val/") and any(not _same(a[step], b[step]) for step in steps):
            rows = [
                [f"{step:,.0f}", *map(_number, (a[step], b[step])), f"{b[step] - a[step]:+.4f}"]
                for step in _some(steps)
            ]
            tables.append(table([metric, "A", "B", "B - A"], rows))
    return [Lines(lines=lines or ["no metric that both have"], form="list"), *tables]


def _points(run: Run, metric: str) -> dict[float, float]:
    pairs = zip(*series(run.rows, metric), strict=True)
    return {step: value for step, value in pairs if step is not None}


def _curve_text(steps: Sequence[float], a: Mapping[float, float], b: Mapping[float, float]) -> str:
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
    unequal = [step for step in apart if step not in finite]
    return text + (f"; not finite at {len(unequal):,} steps" if unequal else "")


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _some(steps: Sequence[float]) -> list[float]:
    """At most `NUM_SHOWN_STEPS` steps, evenly chosen, the last one among them."""
    count = min(NUM_SHOWN_STEPS, len(steps))
    return [steps[(number + 1) * len(steps) // count - 1] for number in range(count)]


def _results(first: Run, second: Run) -> Block:
    names = sorted({name for run in (first, second) for row in run.rows for name in row})
    pairs = {
        name: (first.last(name), second.last(name))
        for name in names
        if name.startswith(("val/", "test/", "baseline/"))
    }
    pairs["median tokens/s"] = (first.tokens_per_s, second.tokens_per_s)
    for task in dict.fromkeys((*first.downstream, *second.downstream)):
        pairs[task] = (first.downstream.get(task), second.downstream.get(task))
    rows = [["steps", f"{first.last_step:,}", f"{second.last_step:,}", ""]]
    for name, (a, b) in pairs.items():
        gap = "" if a is None or b is None else f"{b - a:+,.4f}"
        rows.append([name, _number(a), _number(b), gap])
    return table(["last value", "A", "B", "B - A"], rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.4f}"
