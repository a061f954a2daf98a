"""`report` of both trainings: a page, Markdown, CSV, JSON and PNG about some runs.

Invariant: only reads the runs; the files of an earlier report are replaced whole.
"""

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files import write_atomic
from training.command_line import OneLineParser, yes_or_no

if TYPE_CHECKING:  # commands say what is wrong with their options at once
    from training.reports.finetuning import GridReport
    from training.reports.pretraining import StudyReport

PAGE, TABLE, CSV, JSON = "index.html", "table.md", "table.csv", "table.json"
FIGURE, CURVES_FIGURE = "figure.png", "curves.png"
REPORT = "report"


def parse_pretraining(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `pretrain report`; a mistake in them is a ValueError."""
    parser = OneLineParser(
        "ponet-pretrain report",
        allow_abbrev=False,
        description="Make one HTML page about pretraining runs: results with their spread, "
        "differences, curves, settings, commands. It opens from disk and needs no network. Beside "
        "it stand the tables as Markdown, CSV and JSON, and figures as PNG.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="run folders, or folders that hold some (a sweep's)")
    add("--out", type=Path, default=Path(REPORT), help="folder to write (default: report)")
    add("--title", default="Pretraining study", help="heading of the page")
    add(
        "--group_by",
        default="",
        type=lambda text: [key.strip() for key in text.split(",") if key.strip()],
        help="settings as in `fit`, with commas between them, that alone tell configurations "
        "apart (default: every setting that can change a result, the seed aside)",
    )
    add(
        "--baseline",
        default="",
        help="the configuration that differences are taken from: its name in the table, or one "
        "of its runs (default: the first)",
    )
    return parser.parse_args(list(arguments))


def run_pretraining_report(arguments: Sequence[str]) -> None:
    """`report RUN [RUN ...] [--out report] [--title T] [--group_by KEY,KEY] [--baseline NAME]`.

    Raises:
        ValueError: A mistake in the options, or no run at all; says what is wrong with each folder.
    """
    options = parse_pretraining(arguments)
    from training.reports.figures import save_dots, save_png
    from training.reports.pretraining import StudyReport
    from training.reports.runs import find_runs
    from training.reports.study import choose_baseline, make_study

    runs, problems = find_runs(options.runs)
    if not runs:
        reasons = "\n".join(f"  {folder}: {reason}" for folder, reason in problems.items())
        raise ValueError(f"there is no run to report on:\n{reasons}")
    study, out = make_study(runs, options.group_by), options.out
    report = StudyReport(
        title=options.title,
        study=study,
        baseline=choose_baseline(study, options.baseline),
        problems=problems,
        out=out,
    )
    write_files(report, out)
    write_atomic(out / PAGE, report.text("html").encode("utf-8"))
    if report.columns:
        save_dots(report.dots(report.columns), report.columns, out / FIGURE)
    if report.curves:
        save_png(report.curves, out / CURVES_FIGURE)
    for folder, reason in problems.items():
        print(f"left out: {folder}: {reason}")
    print(f"report: {out / PAGE}")


def parse_finetuning(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `finetune report`; a mistake in them is a ValueError."""
    text = "Make the table of one or more grids: one HTML page, Markdown, CSV, JSON and a figure."
    parser = OneLineParser("ponet-finetune report", allow_abbrev=False, description=text)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="--output folders of `grid`")
    add("--output", type=Path, help="folder to write; default: <first>/report")
    told = "false: leave published scores out"
    add("--published", type=yes_or_no, nargs="?", const=True, default=True, help=told)
    return parser.parse_args(list(arguments))


def run_finetuning_report(arguments: Sequence[str]) -> None:
    """`report GRID [GRID ...] [--output DIR] [--published true]`; prints the tables.

    Raises:
        ValueError: A mistake in the options, or results that must not stand in one table.
    """
    options = parse_finetuning(arguments)
    from training.reports.figures import save_dots
    from training.reports.finetuning import GridReport
    from training.reports.trials import find_trials

    report = GridReport(found=find_trials(options.folders), with_published=options.published)
    out = options.output or options.folders[0] / REPORT
    text = write_files(report, out)
    write_atomic(out / PAGE, report.text("html").encode("utf-8"))
    save_dots(report.dots(), report.columns, out / FIGURE)
    print(text)
    print(f"written to {out}: {TABLE}, {CSV} (one line per trial), {JSON}, {FIGURE}, {PAGE}")


def write_files(report: "StudyReport | GridReport", folder: Path) -> str:
    """Write what is said, and the numbers for programs: CSV per run, JSON; returns the Markdown."""
    rows, text, stream = report.csv_rows(), report.text("md"), io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = {"format_version": 1, **report.numbers()}
    numbers = json.dumps(content, indent=2, ensure_ascii=False, default=asdict) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in ((TABLE, text), (CSV, stream.getvalue()), (JSON, numbers)):
        write_atomic(folder / name, found.encode("utf-8"))
    return text
