"""The numbers of a report on pretraining: results with spread, differences, curves, commands.

Invariant: a number never stands without how many seeds it comes from.
"""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data_prep.command import counted
from training.reports.curves import curve_panels, parallel_panel
from training.reports.figures import Column, Panel, dot_panels
from training.reports.measures import LOSS, SPEED, Logged
from training.reports.page import NOTHING, Cell, Form, Rows, listed, pairs, render
from training.reports.reach import common_loss, reach_rows, reached_by
from training.reports.runs import Run
from training.reports.study import NOT_STATED, Configuration, Study, measured
from training.run_config import CONFIG_FILE
from training.run_folder import versions
from training.statistics import Estimate, paired_difference

_SPACE = "\u00a0"
"""Between a number and its unit: never at the end of a line."""


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """Everything that is said of some runs: `problems` are folders without a usable one and why."""

    title: str
    study: Study
    baseline: Configuration
    problems: Mapping[str, str]
    out: Path
    loss: float = 0.0
    """Validation loss in nats until which it is said what was spent; 0: the worst last one."""

    @cached_property
    def reach_loss(self) -> float | None:
        """That loss; None: there is nothing to compare."""
        runs = self.study.runs
        if len(self.study.configurations) < 2 or not LOSS.is_one_question(runs):
            return None
        return common_loss([run for run in runs if run.is_finished] or runs, self.loss)

    @cached_property
    def columns(self) -> list[Column[Logged]]:
        """What the runs are measured by."""
        return measured(self.study)

    @cached_property
    def curves(self) -> list[Panel]:
        """The measures over training."""
        return curve_panels(self.study)

    def dots(self, columns: Sequence[Column[Logged]]) -> list[Panel]:
        """Every seed under some of those."""
        return dot_panels(columns, [found.label for found in self.study.configurations], least_n=3)

    def text(self, form: Form) -> str:
        """The report as a page or as Markdown, which has no figures."""
        return render(
            "pretraining.j2",
            form,
            report=self,
            study=self.study,
            leaders={c.measure.title: found for c in self.columns if (found := self._leader(c))},
            parallel=parallel_panel(self.study, [column.measure for column in self.columns]),
            runs=self._runs(),
            details=details_of,
            config_file=CONFIG_FILE,
            versions=pairs(versions()),
            listed=listed,
            counted=counted,
        )

    def _leader(self, column: Column[Logged]) -> dict[str, Any] | None:
        """What leads in a column, and what is next; None: nothing is judged there."""
        measure = column.measure
        finished = {found.label for found in self.study.configurations if found.is_finished}
        rated = [
            (cell.estimate, label)
            for label, cell in column.cells.items()
            if cell.estimate and label in finished
        ]
        if measure is SPEED or not rated or not measure.is_one_question(self.study.runs):
            return None
        rated.sort(key=lambda item: item[0].mean, reverse=not measure.is_lower_better)
        values = [f"{measure.text(found.mean)}{_SPACE}{measure.unit}" for found, _ in rated]
        best, label = rated[0]
        return {
            "label": label,
            "value": f"{values[0]} ({measure.spread_text(best)})",
            "next": f"{rated[1][1]} at {values[1]}" if len(rated) > 1 else "",
            "is_best": column.cells[label].is_best,
            "n": best.n,
        }

    def results(self) -> Rows:
        """Mean and spread of every configuration under every measure."""
        heads = [Cell(text=c.measure.title, notes=[c.note]) for c in self.columns]
        rows = self._rows(lambda found: [_result(column, found) for column in self.columns])
        return [["Configuration", *heads], *rows]

    def differences(self) -> Rows:
        """What the baseline leaves of them."""
        base, units = self.baseline, {"%": "points"}
        measures = [column.measure for column in self.columns]
        heads = [Cell(text=m.title, notes=[units.get(m.unit, m.unit)]) for m in measures]
        rows = self._rows(lambda found: [_difference(c, found, base) for c in self.columns])
        del rows[self.study.configurations.index(base)]
        return [[f"Minus {base.label}", *heads], *rows]

    def reach(self) -> Rows:
        """What every configuration spent until that loss."""
        if self.reach_loss is None:
            return []
        return reach_rows(self.study, self.baseline, self.reach_loss)

    def _reached(self) -> dict[str, Any]:
        """The same of every run, by its folder."""
        loss = self.reach_loss
        spent = (
            {} if loss is None else {str(r.folder): reached_by(r, loss) for r in self.study.runs}
        )
        return {"loss": loss, "spent": spent}

    def settings(self) -> Rows:
        """What the configurations differ in, setting by setting."""
        names = self.study.names
        heads = [Cell(text=name, notes=[key]) for key, name in names.items()]
        rows = self._rows(lambda found: [found.factors.get(key, NOTHING) for key in names])
        return [["Configuration", *heads], *rows]

    def _rows(self, cells: Callable[[Configuration], Sequence[Cell | str]]) -> Rows:
        return [
            [_name(number, found), *cells(found)]
            for number, found in enumerate(self.study.configurations)
        ]

    def _runs(self) -> Rows:
        """Every run with how far it came, and its configuration."""
        heads = ["Run", "Configuration", "Seed", "Steps", "State", "Hours", "Configuration file"]
        rows: Rows = [list(heads)]
        for number, found in enumerate(self.study.configurations):
            for run in found.runs:
                planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
                rows.append(
                    [
                        Cell(text=run.name, flags=run.remarks),
                        Cell(text=found.label, series=number),
                        run.seed or "none",
                        f"{run.last_step:,}{planned}",
                        _state(run),
                        f"{run.elapsed_s / 3600:.2f}",
                        _config_cell(run, self.out),
                    ]
                )
        return rows

    def csv_rows(self) -> list[dict[str, Any]]:
        """One line per run and measure."""
        return [
            {
                "configuration": found.label,
                "run": run.name,
                "seed": run.seed,
                "measure": column.measure.title,
                "unit": column.measure.unit,
                "value": value,
                "guess": column.measure.level(run),
                "counted": run in found.counted,
                "finished": run.is_finished,
                "diverged_at": run.diverged_at,
                "path": str(run.folder),
            }
            for found in self.study.configurations
            for run in found.runs
            for column in self.columns
            if (value := column.measure.read(run)) is not None
        ]

    def numbers(self) -> dict[str, Any]:
        """The results, in the units that the tables have."""
        results, differences = [], []
        for found in self.study.configurations:
            for column in self.columns:
                place = {"configuration": found.label, "measure": column.measure.title}
                cell = column.cells[found.label]
                results.append({**place, **asdict(cell), "unit": column.measure.unit})
                gap = _gap(column, found, self.baseline)
                if found is not self.baseline and isinstance(gap, Estimate):
                    verdict = {"difference": asdict(gap), "verdict": gap.verdict}
                    differences.append({**place, "minus": self.baseline.label, **verdict})
        names = self.study.names
        return {
            "configurations": {
                found.label: {
                    "settings": {names[key]: value for key, value in found.factors.items()},
                    "runs": [str(run.folder) for run in found.runs],
                }
                for found in self.study.configurations
            },
            "results": results,
            "differences": differences,
            "reached": self._reached(),
            "problems": dict(self.problems),
        }


def _name(number: int, configuration: Configuration) -> Cell:
    """Heading cell of a configuration's row."""
    seeds = list(dict.fromkeys(run.seed or "none" for run in configuration.runs))
    note = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}"
    note = note if len(seeds) <= 5 else f"{len(seeds)} seeds"
    return Cell(text=configuration.label, notes=[note], series=number)


def _result(column: Column[Logged], configuration: Configuration) -> Cell:
    found, measure = column.cells[configuration.label], column.measure
    flags = [
        f"{count} {text}"
        for count, text in (
            (found.num_not_finite, "diverged, not in the mean"),
            (found.num_diverged, "diverged, in the mean"),
            (found.num_missing if found.estimate else 0, "without a value"),
        )
        if count
    ]
    if found.estimate is None:
        return Cell(text=NOTHING, flags=flags)
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


def _gap(column: Column[Logged], found: Configuration, base: Configuration) -> Estimate | str:
    """The difference of two configurations, or in words why there is none."""
    measure, cells = column.measure, [column.cells[each.label] for each in (found, base)]
    if not all(cell.by_seed for cell in cells):
        return ""
    if reason := measure.unlike([*found.runs, *base.runs]):
        return f"another question: {reason}"
    return paired_difference(cells[0].by_seed, cells[1].by_seed) or "no seed in common"


def _difference(column: Column[Logged], found: Configuration, base: Configuration) -> Cell:
    measure, gap = column.measure, _gap(column, found, base)
    if isinstance(gap, str):
        return Cell(text=NOTHING, flags=[gap] if gap else [])
    cells, verdict, flags = [column.cells[each.label] for each in (found, base)], gap.verdict, []
    if verdict == "separable":
        is_worse = (gap.mean > 0) == measure.is_lower_better
        verdict = f"{'worse' if is_worse else 'better'}, separable"
    width = [f"± {measure.text(gap.half_width)}, n {gap.n}"] if gap.half_width is not None else []
    if any(cell.num_not_finite for cell in cells):
        flags.append("diverged seeds left out")
    elif any(cell.num_diverged for cell in cells):
        flags.append("with diverged seeds")
    text = measure.text(gap.mean, signed=True)
    return Cell(text=text, notes=[*width, verdict], flags=flags, tone="strong")


def _state(run: Run) -> str:
    if run.diverged_at is not None:
        return f"diverged at step {run.diverged_at:,}"
    if not run.is_finished:
        return "not finished"
    return "finished" if run.planned_steps else "length not said in steps"


def _config_cell(run: Run, out: Path) -> Cell:
    """A link to the run's configuration."""
    path = run.folder / CONFIG_FILE
    target = Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()
    return Cell(text=CONFIG_FILE, link=quote(target)) if path.is_file() else Cell(text="missing")


def details_of(run: Run) -> tuple[list[str], list[str]]:
    """What its bundle and its study say, and how it was started and can be repeated."""
    notes = [f"Bundle: {pairs(run.metadata)}"] if run.metadata else []
    if run.downstream:
        tasks = (_task_note(task, result) for task, result in run.downstream.items())
        notes.append(f"Fine-tuning: {'; '.join(tasks)}")
    lines = []
    for start in run.starts:
        command, made_with = start["command"], start.get("versions")
        shown = command if isinstance(command, str) else shlex.join(map(str, command))
        told = f" ({pairs(made_with)})" if made_with else ""
        lines.append(f"# {start.get('event', 'started')}{told}\n{shown}")
    if run.config_text:
        path = shlex.quote(str(run.folder / CONFIG_FILE))
        lines.append("# repeat it under another name")
        lines.append(f"python -m pretrain fit --config {path} --run.name NEW_NAME")
    return notes, [text for text in ("\n".join(lines) or NOT_STATED, run.config_text) if text]


def _task_note(task: str, result: Mapping[str, Any]) -> str:
    parts = [f"n {result['n']}"] if "n" in result else []
    parts += [str(result["split"])] if result.get("split") else []
    parts += [f"{result['num_diverged']} diverged"] if result.get("num_diverged") else []
    return f"{task} {100 * result['score']:.1f} ({', '.join(parts) or 'n not said'})"
