"""What a report says about fine-tuning: tables with what a sceptical reader asks of every number.

Invariant: no score stands without n, spread, split and how its setting was chosen; nothing is
computed here but counts.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from training.reports.choice import Average, Choice, Column, Entry, Results
from training.reports.document import (
    NOTHING,
    Block,
    Cell,
    Document,
    Figure,
    Figures,
    Lines,
    Section,
    Table,
    table,
)
from training.reports.figures import DotPanel, DotRow
from training.reports.notes import notes, provenance_text
from training.reports.trials import searched_names, setting_text
from training.statistics import Estimate

DIVERGED, AT_CONSTANT, NOT_ABOVE = "†", "▼", "▽"
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
INTRODUCTION = (
    "Scores in per cent (correlations x 100): mean over n seeds ± half the width of its 95 % "
    "Student t interval; one seed has none. Settings were chosen per task and encoder by mean "
    "validation score. Rows marked *published* are from papers: other sizes, other pretraining "
    "data, mostly one seed."
)
_CONSTANT = (
    "*best constant answer*: always the most frequent training label (or the mean score), or the "
    "positive class where that scores better (F1)"
)
_FIGURE_NOTE = (
    "A tick per seed, a mark at the mean (hollow: with diverged seeds), a line over the 95 % "
    "interval, a dashed line at the best constant answer where it is near; hollow black marks are "
    "published scores: {models}."
)
_OPTIONAL = ("parts", "min to max", "diverged")
"""Columns that are left out where they are empty."""
_SIGNED = {"matthews", "pearson", "spearman"}


def make_document(results: Results) -> Document:
    """The whole report."""
    sections = [Section(title="", blocks=[Lines(lines=[INTRODUCTION])])]
    for name, entries in results.families.items():
        sections.append(Section(title=name, blocks=[_main_table(entries, results, name)]))
    sections[-1] = Section(
        title=sections[-1].title, blocks=[*sections[-1].blocks, Lines(lines=[_legend(results)])]
    )
    parts: list[tuple[str, list[Block]]] = [
        ("Every seed", _figures(results)),
        ("Every number", [_detail_table(results)]),
        ("Encoders compared, seed by seed", _comparisons(results)),
        ("What to know", [Lines(lines=notes(results), form="list")]),
        ("Where the numbers come from", _provenance(results)),
    ]
    sections += [Section(title=title, blocks=blocks) for title, blocks in parts if blocks]
    return Document(title="Fine-tuning results", sections=sections)


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


def _main_table(entries: Sequence[Entry], results: Results, name: str) -> Table:
    columns = list({entry.column.key: entry.column for entry in entries}.values())
    found = {(entry.encoder, entry.column.key): entry for entry in entries}
    average = results.averages.get(name)
    most = {c.key: max(e.summary.n for e in entries if e.column.key == c.key) for c in columns}
    heads = [Cell(text=""), *(_head(column, most[column.key]) for column in columns)]
    rows = []
    for encoder in sorted({entry.encoder for entry in entries}):
        cells = [found.get((encoder, column.key)) for column in columns]
        texts = [_cell_text(cell, most) if cell else NOTHING for cell in cells]
        texts += [mean_text(average.summaries[encoder])] if average else []
        rows.append([Cell(text=text) for text in (encoder, *texts)])
    levels = [next(e.constant for e in entries if e.column.key == c.key) for c in columns]
    texts = [*map(percent, levels), *([NOTHING] if average else [])]
    rows.append([Cell(text="best constant answer", tone="soft"), *(Cell(text=t) for t in texts)])
    if results.with_published:
        rows += _published_rows(columns, average)
    if average:
        heads.append(Cell(text=f"mean of {len(average.columns)}"))
    return Table(heads=heads, rows=rows)


def _head(column: Column, n: int) -> Cell:
    return Cell(text=column.title, notes=[metric_text(column), f"{split_text(column)}, n = {n}"])


def _cell_text(entry: Entry, most: Mapping[tuple[str, str], int]) -> str:
    return mean_text(entry.summary, n=most[entry.column.key]) + marks(entry)


def _published_rows(columns: Sequence[Column], average: Average | None) -> list[list[Cell]]:
    rows = []
    for model in dict.fromkeys(model for column in columns for model in column.published):
        values = [column.published.get(model) for column in columns]
        texts = [NOTHING if value is None else f"{value:.4g}" for value in values]  # as printed
        if average:
            mean = average.published.get(model)
            texts.append(NOTHING if mean is None else f"{mean:.1f}")
        name = Cell(text=f"{model}, published", tone="soft")
        rows.append([name, *(Cell(text=text) for text in texts)])
    return rows


def split_text(column: Column) -> str:
    """What the split of a column is called; the title says which half of MNLI it is."""
    return column.split.replace("_mismatched", "")


def _legend(results: Results) -> str:
    signs = "".join(marks(entry) for entry in results.entries)
    lines = [
        (AT_CONSTANT, "not above the best constant answer"),
        (NOT_ABOVE, "above it, but its interval reaches down to it"),
        (DIVERGED, "some seeds diverged and count as they are, see below"),
    ]
    used = [f"{sign} {text}" for sign, text in lines if sign in signs]
    return "; ".join([*used, _CONSTANT]) + "."


def panels(results: Results) -> list[DotPanel]:
    """A panel for every column, with the encoders at the same places in each."""
    encoders = sorted({entry.encoder for entry in results.entries})
    columns = {entry.column.key: entry.column for entry in results.entries}
    found = {(entry.encoder, entry.column.key): entry for entry in results.entries}
    models, drawn = published_models(results), []
    for key, column in columns.items():
        entries = [entry for name in encoders if (entry := found.get((name, key)))]
        levels = [entry.constant for entry in entries if entry.constant is not None]
        panel = DotPanel(
            title=column.title,
            note=_panel_note(column, entries),
            rows={name: _dot_row(found.get((name, key))) for name in encoders},
            level=100 * max(levels) if levels else None,
            published=column.published if results.with_published else {},
            models=models,
            limits=(-100 if _SIGNED.intersection(column.metrics) else 0, 100),
        )
        drawn.append(panel)
    return drawn


def _panel_note(column: Column, entries: Sequence[Entry]) -> str:
    numbers = sorted({entry.summary.n for entry in entries})
    n = "–".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return f"{metric_text(column)}, {split_text(column)}, n = {n}"


def _dot_row(entry: Entry | None) -> DotRow | None:
    if entry is None:
        return None
    flag = f" ({entry.num_diverged} diverged)" if entry.num_diverged else ""
    return DotRow(
        values=[100 * score for score in entry.scores],
        summary=entry.summary.scaled(100),
        text=percent(entry.summary.mean) + flag,
        is_flagged=bool(entry.num_diverged),
    )


def published_models(results: Results) -> list[str]:
    """Models with a published score in any column."""
    models = dict.fromkeys(m for entry in results.entries for m in entry.column.published)
    return list(models) if results.with_published else []


def _figures(results: Results) -> list[Block]:
    figures = [Figure(title=panel.title, note="per cent", panel=panel) for panel in panels(results)]
    models = ", ".join(published_models(results)) or "none here"
    return [Figures(figures=figures, note=_FIGURE_NOTE.format(models=models))]


def _detail_table(results: Results) -> Table:
    searched = {task: searched_names(trials) for task, trials in results.tasks.items()}
    rows = [_detail_row(entry, searched[entry.column.task]) for entry in results.entries]
    used = [name for name in rows[0] if name not in _OPTIONAL or any(row[name] for row in rows)]
    return table(used, [[row[name] or NOTHING for name in used] for row in rows])


def _detail_row(entry: Entry, searched: Sequence[str]) -> dict[str, str]:
    summary, choice = entry.summary, entry.choice
    ends = f"{percent(summary.minimum)} to {percent(summary.maximum)}"
    return {
        "task": entry.column.title,
        "encoder": entry.encoder,
        "n": str(summary.n),
        "mean": percent(summary.mean),
        "95 % interval": interval_text(summary),
        "min to max": ends if summary.n > 1 else "",
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


def _comparisons(results: Results) -> list[Block]:
    """Pair of encoders by pair, so that one pair is read down all tasks."""
    heads = ["first − second", "task", "pairs", "difference", "95 % interval", "verdict"]
    rows = []
    for item in sorted(results.comparisons, key=lambda item: (item.first, item.second)):
        unpaired = f" (+{item.num_unpaired} unpaired)" if item.num_unpaired else ""
        texts = [
            f"{item.first} − {item.second}",
            item.column.title,
            f"{item.difference.n}{unpaired}",
            f"{100 * item.difference.mean:+.1f}",
            interval_text(item.difference),
        ]
        verdict = Cell(text=item.verdict, tone="strong" if item.verdict == "separable" else "plain")
        rows.append([*(Cell(text=text) for text in texts), verdict])
    heading = [Cell(text=text) for text in heads]
    return [Table(heads=heading, rows=rows, is_words=True)] if rows else []


def _provenance(results: Results) -> list[Block]:
    """Encoders, versions, devices and hours of the runs."""
    rows = []
    runs = sorted(results.found.runs, key=lambda run: run.encoder)
    for run in {run.encoder: run for run in runs}.values():
        encoder = run.result["encoder"]
        weights = "random, none loaded" if encoder["random_init"] else str(encoder["digest"])[:12]
        rows.append([run.encoder, encoder["kind"], f"{encoder['num_parameters']:,}", weights])
    heads = ["encoder", "kind", "parameters", "weights (sha256)"]
    return [table(heads, rows), Lines(lines=[provenance_text(results.found.runs)])]
