"""Tables of the page: results, differences from a baseline, settings, runs.

Invariant: a number never stands without how many seeds it comes from.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from training.reports.configurations import Configuration, Study
from training.reports.estimates import paired_difference
from training.reports.measures import Cell, Column, Measure
from training.reports.runs import Run
from training.reports.settings import NOT_STATED
from training.reports.svg import escape, swatch, tag
from training.run_config import CONFIG_FILE
from training.statistics import Estimate

NOTHING = "–"


def table(heads: Sequence[str], rows: Sequence[str], *, kind: str = "") -> str:
    """A table in a box of its own that scrolls sideways.

    Args:
        heads: Markup of the heading cells.
        rows: Markup of the rows.
        kind: CSS class.
    """
    top = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    attributes = {"class_": kind} if kind else {}
    whole = tag("table", top, tag("tbody", *rows), **attributes)
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="table")


def small(text: str, *, is_flag: bool = False) -> str:
    """A second line in a cell."""
    return tag("small", escape(text), **({"class_": "flag"} if is_flag else {}))


def name_of(number: int, configuration: Configuration) -> str:
    """Heading cell of a configuration's row."""
    seeds = list(dict.fromkeys(run.seed or "none" for run in configuration.runs))
    label = swatch(number) + breakable(configuration.label)
    named = ", ".join(seeds) if len(seeds) <= 5 else f"{len(seeds)} seeds"
    note = f"seed {named}" if len(seeds) == 1 else f"seeds {named}" if len(seeds) <= 5 else named
    return tag("th", label, small(note), scope="row")


def breakable(label: str) -> str:
    """Escaped text that may be broken after the signs inside settings."""
    text = escape(label)
    for sign in ("_", "=", "."):
        text = text.replace(sign, f"{sign}<wbr>")
    return text


def results_table(study: Study, columns: Sequence[Column]) -> str:
    """Rows are configurations, columns are measures."""
    heads = ["Configuration"]
    heads += [escape(c.measure.title) + small(_heading_note(c)) for c in columns]
    rows = []
    for number, configuration in enumerate(study.configurations):
        cells = [_cell(column.cells[number], column.measure, configuration) for column in columns]
        rows.append(tag("tr", name_of(number, configuration), *cells))
    return table(heads, rows)


def _heading_note(column: Column) -> str:
    measure = column.measure
    note = f"{measure.unit}, {measure.better} is better"
    return f"{note}; {levels_text(column)}" if column.levels else note


def levels_text(column: Column) -> str:
    """What guessing scores."""
    measure = column.measure
    ends = dict.fromkeys([measure.text(column.levels[0]), measure.text(column.levels[-1])])
    return f"{measure.baseline_title} {' to '.join(ends)}"


def _cell(cell: Cell, measure: Measure, configuration: Configuration) -> str:
    lines: list[str] = []
    if cell.estimate is None:
        lines.append(NOTHING)
    else:
        lines.append(tag("b", escape(measure.text(cell.estimate.mean))))
        lines.append(small(spread_text(cell.estimate, measure)))
    if cell.num_not_finite:
        lines.append(small(f"{cell.num_not_finite} diverged, not in the mean", is_flag=True))
    if cell.num_diverged:
        lines.append(small(f"{cell.num_diverged} diverged, in the mean", is_flag=True))
    if cell.num_missing and cell.estimate:
        lines.append(small(f"{cell.num_missing} without a value", is_flag=True))
    if not configuration.is_finished and cell.estimate:
        step = max(run.last_step for run in configuration.runs)
        lines.append(small(f"not finished, step {step:,}", is_flag=True))
    return tag("td", *lines, **({"class_": "best"} if cell.is_best else {}))


def spread_text(found: Estimate, measure: Measure) -> str:
    """Spread and number of seeds, in words that fit a cell."""
    if found.half_width is None:
        return "one seed: no spread"
    if found.n == 2:
        low, high = measure.text(found.minimum), measure.text(found.maximum)
        return f"{low} to {high}, n 2"
    return f"± {measure.text(found.half_width)}, n {found.n}"


def differences_table(study: Study, columns: Sequence[Column], baseline: Configuration) -> str:
    """Every configuration minus the baseline, seed by seed."""
    base = list(study.configurations).index(baseline)
    heads = [f"Minus {escape(baseline.label)}"]
    heads += [escape(c.measure.title) + small(c.measure.difference_unit) for c in columns]
    rows = []
    for number, configuration in enumerate(study.configurations):
        if number == base:
            continue
        cells = [_difference(study, column, number, base) for column in columns]
        rows.append(tag("tr", name_of(number, configuration), *cells))
    return table(heads, rows)


def _difference(study: Study, column: Column, number: int, base: int) -> str:
    measure = column.measure
    first, second = column.cells[number], column.cells[base]
    if not first.by_seed or not second.by_seed:
        return tag("td", NOTHING)
    if not column.comparable(number, base, study):
        guess = f"{measure.baseline_title} differs"
        return tag("td", NOTHING, small(f"another question: {guess}", is_flag=True))
    found = paired_difference(first.by_seed, second.by_seed)
    if found is None:
        return tag("td", NOTHING, small("no seed in common", is_flag=True))
    lines = [tag("b", escape(measure.text(found.mean, signed=True)))]
    if found.half_width is not None:
        lines.append(small(f"± {measure.text(found.half_width)}, n {found.n}"))
    lines.append(small(_verdict(found, measure)))
    if first.num_not_finite or second.num_not_finite:
        lines.append(small("diverged seeds left out", is_flag=True))
    elif first.num_diverged or second.num_diverged:
        lines.append(small("with diverged seeds", is_flag=True))
    return tag("td", *lines)


def _verdict(found: Estimate, measure: Measure) -> str:
    if found.verdict != "separable":
        return found.verdict
    is_better = (found.mean > 0) == (measure.better == "higher")
    return "better, separable" if is_better else "worse, separable"


def settings_table(study: Study) -> str:
    """What the configurations differ in, setting by setting."""
    heads = ["Configuration"]
    heads += [escape(study.names[key]) + small(key) for key in study.keys]
    rows = []
    for number, configuration in enumerate(study.configurations):
        cells = [tag("td", escape(configuration.factors.get(key, NOTHING))) for key in study.keys]
        rows.append(tag("tr", name_of(number, configuration), *cells))
    return table(heads, rows, kind="words")


def runs_table(study: Study, out: Path) -> str:
    """Every run with how far it came and where its configuration is.

    Args:
        study: All configurations.
        out: The folder of the page, which links start from.
    """
    heads = ["Run", "Configuration", "Seed", "Steps", "State", "Hours", "Configuration file"]
    rows = []
    for number, configuration in enumerate(study.configurations):
        for run in configuration.runs:
            planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
            cells = [
                swatch(number) + escape(configuration.label),
                escape(run.seed or "none"),
                f"{run.last_step:,}{planned}",
                escape(_state(run)),
                f"{run.elapsed_s / 3600:.2f}",
                config_link(run, out),
            ]
            name = tag("th", escape(run.name), *(small(r, is_flag=True) for r in run.remarks))
            rows.append(tag("tr", name, *(tag("td", cell) for cell in cells)))
    return table(heads, rows, kind="words tight")


def _state(run: Run) -> str:
    if run.diverged_at is not None:
        return f"diverged at step {run.diverged_at:,}"
    if not run.is_finished:
        return "not finished"
    return "finished" if run.planned_steps else "length not said in steps"


def config_link(run: Run, out: Path) -> str:
    """A link to the run's configuration, relative where the disks allow it."""
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        return "missing"
    try:
        target = quote(Path(os.path.relpath(path.resolve(), out.resolve())).as_posix())
    except ValueError:  # another drive
        target = path.resolve().as_uri()
    return tag("a", CONFIG_FILE, href=target)


def commands_of(run: Run) -> str:
    """How the run was started, as far as recorded, and how to repeat it."""
    lines = []
    for start in run.starts:
        command = start["command"]
        shown = command if isinstance(command, str) else shlex.join(map(str, command))
        versions = start.get("versions")
        listed = versions.items() if isinstance(versions, dict) else ()
        told = ", ".join(f"{name} {version}" for name, version in listed)
        told = f" ({told})" if told else ""
        lines.append(f"# {start.get('event', 'started')}{told}\n{shown}")
    if run.config_text:
        path = shlex.quote(str(run.folder / CONFIG_FILE))
        lines.append(
            "# repeat it under another name\n"
            f"python -m pretrain fit --config {path} --run.name NEW_NAME"
        )
    return "\n".join(lines) or NOT_STATED
