"""What runs spent until they first had the same validation loss.

Invariant: a loss is held against losses of the same text alone, and no mean is of those runs only
that reached it.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from training.metrics_file import last_value, series
from training.reports.measures import LOSS, Logged
from training.reports.page import NOTHING, Cell, Rows
from training.reports.runs import Run
from training.reports.study import Configuration, Study
from training.statistics import estimate

NOT_REACHED = "not reached"
Spent = Mapping[str, float]
"""By the names of `SPENT`, as far as a run says them."""
SPENT = {
    name: Logged(title=title, unit="", digits=0, metric=name, is_lower_better=True)
    for name, title in {"step": "Steps", "tokens": "Tokens", "elapsed_s": "Seconds"}.items()
}


def reached(
    curve: Sequence[Mapping[str, float]], loss: float, *, key: str, spent: Sequence[str]
) -> dict[str, float] | None:
    """Return what was spent when a loss was first reached, between two validations along a line.

    Args:
        curve: Validations in order, each with its loss and what was spent until then.
        loss: To be reached; None is returned where it is not.
        key: Name of the loss; validations where it is not finite are left out.
        spent: Names of what is returned.
    """
    before = None
    for after in (row for row in curve if math.isfinite(row[key])):
        if after[key] <= loss:
            before = before or after
            way = before[key] - after[key]
            part = (before[key] - loss) / way if way else 1.0
            return {name: before[name] + part * (after[name] - before[name]) for name in spent}
        before = after
    return None


def reached_by(run: Run, loss: float) -> dict[str, float] | None:
    """Return what a run spent until a validation loss; None: it did not reach it.

    Seconds are those of all its starts, validations among them. Tokens are samples times the mean
    length of an example of the first epoch.
    """
    curve = [row for row in run.rows if LOSS.metric in row and row["step"] is not None]
    names = [name for name in SPENT if curve and all(name in row for row in curve)]
    found = reached(curve, loss, key=LOSS.metric, spent=names)
    counts = [last_value(run.rows, f"data/{n}") for n in ("tokens_total", "coverage", "examples")]
    steps, samples = series(run.rows, "train/samples_seen")
    if found and samples and all(counts):
        total, coverage, examples = (float(count or 0) for count in counts)
        found["tokens"] = found["step"] * samples[-1] / steps[-1] * total * coverage / examples
    return found


def common_loss(runs: Sequence[Run], wanted: float = 0.0) -> float | None:
    """Return the validation loss at which runs are compared; None: there is none.

    Args:
        runs: If they were not scored on one text, they are not compared.
        wanted: 0: the worst last one of those that did not diverge, which all of these reach.
    """
    last = [LOSS.read(run) for run in runs if run.diverged_at is None]
    known = [value for value in last if value is not None]
    if not known or LOSS.unlike(runs):
        return None
    return wanted or max(known)


def reach_rows(study: Study, baseline: Configuration, loss: float) -> Rows:
    """Return the table of what the configurations of a study spent until a validation loss."""
    found = {r.name: reached_by(r, loss) for each in study.configurations for r in each.counted}
    names = _said(list(found.values()))
    rows: Rows = [["Configuration", *(SPENT[name].title for name in names)]]
    for number, each in enumerate(study.configurations):
        others = [] if each is baseline else baseline.counted
        cells = [_cell(name, each.counted, others, found) for name in names]
        rows.append([Cell(text=each.label, series=number), *cells])
    return rows


def compared_rows(runs: Sequence[Run], loss: float | None) -> Rows:
    """Return the table of what two runs spent until a validation loss; None: no rows."""
    if loss is None:
        return []
    found = [reached_by(run, loss) for run in runs]
    rows: Rows = [[f"until {LOSS.metric} {loss:.4f}", "A", "B", "B / A"]]
    for name in _said(found):
        values = [None if one is None else one.get(name) for one in found]
        texts = [NOTHING if value is None else SPENT[name].text(value) for value in values]
        texts = [NOT_REACHED if one is None else t for one, t in zip(found, texts, strict=True)]
        a, b = values
        rows.append([SPENT[name].title.lower(), *texts, f"{b / a:.3f}" if a and b else ""])
    return rows


def _said(found: Sequence[Spent | None]) -> list[str]:
    """Return the names that any run says; steps, if none reached the loss."""
    return [name for name in SPENT if any(name in (one or {}) for one in found)] or ["step"]


def _cell(
    name: str, runs: Sequence[Run], others: Sequence[Run], found: Mapping[str, Spent | None]
) -> Cell:
    """A mean with its spread, and which part of that of the others it is."""
    if missed := sum(found[run.name] is None for run in runs):
        return Cell(text=NOT_REACHED, notes=[f"by {missed} of {len(runs)}"])
    own, usual = _by_seed(name, runs, found), _by_seed(name, others, found)
    if not own:
        return Cell(text=NOTHING)
    mean, measure = estimate(own), SPENT[name]
    notes = [measure.spread_text(mean)]
    if usual and fmean(usual):
        notes.append(f"{mean.mean / fmean(usual):.2f} of the baseline's")
    diverged = sum(run.diverged_at is not None for run in runs)
    flags = [f"{diverged} diverged later"] if diverged else []
    return Cell(text=measure.text(mean.mean), notes=notes, flags=flags, tone="strong")


def _by_seed(name: str, runs: Sequence[Run], found: Mapping[str, Spent | None]) -> list[float]:
    """Return the mean of every seed; empty: not all runs say it."""
    seeds: dict[str, list[float]] = {}
    for run in runs:
        value = (found[run.name] or {}).get(name)
        if value is None:
            return []
        seeds.setdefault(run.seed or run.name, []).append(value)
    return [fmean(values) for values in seeds.values()]
