"""`report`: the paper's table from the results of one or more grids.

Invariant: only reads the grids; the files of an earlier report are replaced whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import write_atomic
from training.command_line import OneLineParser, yes_or_no

TABLE, CSV, JSON, FIGURE = "table.md", "table.csv", "table.json", "figure.png"
REPORT_FOLDER = "report"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report."""

    folders: Sequence[Path]
    """Folders of grids, or of single runs."""
    output: Path
    """Folder to write."""
    published: bool = True
    """Whether published scores stand beside ours."""


def run_report(arguments: Sequence[str]) -> None:
    """`report GRID [GRID ...] [--output DIR] [--published true]`; prints the tables.

    Raises:
        ValueError: A mistake in the options, or results that must not stand in one table.
    """
    options = parse_report(arguments)
    from finetune.reporting.files import csv_text, json_text
    from finetune.reporting.model import make_report
    from finetune.reporting.plots import plot_results
    from finetune.reporting.runs import find_runs
    from finetune.reporting.text import markdown

    report = make_report(find_runs(options.folders), with_published=options.published)
    text = markdown(report)
    options.output.mkdir(parents=True, exist_ok=True)
    plot_results(report, options.output / FIGURE)
    for name, content in ((TABLE, text), (CSV, csv_text(report)), (JSON, json_text(report))):
        write_atomic(options.output / name, content.encode("utf-8"))
    print(text)
    print(f"written to {options.output}: {TABLE}, {CSV} (one line per trial), {JSON}, {FIGURE}")


def parse_report(arguments: Sequence[str]) -> ReportOptions:
    """The options of the command.

    Raises:
        ValueError: A mistake in them.
    """
    parser = OneLineParser(
        "ponet-finetune report",
        allow_abbrev=False,
        description="Make the table of one or more grids: Markdown, CSV, JSON and a figure.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="--output folders of `grid`")
    parser.add_argument("--output", type=Path, help="folder to write; default: <first>/report")
    parser.add_argument(
        "--published",
        type=yes_or_no,
        nargs="?",
        const=True,
        default=True,
        help="false: leave published scores out",
    )
    options = parser.parse_args(list(arguments))
    output = options.output or options.folders[0] / REPORT_FOLDER
    return ReportOptions(folders=options.folders, output=output, published=options.published)
