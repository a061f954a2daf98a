"""`report` of both trainings: a page, Markdown, CSV, JSON and PNG about some runs.

Invariant: only reads the runs; the files of an earlier report are replaced whole.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.files import write_atomic, write_json
from training.command_line import parse_options
from training.run_config import check_numbers

if TYPE_CHECKING:  # commands say what is wrong with their options at once
    from training.reports.figures import Panel
    from training.reports.finetuning import GridReport
    from training.reports.pretraining import StudyReport

PAGE, TABLE, CSV, JSON = "index.html", "table.md", "table.csv", "table.json"
FIGURE, CURVES_FIGURE = "figure.png", "curves.png"
REPORT = "report"


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """Make one HTML page about pretraining runs: results with their spread, differences, curves.

    It opens from disk and needs no network. Beside it stand the tables as Markdown, CSV and JSON,
    and figures as PNG.
    """

    runs: tuple[Path, ...]
    """Run folders, or folders that hold some (a sweep's)."""
    out: Path = Path(REPORT)
    """Folder to write."""
    title: str = "Pretraining study"
    """Heading of the page."""
    group_by: str = ""
    """Settings as in `fit`, with commas between them, that alone tell configurations apart; empty:
    every setting that can change a result, the seed aside."""
    baseline: str = ""
    """The configuration that differences are taken from: its name in the table, or one of its runs;
    empty: the first."""
    loss: float = 0.0
    """Validation loss of masked words, in nats, until which steps, tokens and seconds are shown, >
    0; 0: the worst last one of the finished runs, which all these reach."""

    def __post_init__(self) -> None:
        check_numbers(self, ">= 0", "loss", group="--")


@dataclass(frozen=True, kw_only=True)
class FinetuningOptions:
    """Make the table of one or more grids: one HTML page, Markdown, CSV, JSON and a figure."""

    folders: tuple[Path, ...]
    """The --output folders of `grid`, or other folders with runs and baselines that have ended."""
    output: Path = Path()
    """Folder to write; left out: <first>/report."""
    published: bool = True
    """false: leave published scores out."""


def parse_pretraining(arguments: Sequence[str]) -> PretrainingOptions:
    """The options of `pretrain report`; a mistake in them is a ValueError."""
    program, names = "ponet-pretrain report", ("runs",)
    return parse_options(
        PretrainingOptions, arguments, program=program, positional="runs", repeated=names
    )


def parse_finetuning(arguments: Sequence[str]) -> FinetuningOptions:
    """The options of `finetune report`; a mistake in them is a ValueError."""
    program, names = "ponet-finetune report", ("folders",)
    return parse_options(
        FinetuningOptions, arguments, program=program, positional="folders", repeated=names
    )


def run_pretraining_report(arguments: Sequence[str]) -> None:
    """`report RUN [RUN ...] [--out report] [--title T] [--group_by KEY,KEY] [--baseline NAME]`.

    Raises:
        ValueError: A mistake in the options, or no run at all; says what is wrong with each folder.
    """
    options = parse_pretraining(arguments)
    from training.reports.figures import save_dots
    from training.reports.pretraining import StudyReport
    from training.reports.runs import find_runs
    from training.reports.study import choose_baseline, make_study

    runs, problems = find_runs(options.runs)
    if not runs:
        reasons = "\n".join(f"  {folder}: {reason}" for folder, reason in problems.items())
        raise ValueError(f"there is no run to report on:\n{reasons}")
    keys = [key.strip() for key in options.group_by.split(",") if key.strip()]
    study, out = make_study(runs, keys), options.out
    report = StudyReport(
        title=options.title,
        study=study,
        baseline=choose_baseline(study, options.baseline),
        problems=problems,
        out=out,
        loss=options.loss,
    )
    write_files(report, out)
    if report.columns:
        save_dots(report.dots(report.columns), report.columns, out / FIGURE)
    _save_curves(report.curves, out)
    for folder, reason in problems.items():
        print(f"left out: {folder}: {reason}")
    print(f"report: {out / PAGE}")


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
    out = options.output if options.output != Path() else options.folders[0] / REPORT
    text = write_files(report, out)
    save_dots(report.dots(), report.columns, out / FIGURE)
    _save_curves(report.curves, out)
    print(text)
    figures = f"{FIGURE}, {CURVES_FIGURE}" if report.curves else FIGURE
    table = f"{TABLE}, {CSV} (one line per trial and split), {JSON}"
    print(f"written to {out}: {table}, {figures}, {PAGE}")


def _save_curves(panels: "Sequence[Panel]", folder: Path) -> None:
    """Write the figure of the curves, or remove that of an earlier report."""
    from training.reports.figures import save_png

    (folder / CURVES_FIGURE).unlink(missing_ok=True)
    if panels:
        save_png(panels, folder / CURVES_FIGURE)


def write_files(report: "StudyReport | GridReport", folder: Path) -> str:
    """Write the page, and the numbers for programs: CSV per run, JSON; returns the Markdown."""
    rows, text, stream = report.csv_rows(), report.text("md"), io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = {"format_version": 1, **report.numbers()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in ((TABLE, text), (CSV, stream.getvalue()), (PAGE, report.text("html"))):
        write_atomic(folder / name, found.encode("utf-8"))
    write_json(folder / JSON, content, default=asdict)
    return text
