"""`report` of both trainings: a page, Markdown, CSV, JSON and PNG about some runs.

Invariant: only reads the runs; the files of an earlier report are replaced whole.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.files import write_atomic
from training.command_line import OneLineParser, yes_or_no

PAGE, TABLE, CSV, JSON = "index.html", "table.md", "table.csv", "table.json"
FIGURE, CURVES_FIGURE = "figure.png", "curves.png"
REPORT_FOLDER = "report"


def parse_pretraining(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `pretrain report`.

    Raises:
        ValueError: A mistake in them.
    """
    parser = OneLineParser(
        "ponet-pretrain report",
        allow_abbrev=False,
        description="Make one HTML page about pretraining runs: results with their spread, "
        "differences, curves, settings, commands. It opens from disk and needs no network. Beside "
        "it stand the tables as Markdown, CSV and JSON, and figures as PNG.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run folders, or folders that hold some (a sweep's)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(REPORT_FOLDER), help="folder to write (default: report)"
    )
    parser.add_argument("--title", default="Pretraining study", help="heading of the page")
    parser.add_argument(
        "--group_by",
        default="",
        type=lambda text: [key.strip() for key in text.split(",") if key.strip()],
        help="settings as in `fit`, with commas between them, that alone tell configurations "
        "apart (default: every setting that can change a result, the seed aside)",
    )
    parser.add_argument(
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
    from training.reports import pretraining
    from training.reports.configurations import choose_baseline, make_study
    from training.reports.curves import curve_panels
    from training.reports.figures import save_dots, save_png
    from training.reports.files import study_csv, study_json
    from training.reports.measures import make_columns
    from training.reports.runs import find_runs

    runs, problems = find_runs(options.runs)
    if not runs:
        reasons = "\n".join(f"  {problem.folder}: {problem.reason}" for problem in problems)
        raise ValueError(f"there is no run to report on:\n{reasons}")
    study = make_study(runs, options.group_by)
    baseline = choose_baseline(study, options.baseline)
    columns = make_columns(study)
    document = pretraining.make_document(
        pretraining.Content(
            title=options.title,
            study=study,
            columns=columns,
            baseline=baseline,
            problems=problems,
            out=options.out,
        )
    )
    texts = {
        TABLE: document.markdown(),
        CSV: study_csv(study, columns),
        JSON: study_json(study, columns, baseline, problems),
        PAGE: document.page(),
    }
    _write(options.out, texts)
    if dots := pretraining.dot_panels(study, columns):
        save_dots(dots, options.out / FIGURE)
    if curves := curve_panels(study):
        save_png(curves, options.out / CURVES_FIGURE)
    for problem in problems:
        print(f"left out: {problem.folder}: {problem.reason}")
    print(f"report: {options.out / PAGE}")


def parse_finetuning(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of `finetune report`.

    Raises:
        ValueError: A mistake in them.
    """
    parser = OneLineParser(
        "ponet-finetune report",
        allow_abbrev=False,
        description="Make the table of one or more grids: one HTML page, Markdown, CSV, JSON and "
        "a figure.",
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
    return parser.parse_args(list(arguments))


def run_finetuning_report(arguments: Sequence[str]) -> None:
    """`report GRID [GRID ...] [--output DIR] [--published true]`; prints the tables.

    Raises:
        ValueError: A mistake in the options, or results that must not stand in one table.
    """
    options = parse_finetuning(arguments)
    from training.reports import finetuning
    from training.reports.choice import make_results
    from training.reports.figures import save_dots
    from training.reports.files import results_csv, results_json
    from training.reports.trials import find_trials

    results = make_results(find_trials(options.folders), with_published=options.published)
    document, out = finetuning.make_document(results), options.output
    out = out or options.folders[0] / REPORT_FOLDER
    text = document.markdown()
    texts = {TABLE: text, CSV: results_csv(results), JSON: results_json(results)}
    _write(out, {**texts, PAGE: document.page()})
    save_dots(finetuning.panels(results), out / FIGURE, models=finetuning.published_models(results))
    print(text)
    print(f"written to {out}: {TABLE}, {CSV} (one line per trial), {JSON}, {FIGURE}, {PAGE}")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode("utf-8"))
