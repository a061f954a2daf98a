"""The closing table of a run: accuracies beside what guessing scores, from metrics.jsonl."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from training.metrics_file import last_value, read_metrics
from training.reports.curves import plot_curves
from training.run_config import BUNDLE_FOLDER, CURVES_FILE, METRICS_FILE


def run_summary(arguments: Sequence[str]) -> None:
    """`summary RUN [RUN ...]`."""
    parser = argparse.ArgumentParser("ponet-pretrain summary", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, for instance runs/default")
    parser.add_argument("--plot", type=Path, help="PNG to write: the curves of all runs together")
    parser.add_argument("--table", type=Path, help="text file to write: the printed tables")
    options = parser.parse_args(arguments)
    text = print_summary(options.runs)
    if options.table:
        options.table.write_text(text + "\n", encoding="utf-8")
    if options.plot:
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
    lines = [
        f"run {folder}: {rows[-1]['step']:,.0f} steps" if rows else f"run {folder}: no metrics"
    ]
    lines += _table(rows)
    speeds = sorted(row["train/tokens_per_s"] for row in rows if "train/tokens_per_s" in row)
    if speeds:
        lines.append(f"training speed: {speeds[len(speeds) // 2]:,.0f} tokens/s (median)")
    for label, name in (("curves", CURVES_FILE), ("bundle", BUNDLE_FOLDER)):
        if (folder / name).exists():
            lines.append(f"{label}: {folder / name}")
    return lines


def _table(rows: list[dict[str, float]]) -> list[str]:
    entries = [
        ("masked-LM accuracy", "val/mlm_accuracy", "baseline/unigram_accuracy", "unigram", ".1%"),
        ("masked-LM loss (nats)", "val/mlm_loss", "baseline/unigram_loss", "unigram", ".3f"),
        ("pair accuracy", "val/pair_accuracy", "baseline/pair_chance", "chance", ".1%"),
    ]
    lines = [f"{'validation':<24}{'this run':>10}{'guessing':>22}   verdict"]
    for label, metric, baseline, guesser, spec in entries:
        value, level = last_value(rows, metric), last_value(rows, baseline)
        if value is None or level is None:
            continue
        guess = f"{guesser} {level:{spec}}"
        verdict = _verdict(metric, value, level, last_value(rows, "baseline/eval_examples"))
        lines.append(f"{label:<24}{value:>10{spec}}{guess:>22}   {verdict}")
    return lines if len(lines) > 1 else ["no validation"]


def _verdict(metric: str, value: float, level: float, examples: float | None) -> str:
    if metric == "val/mlm_loss":
        return f"{level - value:+.2f} nats better" if value < level else "not learnt"
    if metric == "val/mlm_accuracy":
        return f"{value / level:.1f} x the unigram guesser" if level else ""
    if examples is None:
        return ""
    standard_error = math.sqrt(level * (1 - level) / examples)
    distance = (value - level) / standard_error
    learnt = "above chance" if distance > 3 else "not above chance yet"
    return f"{learnt} ({distance:+.1f} standard errors, {examples:,.0f} pairs)"
