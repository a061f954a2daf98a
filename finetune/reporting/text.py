"""A table of results as Markdown, with what a sceptical reader asks about every number.

Invariant: no score stands without n, spread, split and how its setting was chosen; nothing is
computed here but counts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from finetune.reporting.choice import Average, Choice, Column, Comparison, Entry
from finetune.reporting.model import Report, family
from finetune.reporting.notes import notes, provenance
from finetune.reporting.runs import Run
from finetune.reporting.settings import searched_names, setting_text
from training.statistics import Estimate

DIVERGED, AT_CONSTANT, NOT_ABOVE = "†", "▼", "▽"
NOTHING = "–"
METRIC_TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
}
_OPTIONAL = ("parts", "min to max", "diverged")
"""Columns that are left out where they are empty."""


def markdown(report: Report) -> str:
    """The whole report."""
    parts = ["# Fine-tuning results", *_introduction()]
    for name in dict.fromkeys(family(entry.column) for entry in report.entries):
        entries = [entry for entry in report.entries if family(entry.column) == name]
        parts += [f"## {name}", _main_table(entries, report, name)]
    parts.append(_legend(report))
    parts += ["## Every number", _detail_table(report)]
    if report.comparisons:
        parts += ["## Encoders compared, seed by seed", _comparison_table(report.comparisons)]
    parts += ["## What to know", "\n".join(f"- {line}" for line in notes(report))]
    parts += ["## Where the numbers come from", provenance(report.found.runs)]
    return "\n\n".join(parts) + "\n"


def _introduction() -> list[str]:
    return [
        "Scores in per cent (correlations x 100): mean over n seeds ± half the width of its 95 % "
        "Student t interval; one seed has none. Settings were chosen per task and encoder by mean "
        "validation score. Rows marked *published* are from papers: other sizes, other pretraining "
        "data, mostly one seed."
    ]


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def mean_text(summary: Estimate, *, n: int | None = None) -> str:
    """`45.4 ± 1.2`; equal values have no width to speak of.

    Args:
        summary: The values.
        n: How many the reader expects from the header; another number is said. None: say nothing.
    """
    text = percent(summary.mean)
    if summary.has_no_spread:
        text += " (all equal)"
    elif summary.half_width is not None:
        text += f" ± {percent(summary.half_width)}"
    return text if n in (None, summary.n) else f"{text} (n = {summary.n})"


def interval_text(summary: Estimate) -> str:
    """The ends of the interval, if there are any."""
    if summary.low is None or summary.high is None:
        return NOTHING
    if summary.has_no_spread:
        return "all equal"
    return f"{percent(summary.low)} to {percent(summary.high)}"


def marks(entry: Entry) -> str:
    """The signs behind a number of the main table."""
    signs = DIVERGED if entry.num_diverged else ""
    if entry.against_constant == "at or below":
        signs += AT_CONSTANT
    elif entry.against_constant == "above, not separable":
        signs += NOT_ABOVE
    return f" {signs}" if signs else ""


def metric_text(column: Column) -> str:
    """The metrics of a column in words."""
    return " + ".join(METRIC_TITLES.get(name, name) for name in column.metrics)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _main_table(entries: Sequence[Entry], report: Report, name: str) -> str:
    columns = list({entry.column.key: entry.column for entry in entries}.values())
    table = {(entry.encoder, entry.column.key): entry for entry in entries}
    average = report.averages.get(name)
    most = {c.key: max(e.summary.n for e in entries if e.column.key == c.key) for c in columns}
    header = ["", *(_header_text(column, most[column.key]) for column in columns)]
    rows = []
    for encoder in sorted({entry.encoder for entry in entries}):
        cells = [table.get((encoder, column.key)) for column in columns]
        row = [_cell_text(cell, most) if cell else NOTHING for cell in cells]
        mean = [mean_text(average.summaries[encoder])] if average else []
        rows.append([encoder, *row, *mean])
    levels = [next(e.constant for e in entries if e.column.key == c.key) for c in columns]
    blank = [NOTHING] if average else []
    rows.append(["*best constant answer*", *(percent(level) for level in levels), *blank])
    if report.with_published:
        rows += _published_rows(columns, average)
    if average:
        header.append(f"mean of {len(average.columns)}")
    return _table(header, rows)


def _header_text(column: Column, n: int) -> str:
    return f"{column.title}<br>{metric_text(column)}<br>{split_text(column)}, n = {n}"


def _cell_text(entry: Entry, most: Mapping[tuple[str, str], int]) -> str:
    return mean_text(entry.summary, n=most[entry.column.key]) + marks(entry)


def _published_rows(columns: Sequence[Column], average: Average | None) -> list[list[str]]:
    models = dict.fromkeys(model for column in columns for model in column.published)
    rows = []
    for model in models:
        values = [column.published.get(model) for column in columns]
        cells = [NOTHING if value is None else f"{value:.4g}" for value in values]  # as printed
        if average:
            mean = average.published.get(model)
            cells.append(NOTHING if mean is None else f"{mean:.1f}")
        rows.append([f"*{model}, published*", *cells])
    return rows


def split_text(column: Column) -> str:
    """What the split of a column is called; the title says which half of MNLI it is."""
    return column.split.replace("_mismatched", "")


def _legend(report: Report) -> str:
    signs = "".join(marks(entry) for entry in report.entries)
    lines = [
        (AT_CONSTANT, "not above the best constant answer"),
        (NOT_ABOVE, "above it, but its interval reaches down to it"),
        (DIVERGED, "some seeds diverged and count as they are, see below"),
    ]
    used = [f"{sign} {text}" for sign, text in lines if sign in signs]
    used.append(
        "*best constant answer*: always the most frequent training label (or the mean score), or "
        "the positive class where that scores better (F1)"
    )
    return "; ".join(used) + "."


def _detail_table(report: Report) -> str:
    by_task: dict[str, list[Run]] = defaultdict(list)
    for run in report.found.runs:
        by_task[run.task].append(run)
    searched = {task: searched_names(runs) for task, runs in by_task.items()}
    rows = [_detail_row(entry, searched[entry.column.task]) for entry in report.entries]
    used = [name for name in rows[0] if name not in _OPTIONAL or any(r[name] for r in rows)]
    return _table(used, [[row[name] or NOTHING for name in used] for row in rows])


def _detail_row(entry: Entry, searched: Sequence[str]) -> dict[str, str]:
    summary, choice = entry.summary, entry.choice
    return {
        "task": entry.column.title,
        "encoder": entry.encoder,
        "n": str(summary.n),
        "mean": percent(summary.mean),
        "95 % interval": interval_text(summary),
        "min to max": f"{percent(summary.minimum)} to {percent(summary.maximum)}"
        if summary.n > 1
        else "",
        "parts": _parts_text(entry),
        "beside the constant answer": _beside_text(entry),
        "setting": setting_text(choice.setting, searched),
        "chosen from": _searched_text(choice),
        "diverged": f"{entry.num_diverged} of {summary.n}" if entry.num_diverged else "",
    }


def _beside_text(entry: Entry) -> str:
    if entry.constant is None:
        return entry.against_constant
    text = entry.against_constant
    for word in ("at or below", "above"):
        text = text.replace(word, f"{word} {percent(entry.constant)}")
    if 0 < entry.num_at_constant < entry.summary.n:
        text += f" ({entry.num_at_constant} of {entry.summary.n} seeds not above)"
    return text


def _parts_text(entry: Entry) -> str:
    """Mean of every metric of the score, where it has several."""
    column = entry.column
    if len(column.metrics) < 2:
        return ""
    means = {
        name: fmean(run.score(column.split, name) for run in entry.choice.runs)
        for name in column.metrics
    }
    return ", ".join(f"{METRIC_TITLES.get(k, k)} {percent(v)}" for k, v in means.items())


def _searched_text(choice: Choice) -> str:
    text = "1 setting" if choice.num_settings == 1 else f"{choice.num_settings} settings"
    if choice.num_incomplete:
        text += f" ({choice.num_incomplete} with fewer seeds, not eligible)"
    return text


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Pair of encoders by pair, so that one pair is read down all tasks."""
    header = ["first − second", "task", "pairs", "difference", "95 % interval", "verdict"]
    rows = []
    for item in sorted(comparisons, key=lambda item: (item.first, item.second)):
        unpaired = f" (+{item.num_unpaired} unpaired)" if item.num_unpaired else ""
        is_separable = item.verdict == "separable"
        rows.append(
            [
                f"{item.first} − {item.second}",
                item.column.title,
                f"{item.difference.n}{unpaired}",
                f"{100 * item.difference.mean:+.1f}",
                interval_text(item.difference),
                f"**{item.verdict}**" if is_separable else item.verdict,
            ]
        )
    return _table(header, rows)
