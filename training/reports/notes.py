"""What stands under fine-tuning tables: how numbers were chosen, what is wrong with the data.

Invariant: every line is made from result.json alone; a line appears only where it applies.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.reports.choice import MISMATCHED, Comparison, Entry, Results, grouped
from training.reports.trials import Trial, shared_text

_SHOWN = 5
_FEW_ROWS = 1000
_MUCH_CUT = 0.005


def notes(results: Results) -> list[str]:
    """The lines of the section, the most important first."""
    return [
        *_changed_notes(results.found.changed),
        *_split_notes(results.entries),
        *_setting_notes(results),
        *_f1_notes(results.found.runs),
        *_seed_notes(results.entries),
        *_comparison_notes(results.comparisons),
        *_missing_notes(results),
        *_diverged_notes(results.entries),
        *_data_notes(results.found.runs),
        *_average_notes(results),
        *_published_notes(results),
    ]


def _changed_notes(changed: Sequence[str]) -> list[str]:
    shown = "; ".join(changed[:_SHOWN]) + ("; …" if len(changed) > _SHOWN else "")
    return [f"Not of the files as they are now: {shown} since."] if changed else []


def _split_notes(entries: Sequence[Entry]) -> list[str]:
    validated = _titles(entry for entry in entries if entry.column.split.startswith("validation"))
    tested = _titles(entry for entry in entries if entry.column.split.startswith("test"))
    most = max(entry.choice.num_settings for entry in entries)
    lines = []
    if validated:
        searched = f"the setting, from up to {most}, and " if most > 1 else ""
        lines.append(
            f"Reported on validation, as no labelled test split was scored: {validated}. "
            f"The same rows chose {searched}the epoch, so these scores flatter."
        )
    if tested:
        lines.append(
            f"Reported on test: {tested}. Epoch and setting were chosen on validation; each run "
            "scored the test split once."
        )
    by_task = grouped(entries, lambda entry: entry.column.task)
    if any(len({e.choice.num_settings for e in found}) > 1 for found in by_task.values()):
        lines.append(
            "Encoders were searched over different numbers of settings (column `chosen from`): "
            "more settings mean a higher best one by chance alone."
        )
    return lines


def _setting_notes(results: Results) -> list[str]:
    trials = results.tasks.values()
    titles = grouped(trials, shared_text)
    lines = []
    for text, found in titles.items():
        names = ", ".join(runs[0].title for runs in found)
        whose = f" of {names}" if len(titles) > 1 else ""
        lines.append(f"Every fit{whose}: {text}.")
    assumed = {k: v for run in results.found.runs for k, v in run.assumed.items()}
    if assumed:
        text = ", ".join(f"{name} {value}" for name, value in assumed.items())
        lines.append(f"Older results do not say {text}; they are taken to have what the others do.")
    return lines


def _f1_notes(runs: Sequence[Trial]) -> list[str]:
    labels = {
        run.title: run.result["data"]["f1_label"]
        for run in runs
        if "f1" in run.result["score"] and run.result["data"].get("f1_label")
    }
    return [f"{title}: F1 is that of the label {label!r}." for title, label in labels.items()]


def _seed_notes(entries: Sequence[Entry]) -> list[str]:
    ns = {entry.summary.n for entry in entries}
    lines = [
        "The intervals cover what changes with the seed of fine-tuning (new layers, order, "
        "dropout), not another pretraining run or another sample of evaluation rows: a difference "
        "is one between these weights, on these rows."
    ]
    rows = {entry.column.title: n for entry in entries if (n := _fewest_rows(entry))}
    if rows:
        parts = ", ".join(
            f"{title} {n:,}" + (f" (one row: {100 / n:.1f} points)" if n < _FEW_ROWS else "")
            for title, n in rows.items()
        )
        lines.append(f"Rows scored: {parts}.")
    if 1 in ns:
        lines.append("n = 1: one seed says nothing about spread; no interval, no verdict.")
    if 2 in ns:
        lines.append(
            "n = 2: the interval is 12.7 standard errors wide on either side; get more seeds."
        )
    folds = _titles(entry for entry in entries if entry.column.num_folds)
    if folds:
        lines.append(
            f"{folds}: every seed is another fold of a cross-validation; folds share training "
            "rows, so intervals are widened (Nadeau and Bengio 2003)."
        )
    return lines


def _fewest_rows(entry: Entry) -> int:
    split = entry.column.split
    counts = [
        run.result["evaluation"][split]["num_rows"] for run in entry.choice.runs if run.has_scores
    ]
    return int(min(counts, default=0))


def _comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    judged = [item for item in comparisons if item.verdict in ("separable", "not separable")]
    if not judged:
        return []
    separable = sum(item.verdict == "separable" for item in judged)
    return [
        f"Of {len(judged)} comparisons {separable} are separable at 95 %, not corrected for their "
        "number: where nothing differs, about 1 in 20 would be by chance. Each encoder stands with "
        "its own chosen setting."
    ]


def _missing_notes(results: Results) -> list[str]:
    found, lines = results.found, []
    for what, folders in (("failed", found.failed), ("did not end", found.unfinished)):
        if folders:
            shown = ", ".join(f"`{folder}`" for folder in folders[:_SHOWN])
            rest = f" and {len(folders) - _SHOWN} more" if len(folders) > _SHOWN else ""
            lines.append(f"Missing here, as they {what}, {len(folders)} trial(s): {shown}{rest}.")
    if found.num_duplicates:
        lines.append(
            f"Left out, as the same trial (task, encoder, settings and seed) stands in an earlier "
            f"folder: {found.num_duplicates} result(s)."
        )
    everything = {entry.column.title for entry in results.entries}
    for encoder, entries in grouped(results.entries, lambda entry: entry.encoder).items():
        if lacking := everything - {entry.column.title for entry in entries}:
            lines.append(f"{encoder} has no result for {', '.join(sorted(lacking))}.")
    uneven = _titles(
        e
        for e in results.entries
        if e.summary.n < max(o.summary.n for o in results.entries if o.column == e.column)
    )
    if uneven:
        lines.append(f"Encoders have unequal numbers of seeds for {uneven}.")
    return lines


def _diverged_notes(entries: Sequence[Entry]) -> list[str]:
    lines = []
    for entry in entries:
        if entry.column.split.endswith(MISMATCHED) or not entry.choice.num_diverged_trials:
            continue
        unscored = sum(not run.has_scores for run in entry.choice.runs)
        text = (
            f"{entry.column.title}, {entry.encoder}: {entry.choice.num_diverged_trials} of "
            f"{entry.choice.num_trials} trials diverged, {entry.num_diverged} of them in the "
            "chosen setting"
        )
        if entry.num_diverged:
            text += "; they count with their best epoch before that"
        if unscored:
            text += f", {unscored} without any as the majority answer"
        lines.append(text + ".")
    return lines


def _data_notes(runs: Sequence[Trial]) -> list[str]:
    lines: dict[str, None] = {}
    for found in grouped(runs, lambda run: run.task).values():
        title = found[0].title
        warnings = {str(run.result["data"].get("warning") or "") for run in found} - {""}
        lines |= dict.fromkeys(f"{title}: {text}." for text in sorted(warnings))
        lines |= dict.fromkeys(_overlap_notes(title, found))
        lines |= dict.fromkeys(_subset_notes(title, found))
        lines |= dict.fromkeys(_cut_notes(title, found))
    return list(lines)


def _overlap_notes(title: str, runs: Sequence[Trial]) -> list[str]:
    """Rows of scored splits that stand in another split too; of splits not scored no word.

    Overlap is counted on whole splits, also where a subset is scored.
    """
    most: dict[str, tuple[int, int]] = {}
    for run in runs:
        for name, count in (run.result["data"].get("overlaps") or {}).items():
            split = name.split(" in ")[0]
            if count and split in run.result["evaluation"]:
                rows = int(run.split_facts(split)["num_rows_whole"])
                most[name] = max(most.get(name, (0, 0)), (int(count), rows))
    parts = [
        f"{count:,} of {rows:,} rows ({100 * count / rows:.1f} %) of {name}"
        for name, (count, rows) in most.items()
    ]
    return [f"{title}: OVERLAP between splits, {', '.join(parts)}."] if parts else []


def _cut_notes(title: str, runs: Sequence[Trial]) -> list[str]:
    shares: dict[str, float] = {}
    for run in runs:
        for split in run.result["evaluation"]:
            shares[split] = max(shares.get(split, 0.0), run.share_truncated(split) or 0.0)
    parts = [f"{100 * s:.0f} % of {name}" for name, s in shares.items() if s >= _MUCH_CUT]
    return [f"{title}: texts cut at the length above, {', '.join(parts)}."] if parts else []


def _subset_notes(title: str, runs: Sequence[Trial]) -> list[str]:
    lines = []
    for split in ("train", "validation", "test"):
        facts = [run.split_facts(split) for run in runs]
        used = {
            (f["num_rows"], f["num_rows_whole"])
            for f in facts
            if f and f["num_rows"] < f["num_rows_whole"]
        }
        for rows, whole in sorted(used):
            lines.append(f"{title}: {split} is a fixed subset, {rows:,} of {whole:,} rows.")
    return lines


def _average_notes(results: Results) -> list[str]:
    lines = []
    for average in results.averages.values():
        titles = ", ".join(column.title for column in average.columns)
        spread = any(summary.n > 1 for summary in average.summaries.values())
        how = "; ± over seeds, where all tasks have the same" if spread else ""
        lines.append(f"Mean of {len(average.columns)}: {titles}{how}.")
    return lines


def _published_notes(results: Results) -> list[str]:
    if not results.with_published:
        return []
    lines = []
    sourced = [entry for entry in results.entries if entry.column.published_source]
    for text, entries in grouped(sourced, lambda entry: entry.column.published_source).items():
        titles = dict.fromkeys(entry.choice.runs[0].title for entry in entries)
        lines.append(f"Published, {', '.join(titles)}: {text.rstrip('.')}.")
    silent = dict.fromkeys(run.title for run in results.found.runs if not run.facts)
    if silent:
        lines.append(
            f"Older results of {', '.join(silent)} do not carry what papers published and which "
            "table they belong to; run a fit again to have it."
        )
    if any(entry.column.published for entry in results.entries):
        lines.append(
            "Published models differ from ours in size, pretraining data, steps and hardware, and "
            "were chosen by other rules: they show where the task stands, not who is better."
        )
    return lines


def provenance_text(runs: Sequence[Trial]) -> str:
    """Hours, versions and devices of the trials."""
    hours = sum(float(run.result["elapsed_s"]) for run in runs) / 3600
    facts = [
        f"runs: {len(runs)}, {hours:.1f} hours in all",
        f"versions: {_counted(_version_text(run.result['versions']) for run in runs)}",
        f"devices: {_counted(str(run.result['device']) for run in runs)}",
        f"precision: {_counted(str(run.result['settings']['precision']) for run in runs)}",
        f"segments: {_counted(str(run.result['settings']['segments']) for run in runs)}",
    ]
    return "; ".join(facts) + "."


def _version_text(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def _counted(values: Iterable[str]) -> str:
    found = Counter(values)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({count})" for value, count in found.most_common())


def _titles(entries: Iterable[Entry]) -> str:
    return ", ".join(dict.fromkeys(entry.column.title for entry in entries))
