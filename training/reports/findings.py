"""What the report says first: the study in a few sentences, and what is wrong with it."""

from collections.abc import Sequence

from training.reports.configurations import Study
from training.reports.measures import SPEED, Column
from training.reports.runs import Problem

SPACE = "\u00a0"
"""Between a number and its unit: never at the end of a line."""


def findings(study: Study, columns: Sequence[Column]) -> list[str]:
    """One sentence on the runs, and one per measure on what leads in it."""
    runs = study.runs
    seeds = {run.seed for run in runs if run.seed}
    lines = [
        f"{_counted(len(runs), 'run')} in {_counted(len(study.configurations), 'configuration')}, "
        f"{_counted(len(seeds), 'seed')}, "
        f"{sum(run.elapsed_s for run in runs) / 3600:,.1f} hours of training and validation."
    ]
    return lines + [line for column in columns if (line := _leader(study, column))]


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _leader(study: Study, column: Column) -> str:
    measure = column.measure
    if measure is SPEED or not column.is_comparable:
        return ""
    rated = [
        (cell.estimate.mean, number)
        for number, cell in enumerate(column.cells)
        if cell.estimate and study.configurations[number].is_finished
    ]
    if not rated:
        return ""
    rated.sort(reverse=measure.better == "higher")
    mean, number = rated[0]
    cell = column.cells[number]
    assert cell.estimate is not None
    value = f"{measure.text(mean)}{SPACE}{measure.unit} ({measure.spread_text(cell.estimate)})"
    if len(rated) == 1:
        return f"{measure.title}: {value}."
    label = study.configurations[number].label
    if cell.is_best:
        return f"{measure.title}: {label} leads, {value}, separably better than all others."
    second = study.configurations[rated[1][1]].label
    doubt = "one seed does not" if cell.estimate.n == 1 else "the seeds do not"
    other = f"{second} at {measure.text(rated[1][0])}{SPACE}{measure.unit}"
    return (
        f"{measure.title}: {label} has the best mean, {value}, next is {other}; {doubt} show that "
        "it beats all others."
    )


def warnings(study: Study, columns: Sequence[Column], problems: Sequence[Problem]) -> list[str]:
    """Everything that a reader must know before believing a number."""
    lines = []
    if problems:
        lines.append(
            f"{_counted(len(problems), 'folder')} could not be used; see “Missing or broken”."
        )
    unfinished = [run.name for run in study.runs if not run.is_finished]
    if unfinished:
        lines.append(
            f"Not finished: {_listed(unfinished)}. Finished runs of the same configuration stand "
            "in the table without them; where there is none, the newest values stand there, marked."
        )
    diverged = [run.name for run in study.runs if run.diverged_at is not None]
    if diverged:
        lines.append(
            f"Diverged (a loss was not finite): {_listed(diverged)}. A mean leaves out what is not "
            "finite, counts the rest, and says so."
        )
    lines += _mixtures(study)
    lines += [_other_question(column) for column in columns if not column.is_comparable]
    if all(len(configuration.counted) == 1 for configuration in study.configurations):
        lines.append("One seed each: nothing here says how much of a difference is chance.")
    return lines


def _mixtures(study: Study) -> list[str]:
    lines = []
    for configuration in study.configurations:
        if configuration.mixed:
            lines.append(
                f"“{configuration.label}” mixes runs that differ in {_listed(configuration.mixed)}."
            )
        if configuration.repeated_seeds:
            lines.append(
                f"“{configuration.label}” has several runs of seed "
                f"{_listed(configuration.repeated_seeds)}; their mean counts as one seed."
            )
        digests = {run.metadata.get("data_digest") for run in configuration.runs} - {None}
        if len(digests) > 1:
            lines.append(f"The runs of “{configuration.label}” were trained on different data.")
    return lines


def _other_question(column: Column) -> str:
    measure = column.measure
    low, high = measure.text(column.levels[0]), measure.text(column.levels[-1])
    return (
        f"{measure.title} is not the same question in all configurations: {measure.baseline_title} "
        f"scores {low} to {high} {measure.unit}. Those that differ in this are not compared."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
