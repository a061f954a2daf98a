"""What a report says about pretraining runs: results with spread, differences, curves, commands.

Invariant: a number never stands without how many seeds it comes from.
"""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from training.reports.configurations import Configuration, Study
from training.reports.curves import curve_panels
from training.reports.document import (
    NOTHING,
    Block,
    Cell,
    Details,
    Document,
    Figure,
    Figures,
    Lines,
    Section,
    Table,
    table,
)
from training.reports.figures import DotPanel, DotRow
from training.reports.findings import findings, warnings
from training.reports.measures import SPEED, Column, Measure
from training.reports.measures import Cell as Result
from training.reports.parallel import make_parallel
from training.reports.runs import Problem, Run
from training.reports.settings import NOT_STATED
from training.run_config import CONFIG_FILE, METRICS_FILE
from training.run_folder import versions
from training.statistics import Estimate, paired_difference

METHOD = (
    "A configuration is a set of runs that differ only in their seed. A cell is the mean of its "
    "seeds at their last validation; ± is half of the 95 % Student t interval of that mean. Two "
    "seeds are shown as they are, one seed has no spread.",
    "Differences are paired: the same seed of both configurations is subtracted first. A "
    "difference is called separable where its 95 % interval leaves out zero. The intervals are "
    "not corrected for the number of comparisons: of twenty true zeros, one looks separable.",
    "A star marks a configuration that is separably better than every other one in its column.",
    "Validation always masks the same 15 % of the same examples, whatever training masked.",
    "Downstream scores are per cent (100 x correlation where the metric is one) of each run's "
    "study.json, there the mean over fine-tuning seeds; n in the table counts pretraining seeds.",
    "Training speed is the median over the logged windows of training; it compares only where all "
    "runs had the same machine to themselves.",
)
_CURVE_NOTE = (
    "Marks: validation, mean over seeds; the band runs from the least to the greatest seed. Thin "
    "lines: training. A dotted line that ends in a cross is a run that diverged or has not ended."
)
_DOT_NOTE = (
    "A tick per seed, a mark at the mean, a line over the 95 % interval (from three seeds on), a "
    "dashed line at what guessing scores where it is near."
)


_CONFIGURATION = Cell(text="Configuration")


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything the report is made from."""

    title: str
    """Heading."""
    study: Study
    """Runs in their configurations."""
    columns: Sequence[Column]
    """What they are measured by."""
    baseline: Configuration
    """What differences are taken from."""
    problems: Sequence[Problem]
    """Folders without a usable run."""
    out: Path
    """Folder of the report."""


def make_document(content: Content) -> Document:
    """The whole report."""
    study, columns = content.study, content.columns
    opening = [
        Lines(lines=findings(study, columns), form="list"),
        Lines(lines=warnings(study, columns, content.problems), form="warning"),
    ]
    labels = [configuration.label for configuration in study.configurations]
    sections: list[tuple[str, list[Block]]] = [
        ("", [block for block in opening if block.lines]),
        ("Results", _results(study, columns)),
        ("Difference from the baseline", _differences(content, columns)),
        ("Learning curves", _curves(study, labels)),
        ("Every seed", _dots(study, [c for c in columns if c.measure is not SPEED])),
        ("Configuration against result", _parallel(study, columns)),
        ("Throughput", _dots(study, [c for c in columns if c.measure is SPEED])),
        ("What differs", [_settings_table(study)] if study.keys else []),
        ("Runs, commands and configurations", _runs(content)),
        ("Missing or broken", _problems(content.problems)),
        ("How to read this, and versions", [_method()]),
    ]
    return Document(
        title=content.title,
        sections=[Section(title=title, blocks=blocks) for title, blocks in sections if blocks],
    )


def _name(number: int, configuration: Configuration) -> Cell:
    """Heading cell of a configuration's row."""
    seeds = list(dict.fromkeys(run.seed or "none" for run in configuration.runs))
    note = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}"
    if len(seeds) > 5:
        note = f"{len(seeds)} seeds"
    return Cell(text=configuration.label, notes=[note], series=number)


def _by_configuration(
    study: Study,
    heads: Sequence[Cell],
    cells: Callable[[int], Sequence[Cell]],
    *,
    without: int | None = None,
    is_words: bool = False,
) -> Table:
    """A table with a row for every configuration.

    Args:
        study: All configurations.
        heads: Of all columns.
        cells: Number of a configuration -> its cells but the first.
        without: Number of the one that has no row.
        is_words: See `Table`.
    """
    rows = [
        [_name(number, configuration), *cells(number)]
        for number, configuration in enumerate(study.configurations)
        if number != without
    ]
    return Table(heads=heads, rows=rows, is_words=is_words)


def _results(study: Study, columns: Sequence[Column]) -> list[Block]:
    def cells(number: int) -> list[Cell]:
        found = study.configurations[number]
        return [_result(column.cells[number], column.measure, found) for column in columns]

    heads = [Cell(text=column.measure.title, notes=[_heading_note(column)]) for column in columns]
    notes = []
    if study.unchanged:
        meant = ", ".join(f"{name}={value}" for name, value in study.unchanged.items())
        notes.append(f"What the name of a configuration leaves unsaid: {meant}.")
    notes.append(
        "± is half of a 95 % Student t interval over n seeds; a star (★) marks what is separably "
        "better than everything else in its column."
    )
    return [_by_configuration(study, [_CONFIGURATION, *heads], cells), Lines(lines=notes)]


def _heading_note(column: Column) -> str:
    note = f"{column.measure.unit}, {column.measure.better} is better"
    return f"{note}; {column.levels_text}" if column.levels else note


def _result(found: Result, measure: Measure, configuration: Configuration) -> Cell:
    flags = []
    if found.num_not_finite:
        flags.append(f"{found.num_not_finite} diverged, not in the mean")
    if found.num_diverged:
        flags.append(f"{found.num_diverged} diverged, in the mean")
    if found.estimate is None:
        return Cell(text=NOTHING, flags=flags)
    if found.num_missing:
        flags.append(f"{found.num_missing} without a value")
    if not configuration.is_finished:
        step = max(run.last_step for run in configuration.runs)
        flags.append(f"not finished, step {step:,}")
    return Cell(
        text=measure.text(found.estimate.mean),
        notes=[measure.spread_text(found.estimate)],
        flags=flags,
        tone="strong",
        is_best=found.is_best,
    )


def _differences(content: Content, columns: Sequence[Column]) -> list[Block]:
    study = content.study
    if len(study.configurations) < 2:
        return []
    base = list(study.configurations).index(content.baseline)

    def cells(number: int) -> list[Cell]:
        return [_difference(study, column, number, base) for column in columns]

    heads = [Cell(text=f"Minus {content.baseline.label}")]
    heads += [Cell(text=c.measure.title, notes=[c.measure.difference_unit]) for c in columns]
    note = "Seed by seed, then the mean; ± is half of a 95 % interval over n pairs of seeds."
    return [_by_configuration(study, heads, cells, without=base), Lines(lines=[note])]


def _difference(study: Study, column: Column, number: int, base: int) -> Cell:
    measure = column.measure
    first, second = column.cells[number], column.cells[base]
    if not first.by_seed or not second.by_seed:
        return Cell(text=NOTHING)
    if not column.comparable(number, base, study):
        flag = f"another question: {measure.baseline_title} differs"
        return Cell(text=NOTHING, flags=[flag])
    found = paired_difference(first.by_seed, second.by_seed)
    if found is None:
        return Cell(text=NOTHING, flags=["no seed in common"])
    notes, flags = [], []
    if found.half_width is not None:
        notes.append(f"± {measure.text(found.half_width)}, n {found.n}")
    notes.append(_verdict(found, measure))
    if first.num_not_finite or second.num_not_finite:
        flags.append("diverged seeds left out")
    elif first.num_diverged or second.num_diverged:
        flags.append("with diverged seeds")
    text = measure.text(found.mean, signed=True)
    return Cell(text=text, notes=notes, flags=flags, tone="strong")


def _verdict(found: Estimate, measure: Measure) -> str:
    if found.verdict != "separable":
        return found.verdict
    is_better = (found.mean > 0) == (measure.better == "higher")
    return "better, separable" if is_better else "worse, separable"


def _curves(study: Study, labels: Sequence[str]) -> list[Block]:
    figures = [
        Figure(title=panel.title, note=f"{panel.unit}, over optimiser steps", panel=panel)
        for panel in curve_panels(study)
    ]
    return [Figures(figures=figures, key=labels, note=_CURVE_NOTE)] if figures else []


def dot_panels(study: Study, columns: Sequence[Column]) -> list[DotPanel]:
    """Every seed of every configuration, a panel for every measure that has a value."""
    labels = [configuration.label for configuration in study.configurations]
    return [
        DotPanel(
            title=column.measure.title,
            note=column.measure.unit,
            rows={
                label: _dot_row(cell, column.measure)
                for label, cell in zip(labels, column.cells, strict=True)
            },
            level=column.levels[-1] if column.levels and column.is_comparable else None,
            from_zero=column.measure is SPEED,
            least_n=3,
        )
        for column in columns
        if any(cell.estimate for cell in column.cells)
    ]


def _dot_row(cell: Result, measure: Measure) -> DotRow | None:
    if cell.estimate is None:
        return None
    return DotRow(
        values=list(cell.by_seed.values()),
        summary=cell.estimate,
        text=measure.text(cell.estimate.mean),
        is_flagged=bool(cell.num_not_finite or cell.num_diverged),
    )


def _dots(study: Study, columns: Sequence[Column]) -> list[Block]:
    notes = {column.measure.title: _heading_note(column) for column in columns}
    figures = [
        Figure(title=panel.title, note=notes[panel.title], panel=panel)
        for panel in dot_panels(study, columns)
    ]
    return [Figures(figures=figures, note=_DOT_NOTE)] if figures else []


def _parallel(study: Study, columns: Sequence[Column]) -> list[Block]:
    panel = make_parallel(study, columns)
    if panel is None:
        return []
    note = (
        "one line per run, from its settings on the left to its results on the right; better is "
        "higher on every result axis"
    )
    title = "Settings and results of every run"
    return [Figures(figures=[Figure(title=title, note=note, panel=panel, is_wide=True)])]


def _settings_table(study: Study) -> Table:
    """What the configurations differ in, setting by setting."""

    def cells(number: int) -> list[Cell]:
        factors = study.configurations[number].factors
        return [Cell(text=factors.get(key, NOTHING)) for key in study.keys]

    heads = [Cell(text=study.names[key], notes=[key]) for key in study.keys]
    return _by_configuration(study, [_CONFIGURATION, *heads], cells, is_words=True)


def _runs(content: Content) -> list[Block]:
    """Every run with how far it came, how it was started, and its configuration."""
    heads = ["Run", "Configuration", "Seed", "Steps", "State", "Hours", "Configuration file"]
    rows, details = [], []
    for number, configuration in enumerate(content.study.configurations):
        for run in configuration.runs:
            planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
            rows.append(
                [
                    Cell(text=run.name, flags=run.remarks),
                    Cell(text=configuration.label, series=number),
                    Cell(text=run.seed or "none"),
                    Cell(text=f"{run.last_step:,}{planned}"),
                    Cell(text=_state(run)),
                    Cell(text=f"{run.elapsed_s / 3600:.2f}"),
                    _config_cell(run, content.out),
                ]
            )
            details.append(_details(run))
    return [Table(heads=[Cell(text=h) for h in heads], rows=rows, is_words=True), *details]


def _details(run: Run) -> Details:
    notes = []
    if run.metadata:
        facts = ", ".join(f"{name} {value}" for name, value in run.metadata.items())
        notes.append(f"Bundle: {facts}")
    if run.downstream_notes:
        notes.append(f"Fine-tuning: {'; '.join(run.downstream_notes)}")
    texts = [commands_of(run), *([run.config_text] if run.config_text else [])]
    return Details(title=f"{run.name}: command and {CONFIG_FILE}", notes=notes, texts=texts)


def _state(run: Run) -> str:
    if run.diverged_at is not None:
        return f"diverged at step {run.diverged_at:,}"
    if not run.is_finished:
        return "not finished"
    return "finished" if run.planned_steps else "length not said in steps"


def _config_cell(run: Run, out: Path) -> Cell:
    """A link to the run's configuration, relative where the disks allow it."""
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        return Cell(text="missing")
    try:
        target = quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
    except ValueError:  # another drive
        target = path.resolve().as_uri()
    return Cell(text=CONFIG_FILE, link=target)


def commands_of(run: Run) -> str:
    """How the run was started, as far as recorded, and how to repeat it."""
    lines = []
    for start in run.starts:
        command, found = start["command"], start.get("versions")
        shown = command if isinstance(command, str) else shlex.join(map(str, command))
        told = _listed_versions(found) if isinstance(found, dict) and found else ""
        lines.append(f"# {start.get('event', 'started')}{f' ({told})' if told else ''}\n{shown}")
    if run.config_text:
        path = shlex.quote(str(run.folder / CONFIG_FILE))
        lines.append(
            "# repeat it under another name\n"
            f"python -m pretrain fit --config {path} --run.name NEW_NAME"
        )
    return "\n".join(lines) or NOT_STATED


def _listed_versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _problems(problems: Sequence[Problem]) -> list[Block]:
    if not problems:
        return []
    heads = ["Folder", "Why it is not in the tables"]
    return [table(heads, [[problem.folder, problem.reason] for problem in problems])]


def _method() -> Lines:
    told = (
        f"Made from {METRICS_FILE} and {CONFIG_FILE} of every run. This report: "
        f"{_listed_versions(versions())}. The versions a run was made with stand beside its "
        "command where it recorded them."
    )
    return Lines(lines=[*METHOD, told], form="list")
