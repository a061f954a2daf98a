"""Every score of texts with several labels side by side: of words, of sentences, of the text.

Papers differ in what they call an exact match, so all of them are shown.

Invariant: a published score stands in the column of the metric that it is held to be, on its own
split, and every row says of which epochs, seeds and machine it is. A seed that diverged before it
was scored counts as the majority answer, as in the main table, or is said to be left out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from data_prep.command import counted
from training.reports.choice import METRIC_TITLES, Entry, encoder_names, published_on
from training.reports.page import NOTHING, Cell, Rows
from training.reports.trials import Fit, grouped
from training.statistics import Estimate, estimate

SHOWN = ("slot_em", "frame_em", "span_f1", "token_accuracy", "intent_accuracy")
_HEADINGS = {
    **{name: METRIC_TITLES[name] for name in SHOWN},
    "frame_em_new": "frame EM, new texts",
    "border_f1": METRIC_TITLES["border_f1"],
    "pk": "Pk",
    "windowdiff": "WindowDiff",
    "accuracy": "accuracy",
    "exact_match": METRIC_TITLES["exact_match"],
    **{name: METRIC_TITLES[name] for name in ("micro_f1", "macro_f1", "f1")},
    "precision": "precision",
    "recall": "recall",
}
_KINDS = ("tagging", "sentences", "multilabel")


def all_metrics(entries: Sequence[Entry]) -> dict[str, Rows]:
    """Task and split -> a table of every score, a row for each encoder and for each label."""
    tagged = [entry for entry in entries if entry.runs[0].result["kind"] in _KINDS]
    found: dict[str, Rows] = {}
    for some in grouped(tagged, lambda entry: entry.task.name).values():
        evaluations = [run.result["evaluation"] for entry in some for run in entry.runs]
        for split in dict.fromkeys(split for scores in evaluations for split in scores):
            found[f"{some[0].task.title}, {split}"] = _table(some, split)
    return found


def _table(entries: Sequence[Entry], split: str) -> Rows:
    by_name = {entry.encoder: _scored(entry, split) for entry in entries}
    evaluations = [run.result["evaluation"] for runs in by_name.values() for run in runs]
    known = [scores[split] for scores in evaluations if split in scores]
    names = {name.partition("/")[0] for values in known for name in values}
    metrics = [name for name in _HEADINGS if name in names]
    parts = {name.partition("/")[2] for values in known for name in values}
    rows: Rows = [["", *(_HEADINGS[m] for m in metrics)]]
    for name in encoder_names(entries):
        for part in sorted(parts) if by_name[name] else ():
            rows.append(_row(name, by_name[name], split, metrics, part))
    facts = entries[0].runs[0].result["task_facts"]
    if facts and entries[0].task.with_published:
        column = facts["published_metric"] or "+".join(entries[0].task.metrics)
        for model, value in published_on(facts, split, base=entries[0].task.split).items():
            cells = [f"{value:.4g}" if metric == column else NOTHING for metric in metrics]
            rows.append([Cell(text=f"{model}, published", tone="soft"), *cells])
    return rows


def _scored(entry: Entry, split: str) -> list[Fit]:
    return [r for r in entry.runs if split in r.result["evaluation"] or not r.has_scores]


def _row(
    name: str, runs: Sequence[Fit], split: str, metrics: Sequence[str], part: str
) -> list[Cell | str]:
    """An encoder's means, of all rows or of one language, and what they are of."""
    names = [f"{metric}/{part}" if part else metric for metric in metrics]
    values = [
        [v for run in runs if (v := run.known_score(split, metric)) is not None] for metric in names
    ]
    cells = [mean_text(estimate(some), n=len(runs)) if some else NOTHING for some in values]
    seeds = _distinct(run.repetition[0] for run in runs)
    epochs = _distinct(run.result["settings"]["epochs"] for run in runs)
    sizes = _distinct(f"{run.result['encoder']['num_parameters']:,}" for run in runs)
    machines = _distinct(run.result["device"] for run in runs)
    notes = [
        f"{sizes} parameters, {machines}",
        f"{epochs} epoch{'s' * (epochs != '1')}; n = {len(runs)}, seed"
        + "s" * (len(runs) > 1)
        + f" {seeds}",
    ]
    if runs[0].is_baseline:
        notes[1] = "one run, without a seed"
    notes = [] if part else notes
    if num_diverged := sum(not run.has_scores for run in runs):
        is_counted = all(len(some) in (0, len(runs)) for some in values)
        how = "as the majority answer" if is_counted else "left out where n is less"
        notes.append(f"{counted(num_diverged, 'diverged seed(s)')} {how}")
    return [Cell(text=f"{name}, {part}" if part else name, notes=notes), *cells]


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def percent(value: float | None) -> str:
    """A fraction as per cent."""
    return NOTHING if value is None else f"{100 * value:.1f}"


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
