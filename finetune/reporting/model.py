"""Everything a report says, as one value that text, files and the figure are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.reporting.choice import (
    Average,
    Column,
    Comparison,
    Entry,
    average_of,
    compare,
    entries_of,
)
from finetune.reporting.runs import FoundRuns
from finetune.tasks.registry import GLUE, TASKS


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a report says."""

    found: FoundRuns
    """The trials."""
    entries: Sequence[Entry]
    """Every number."""
    comparisons: Sequence[Comparison]
    """Every two encoders."""
    averages: Mapping[str, Average]
    """Family of tasks -> average over its columns."""
    with_published: bool
    """Whether published scores stand beside ours."""


def family(column: Column) -> str:
    """The table a column stands in."""
    if column.task in GLUE:
        return "GLUE"
    return "Long documents" if column.task in TASKS else "Own data"


def make_report(found: FoundRuns, *, with_published: bool) -> Report:
    """Choose, summarise and compare the trials that were found."""
    entries = entries_of(found.runs)
    averages = {}
    for name in dict.fromkeys(family(entry.column) for entry in entries):
        average = average_of([entry for entry in entries if family(entry.column) == name])
        if average is not None:
            averages[name] = average
    return Report(
        found=found,
        entries=entries,
        comparisons=compare(entries),
        averages=averages,
        with_published=with_published,
    )
