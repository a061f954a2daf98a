"""The closing table of a run: accuracies beside what guessing scores, from metrics.jsonl."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.command import counted
from training.command_line import parse_options
from training.metrics_file import read_metrics
from training.reports.curves import plot_curves
from training.reports.measures import ACCURACY, LOSS, PAIRS, SPEED, Logged
from training.reports.runs import Run
from training.run_config import BUNDLE_FOLDER, CURVES_FILE, METRICS_FILE


@dataclass(frozen=True, kw_only=True)
class SummaryOptions:
    """Print the closing table of runs: accuracies beside what guessing scores."""

    runs: tuple[Path, ...]
    """Run folders, for instance runs/default."""
    plot: Path = Path()
    """PNG to write: the curves of all runs together."""
    table: Path = Path()
    """Text file to write: the printed tables."""


def run_summary(arguments: Sequence[str]) -> None:
    """`summary RUN [RUN ...]`."""
    program = "ponet-pretrain summary"
    options = parse_options(
        SummaryOptions, arguments, program=program, positional="runs", repeated=("runs",)
    )
    text = print_summary(options.runs)
    if options.table != Path():
        options.table.write_text(text + "\n", encoding="utf-8")
    if options.plot != Path():
        names = [folder.name for folder in options.runs]
        labels = names if len(set(names)) == len(names) else [str(f) for f in options.runs]
        rows = [read_metrics(folder / METRICS_FILE) for folder in options.runs]
        plot_curves(dict(zip(labels, rows, strict=True)), options.plot)
        print(f"curves of all runs: {options.plot}")


def print_summary(folders: Sequence[Path]) -> str:
    """Print one table per run folder; returns the printed text.

    Raises:
        ValueError: A folder has no metrics file.
    """
    tables = []
    for folder in folders:
        path = folder / METRICS_FILE
        if not path.exists():
            raise ValueError(f"{folder} is not a run folder: it has no {METRICS_FILE}")
        tables.append("\n".join(summary_lines(folder, read_metrics(path))))
    text = "\n\n".join(tables)
    print(f"\n{text}\n")
    return text


def summary_lines(folder: Path, rows: list[dict[str, float]]) -> list[str]:
    """The table's lines for one run."""
    run = Run(folder=folder, name=folder.name, rows=rows)
    count = counted(rows[-1]["step"], "step(s)") if rows else "no metrics"
    lines = [f"run {folder}: {count}"]
    table = [f"{'validation':<24}{'this run':>10}{'guessing':>22}   verdict"]
    for measure in (ACCURACY, LOSS, PAIRS):
        value, level = measure.read(run), measure.level(run)
        if value is None:
            continue
        label, unit = measure.title[0].lower() + measure.title[1:], measure.unit
        label, unit = (label, unit) if unit == "%" else (f"{label} ({unit})", "")
        guessed = "unknown" if level is None else measure.text(level) + unit
        guess = f"{measure.guesser.removesuffix(' guesser')} {guessed}"
        verdict = _verdict(measure, value, level, run.last("baseline/eval_examples"))
        table.append(f"{label:<24}{measure.text(value) + unit:>10}{guess:>22}   {verdict}")
    lines += table if len(table) > 1 else ["no validation"]
    speed = run.last(SPEED.metric)
    lines += [] if speed is None else [f"training speed: {speed:,.0f} tokens/s (median)"]
    parts = (("curves", CURVES_FILE), ("bundle", BUNDLE_FOLDER))
    return [*lines, *(f"{n}: {folder / name}" for n, name in parts if (folder / name).exists())]


def _verdict(measure: Logged, value: float, level: float | None, examples: float | None) -> str:
    if level is None:
        return ""
    if measure is LOSS:
        return f"{level - value:+.2f} nats better" if value < level else "not learnt"
    if measure is ACCURACY:
        return f"{value / level:.1f} x the unigram guesser" if level else ""
    if examples is None:
        return ""
    standard_error = math.sqrt(level * (100 - level) / examples)
    distance = (value - level) / standard_error
    learnt = "above chance" if distance > 3 else "not above chance yet"
    return f"{learnt} ({distance:+.1f} standard errors, {examples:,.0f} pairs)"
