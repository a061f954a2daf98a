"""`report`: one self-contained HTML page about some runs.

Invariant: only reads the runs; an earlier page is replaced whole.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from data_prep.files import write_atomic

PAGE = "index.html"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report."""

    runs: Sequence[Path]
    """Folders of runs, or folders that hold some, such as a sweep's."""
    out: Path
    """Folder to write the page to."""
    title: str
    """Heading of the page."""
    group_by: Sequence[str]
    """Settings that alone tell configurations apart; empty: all that can change a result."""
    baseline: str
    """Configuration, or one of its runs, that differences are taken from; empty: the first."""


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}\n({self.prog} --help lists the options)")


def parse_report(arguments: Sequence[str]) -> ReportOptions:
    """The options of the command.

    Raises:
        ValueError: A mistake in them.
    """
    parser = _OneLineParser(
        "ponet-pretrain report",
        allow_abbrev=False,
        description="Make one HTML page about pretraining runs: results with their spread, "
        "differences, curves, settings, commands. It opens from disk and needs no network.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders, or folders that hold some (a sweep's)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help=f"folder for {PAGE} (default: report)"
    )
    parser.add_argument("--title", default="Pretraining study", help="heading of the page")
    parser.add_argument(
        "--group_by",
        default="",
        help="settings as in `fit`, with commas between them, that alone tell configurations "
        "apart (default: every setting that can change a result, the seed aside)",
    )
    parser.add_argument(
        "--baseline",
        default="",
        help="the configuration that differences are taken from: its name in the table, or one "
        "of its runs (default: the first)",
    )
    found = parser.parse_args(list(arguments))
    return ReportOptions(
        runs=found.runs,
        out=found.out,
        title=found.title,
        group_by=[key.strip() for key in found.group_by.split(",") if key.strip()],
        baseline=found.baseline,
    )


def run_report(arguments: Sequence[str]) -> None:
    """`report RUN [RUN ...] [--out report] [--title T] [--group_by KEY,KEY] [--baseline NAME]`.

    Raises:
        ValueError: A mistake in the options, or no run at all.
    """
    path = write_report(parse_report(arguments))
    print(f"report: {path}")


def write_report(options: ReportOptions) -> Path:
    """Write the page; returns its path.

    Raises:
        ValueError: There is no usable run; says what is wrong with each folder.
    """
    from training.reports.configurations import choose_baseline, make_study
    from training.reports.pretraining import Content, make_document
    from training.reports.runs import find_runs

    runs, problems = find_runs(options.runs)
    if not runs:
        reasons = "\n".join(f"  {problem.folder}: {problem.reason}" for problem in problems)
        raise ValueError(f"there is no run to report on:\n{reasons}")
    study = make_study(runs, options.group_by)
    content = Content(
        title=options.title,
        study=study,
        baseline=choose_baseline(study, options.baseline),
        problems=problems,
        out=options.out,
    )
    page = make_document(content).page()
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / PAGE, page.encode("utf-8"))
    for problem in problems:
        print(f"left out: {problem.folder}: {problem.reason}")
    return options.out / PAGE
