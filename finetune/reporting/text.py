"""A table of results as Markdown, with what a sceptical reader asks about every number.

Invariant: no score stands without n, spread, split and how its setting was chosen; nothing is
computed here but counts.
"""

from collections.abc import Sequence
from statistics import fmean

from finetune.reporting.choice import Average, Choice, Column, Comparison, Entry
from finetune.reporting.model import Report, family
from finetune.reporting.notes import notes, provenance
from finetune.reporting.statistics import Estimate

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
}


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
        "Scores are per cent (100 x correlation where the metric is one): mean over seeds ± half "
        "of the 95 % Student t interval, and the number of seeds in brackets. One seed has no "
        "interval. Learning rate, batch and all other settings were chosen per task and encoder by "
        "the mean validation score over seeds. Rows marked *published* are from papers: other "
        "sizes, other pretraining data, mostly one seed."
    ]


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as per cent."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def mean_text(summary: Estimate) -> str:
    """`45.4 ± 1.2 (3)`; equal values have no width to speak of."""
    if summary.has_no_spread:
        return f"{percent(summary.mean)} ({summary.n}, all equal)"
    spread = "" if summary.half_width is None else f" ± {percent(summary.half_width)}"
    return f"{percent(summary.mean)}{spread} ({summary.n})"


def _average_text(summary: Estimate) -> str:
    """Without n where the columns share no seeds: then it is a mean of means."""
    return mean_text(summary) if summary.n > 1 else percent(summary.mean)


def interval_text(summary: Estimate) -> str:
    """The ends of the interval, or why there are none."""
    if summary.low is None or summary.high is None:
        return "one seed: no spread"
    if summary.has_no_spread:
        return "all equal: no spread"
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
    header = ["", *(f"{c.title}<br>{metric_text(c)}<br>*{_split_text(c)}*" for c in columns)]
    rows = []
    for encoder in sorted({entry.encoder for entry in entries}):
        cells = [table.get((encoder, column.key)) for column in columns]
        row = [encoder, *(mean_text(e.summary) + marks(e) if e else NOTHING for e in cells)]
        rows.append([*row, *([_average_text(average.summaries[encoder])] if average else [])])
    levels = [next(e.constant for e in entries if e.column.key == c.key) for c in columns]
    blank = [NOTHING] if average else []
    rows.append(["*best constant answer*", *(percent(level) for level in levels), *blank])
    if report.with_published:
        rows += _published_rows(columns, average)
    if average:
        header.append(f"mean of {len(average.columns)}")
    return _table(header, rows)


def _published_rows(columns: Sequence[Column], average: Average | None) -> list[list[str]]:
    models = dict.fromkeys(model for column in columns for model in column.published)
    rows = []
    for model in models:
        values = [column.published.get(model) for column in columns]
        cells = [NOTHING if value is None else f"{value:.2f}" for value in values]
        if average:
            mean = average.published.get(model)
            cells.append(NOTHING if mean is None else f"{mean:.2f}")
        rows.append([f"*{model}, published*", *cells])
    return rows


def _split_text(column: Column) -> str:
    return column.split.replace("_mismatched", "")


def _legend(report: Report) -> str:
    signs = "".join(marks(entry) for entry in report.entries)
    lines = [
        (AT_CONSTANT, "not above the best constant answer"),
        (NOT_ABOVE, "above it, but its interval reaches down to it"),
        (DIVERGED, "some seeds diverged; they count with their best epoch before that"),
    ]
    used = [f"{sign} {text}" for sign, text in lines if sign in signs]
    used.append(
        "best constant answer: always the most frequent training label (or the mean score), or "
        "always the positive class where the metric is F1 and that scores better"
    )
    return "; ".join(used) + "."


def _detail_table(report: Report) -> str:
    header = [
        *("task", "encoder", "split", "rows", "metric", "n", "mean", "95 % interval", "min to max"),
        *(
            "parts",
            "constant answer",
            "beside it",
            "setting",
            "settings searched",
            "diverged",
            "cut",
        ),
    ]
    if report.with_published:
        header.append("*published*")
    rows = []
    for entry in report.entries:
        row = _detail_row(entry)
        if report.with_published:
            values = entry.column.published.items()
            row.append(", ".join(f"{model} {value:.2f}" for model, value in values) or NOTHING)
        rows.append(row)
    return _table(header, rows)


def _detail_row(entry: Entry) -> list[str]:
    column, summary, choice = entry.column, entry.summary, entry.choice
    cut = [run.share_truncated(column.split) for run in choice.runs]
    known = [share for share in cut if share is not None]
    at_constant = entry.num_at_constant
    beside = entry.against_constant
    if 0 < at_constant < summary.n:
        beside += f" ({at_constant} of {summary.n} seeds not above)"
    return [
        column.title,
        entry.encoder,
        _split_text(column),
        rows_text(entry),
        metric_text(column),
        str(summary.n),
        percent(summary.mean, 2),
        interval_text(summary),
        f"{percent(summary.minimum)} to {percent(summary.maximum)}" if summary.n > 1 else NOTHING,
        _parts_text(entry),
        percent(entry.constant),
        beside,
        setting_text(choice),
        _searched_text(choice),
        f"{entry.num_diverged} of {summary.n}" if entry.num_diverged else "0",
        f"{max(known):.0%}" if known else NOTHING,
    ]


def rows_text(entry: Entry) -> str:
    """Rows that were scored; a range where folds differ."""
    counts = sorted(
        {
            int(run.result["evaluation"][entry.column.split]["num_rows"])
            for run in entry.choice.runs
            if run.has_scores
        }
    )
    if not counts:
        return NOTHING
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _parts_text(entry: Entry) -> str:
    """Mean of every metric of the score, where it has several."""
    column = entry.column
    if len(column.metrics) < 2:
        return NOTHING
    means = {
        name: fmean(run.score(column.split, name) for run in entry.choice.runs)
        for name in column.metrics
    }
    return ", ".join(f"{METRIC_TITLES.get(k, k)} {percent(v)}" for k, v in means.items())


def setting_text(choice: Choice) -> str:
    """The setting in a few words."""
    setting = choice.setting
    text = f"lr {setting['lr']:g}, batch {setting['batch_size']}, {_epochs(setting['epochs'])}"
    if setting["warmup_share"]:
        text += f", warm-up {setting['warmup_share']:.0%}"
    return f"{text}, length {setting['max_len']}"


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"


def _searched_text(choice: Choice) -> str:
    text = str(choice.num_settings)
    if choice.num_incomplete:
        text += f" ({choice.num_incomplete} with fewer seeds, not eligible)"
    return text


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    header = ["task", "first", "second", "pairs", "first − second", "95 % interval", "verdict"]
    rows = []
    for item in comparisons:
        unpaired = f" (+{item.num_unpaired} unpaired)" if item.num_unpaired else ""
        interval = interval_text(item.difference) if item.difference.n > 1 else "one pair: none"
        rows.append(
            [
                item.column.title,
                item.first,
                item.second,
                f"{item.difference.n}{unpaired}",
                f"{100 * item.difference.mean:+.1f}",
                interval,
                item.verdict,
            ]
        )
    return _table(header, rows)
