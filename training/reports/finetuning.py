"""The numbers of a report on fine-tuning, with what a sceptical reader asks of every one.

Invariant: no score stands without n, spread, split and how its setting was chosen; every note is
made from result.json alone and appears only where it applies.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from data_prep.command import counted
from training.reports.choice import (
    METRIC_TITLES,
    Entry,
    Task,
    average_of,
    chosen_settings,
    compare,
    encoder_names,
    task_columns,
    trained,
)
from training.reports.figures import Column, Panel, dot_panels, published_models
from training.reports.page import NOTHING, Cell, Form, Rows, pairs, render
from training.reports.score_curves import score_panels
from training.reports.tagging import all_metrics, mean_text, percent
from training.reports.trials import (
    Fit,
    FoundTrials,
    grouped,
    searched_names,
    setting_text,
    shared_text,
)
from training.reports.unequal import unequal_notes
from training.result import has_thresholds
from training.statistics import Estimate

_SIGNS = {
    "at or below": ("▼", "not above the best constant answer"),
    "above, not separable": ("▽", "above it, but its interval reaches down to it"),
    "above, no spread: not judged": ("△", "above it, but all seeds are equal: not judged"),
    "diverged": ("†", "some seeds diverged and count as they are, see below"),
    "baseline": ("○", "without an encoder: nothing in it is random, so one run says all"),
}
_OPTIONAL = ("parts", "min to max", "diverged")
"""Columns that are left out where they are empty."""
_MUCH_CUT = 0.005


@dataclass(frozen=True, kw_only=True)
class GridReport:
    """Everything that is said of some trials, with or without published scores beside them."""

    found: FoundTrials
    with_published: bool = True

    @cached_property
    def columns(self) -> list[Column[Task]]:
        """Tasks in the order of their families, with an entry for every encoder."""
        return task_columns(self.found.runs, with_published=self.with_published)

    @cached_property
    def entries(self) -> list[Entry]:
        """Every number."""
        cells = (cell for column in self.columns for cell in column.cells.values())
        return [cell for cell in cells if isinstance(cell, Entry)]

    @cached_property
    def families(self) -> dict[str, list[Entry]]:
        """Family of tasks -> its numbers."""
        return grouped(self.entries, lambda entry: entry.task.family)

    @cached_property
    def averages(self) -> dict[str, dict[str, Any]]:
        """Family of tasks -> average over its tasks, if there is one."""
        found = {family: average_of(entries) for family, entries in self.families.items()}
        return {family: average for family, average in found.items() if average}

    @property
    def tasks(self) -> list[list[Fit]]:
        """The fits of every task, or its baselines alone, in the order of the table."""
        by_task = grouped(self.found.runs, lambda run: run.task)
        by_task = {
            task: [run for run in runs if not run.is_baseline] or runs
            for task, runs in by_task.items()
        }
        return [by_task[name] for name in dict.fromkeys(e.task.name for e in self.entries)]

    def dots(self) -> list[Panel]:
        """A panel for every column, with the encoders at the same places in each."""
        return dot_panels(self.columns, encoder_names(self.entries))

    @cached_property
    def curves(self) -> list[Panel]:
        """Validation scores over training, of the tasks whose runs kept them."""
        return score_panels(self.columns, encoder_names(self.entries))

    def text(self, form: Form) -> str:
        """The report as a page or as Markdown, which has no figures."""
        comparisons = compare(self.entries)
        used = "".join(map(_marks, self.entries))
        return render(
            "finetuning.j2",
            form,
            report=self,
            trained=trained(self.entries),
            metrics=all_metrics(self.entries),
            baselines=_baselines(self.entries),
            comparisons=comparisons,
            tables={family: self._main_table(family) for family in self.families},
            signs=[(sign, text) for sign, text in _SIGNS.values() if sign in used],
            models=published_models(self.columns),
            details=self._details(),
            compared=_compared(comparisons),
            encoders=self._encoders(),
            shared=grouped((t for t in self.tasks if not t[0].is_baseline), shared_text),
            num_rows=_rows_scored(self.entries),
            unequal=unequal_notes(self.entries),
            data={trials[0].title: _data_notes(trials) for trials in self.tasks},
            tallied=_tallied,
        )

    def _main_table(self, family: str) -> Rows:
        entries, average = self.families[family], self.averages.get(family)
        encoders = encoder_names(entries)
        by_task = grouped(entries, lambda entry: entry.task.title).values()
        columns: Rows = [["", *encoders, Cell(text="best constant answer", tone="soft")]]
        models = list(dict.fromkeys(m for entry in entries for m in entry.task.published))
        columns[0] += [Cell(text=f"{model}, published", tone="soft") for model in models]
        for found in by_task:
            task, n = found[0].task, max(entry.estimate.n for entry in trained(found))
            texts = {
                e.encoder: mean_text(e.estimate, n=None if e.is_baseline else n) + _marks(e)
                for e in found
            }
            published = [task.published.get(model) for model in models]
            columns.append(
                [
                    Cell(text=task.title, notes=task.notes(n)),
                    *(texts.get(name, NOTHING) for name in encoders),
                    percent(found[0].numbers["constant_answer"]),
                    *(NOTHING if v is None else f"{v:.4g}" for v in published),  # as printed
                ]
            )
        if average:
            published = [average["published_per_cent"].get(model) for model in models]
            columns.append(
                [
                    *_mean_cells(average, encoders, {e.encoder for e in trained(entries)}),
                    NOTHING,
                    *(NOTHING if v is None else f"{v:.1f}" for v in published),
                ]
            )
        return list(map(list, zip(*columns, strict=True)))

    def _details(self) -> Rows:
        searched = {trials[0].task: searched_names(trials) for trials in self.tasks}
        rows = [_detail_row(entry, searched[entry.task.name]) for entry in self.entries]
        names = [name for name in rows[0] if name not in _OPTIONAL or any(r[name] for r in rows)]
        shown: Rows = [[row[name] or NOTHING for name in names] for row in rows]
        return [[*names], *shown]

    def _encoders(self) -> Rows:
        rows: Rows = [["encoder", "kind", "parameters", "weights (sha256)"]]
        fits = [run for run in self.found.runs if not run.is_baseline]
        for name, found in sorted(grouped(fits, lambda run: run.encoder).items()):
            encoder = found[-1].result["encoder"]
            sizes = sorted({run.result["encoder"]["num_parameters"] for run in found})
            size = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
            origin, _, digest = str(encoder["digest"]).rpartition(": ")
            weights = "random, none loaded" if encoder["random_init"] else origin or digest[:12]
            rows.append([name, encoder["kind"], size, weights])
        return rows if fits else []

    def csv_rows(self) -> list[dict[str, Any]]:
        """One line per trial and scored split, with every setting and metric."""
        chosen = {run.path for entry in self.entries for run in entry.runs}
        return [
            {
                "task": run.task,
                "encoder": run.encoder,
                "kind": result["encoder"]["kind"],
                "weights": result["encoder"]["digest"],
                **result["settings"],
                "num_folds": result["task_facts"]["num_folds"],
                "chosen": run.path in chosen,
                "diverged": result["diverged"],
                "best_epoch": result["best_epoch"],
                "split": split,
                "score": run.score(split),
                "constant_score": run.constant(split),
                "num_train_rows": run.split_facts("train").get("num_rows"),
                **result["evaluation"].get(split, {}),
                "elapsed_s": result["elapsed_s"],
                "device": result["device"],
                **{name: result["encoder"].get(name) for name in ("num_features", "cpu_s")},
                **{f"version_{name}": value for name, value in result["versions"].items()},
                "path": str(run.path),
            }
            for run, result in ((run, run.result) for run in self.found.runs)
            for split in result["evaluation"] or result["majority"]
        ]

    def numbers(self) -> dict[str, Any]:
        """The results; scores are fractions, published ones per cent."""
        return {
            "unit": "fractions; published_per_cent as printed in the papers",
            "results": [entry.numbers for entry in self.entries],
            "comparisons": compare(self.entries),
            "averages": self.averages,
            "num_trials": len(self.found.runs),
            "num_duplicates": len(self.found.duplicates),
            "failed": list(self.found.failed),
            "unfinished": list(self.found.unfinished),
        }


def _mean_cells(
    average: Mapping[str, Any], encoders: Sequence[str], trained_names: Container[str]
) -> list[Cell | str]:
    """Heading and means over tasks; how many seeds, as for a task, where any mean has several."""
    found: Mapping[str, Estimate] = average["encoders"]
    n = max(mean.n for name, mean in found.items() if name in trained_names)
    expected = {name: n if n > 1 and name in trained_names else None for name in found}
    head = Cell(text=f"mean of {len(average['columns'])}", notes=[f"n = {n}"] if n > 1 else ())
    return [
        head,
        *(mean_text(found[k], n=expected[k]) if k in found else NOTHING for k in encoders),
    ]


def _interval_text(summary: Estimate) -> str:
    """The ends of the interval, if there are any."""
    if summary.low is None:
        return NOTHING
    if summary.has_no_spread:
        return "all equal"
    return f"{percent(summary.low)} to {percent(summary.high)}"


def _marks(entry: Entry) -> str:
    """The signs behind a number of the main table."""
    names = ["diverged" if entry.num_diverged else "", entry.numbers["against_constant"]]
    names += ["baseline"] * entry.is_baseline
    signs = "".join(_SIGNS[name][0] for name in names if name in _SIGNS)
    return f" {signs}" if signs else ""


def _compared(comparisons: Sequence[dict[str, Any]]) -> Rows:
    """Pair of encoders by pair, so that one pair is read down all tasks."""
    heads = ["first − second", "task", "pairs", "difference", "95 % interval", "verdict"]
    rows: Rows = [list(heads)]
    for item in sorted(comparisons, key=lambda item: (item["first"], item["second"])):
        gap, num_unpaired = item["difference"], item["num_unpaired"]
        rows.append(
            [
                f"{item['first']} − {item['second']}",
                item["title"],
                f"{gap.n} (+{num_unpaired} unpaired)" if num_unpaired else f"{gap.n}",
                f"{100 * gap.mean:+.1f}",
                _interval_text(gap),
                Cell(text=gap.verdict, tone="strong" if gap.verdict == "separable" else "plain"),
            ]
        )
    return rows


def _detail_row(entry: Entry, searched: Sequence[str]) -> dict[str, str]:
    summary, task, numbers = entry.estimate, entry.task, entry.numbers
    parts = ""
    if len(task.metrics) > 1:
        means = {m: fmean(run.score(task.split, m) for run in entry.runs) for m in task.metrics}
        parts = ", ".join(f"{METRIC_TITLES.get(k, k)} {percent(v)}" for k, v in means.items())
    count = counted(numbers["num_settings"], "setting(s)")
    if numbers["num_incomplete_settings"]:
        count += f" ({numbers['num_incomplete_settings']} with fewer or other seeds, not eligible)"
    ends = f"{percent(summary.minimum)} to {percent(summary.maximum)}"
    return {
        "task": task.title,
        "encoder": entry.encoder,
        "n": str(summary.n),
        "mean": percent(summary.mean),
        "95 % interval": _interval_text(summary),
        "min to max": ends if summary.n > 1 else "",
        "parts": parts,
        "beside the constant answer": _beside_text(entry),
        "setting": "none" if entry.is_baseline else _chosen_text(entry, searched),
        "chosen from": _free_text(entry) if entry.is_baseline else count,
        "diverged": f"{entry.num_diverged} of {summary.n}" if entry.num_diverged else "",
    }


def _chosen_text(entry: Entry, searched: Sequence[str]) -> str:
    """The chosen setting; of folds that chose unlike ones, each with how often."""
    chosen = chosen_settings(entry.runs)
    num_folds = sum(count for _, count in chosen)
    often = [f" ({count} of {num_folds} folds)" if len(chosen) > 1 else "" for _, count in chosen]
    texts = [setting_text(setting, searched) for setting, _ in chosen]
    return "; ".join(map("".join, zip(texts, often, strict=True)))


def _free_text(entry: Entry) -> str:
    """What was chosen for a linear model."""
    is_cut = has_thresholds(entry.runs[0].result)
    return "thresholds on validation" if is_cut else "nothing was searched"


def _beside_text(entry: Entry) -> str:
    text, count = str(entry.numbers["against_constant"]), entry.numbers["num_at_constant"]
    for word in ("at or below", "above"):
        text = text.replace(word, f"{word} {percent(entry.numbers['constant_answer'])}")
    if 0 < count < entry.estimate.n:
        text += f" ({count} of {entry.estimate.n} seeds not above)"
    return text


def _baselines(entries: Sequence[Entry]) -> Rows:
    """What every linear model took: it has no weights to load and no hours to wait for."""
    rows: Rows = [["task", "model", "counted", "features", "weights", "CPU seconds"]]
    for entry in (entry for entry in entries if entry.is_baseline):
        models = [run.result["encoder"] for run in entry.runs]
        means = [fmean(m[name] for m in models) for name in ("num_features", "num_parameters")]
        seconds = f"{fmean(model['cpu_s'] for model in models):.1f}"
        seconds += f" (mean of {len(models)} folds)" if len(models) > 1 else ""
        features = ", ".join(dict.fromkeys(model["path"] for model in models))
        sizes = [f"{mean:,.0f}" if mean else NOTHING for mean in means]
        rows.append([entry.task.title, entry.encoder, features, *sizes, seconds])
    return rows if len(rows) > 1 else []


def _rows_scored(entries: Sequence[Entry]) -> dict[str, int]:
    """Return title -> fewest rows that a fit was scored on, or a baseline where there is no fit."""
    found: dict[str, int] = {}
    for title, those in grouped(entries, lambda entry: entry.task.title).items():
        numbers = [
            run.result["evaluation"][entry.task.split]["num_rows"]
            for entry in trained(those) or those
            for run in entry.runs
            if run.has_scores
        ]
        found |= {title: int(min(numbers))} if numbers else {}
    return found


def _data_notes(runs: Sequence[Fit]) -> dict[str, list[str]]:
    """What is wrong with a task's data, of the splits that were scored.

    Overlap is counted on whole splits, also where a subset is scored.
    """
    overlaps: dict[str, tuple[int, int]] = {}
    cuts: dict[str, float] = {}
    subsets: dict[str, set[tuple[int, int]]] = {"train": set(), "validation": set(), "test": set()}
    for run in runs:
        scored = run.result["evaluation"]
        for name, count in (run.result["data"].get("overlaps") or {}).items():
            split = name.split(" in ")[0]
            if count and split in scored:
                rows = int(run.split_facts(split)["num_rows_whole"])
                overlaps[name] = max(overlaps.get(name, (0, 0)), (int(count), rows))
        for split in scored:
            share = (run.split_facts(split).get("lengths") or {}).get("share_truncated") or 0.0
            cuts[split] = max(cuts.get(split, 0.0), share)
        for split, seen in subsets.items():
            facts = run.split_facts(split)
            if facts and facts["num_rows"] < facts["num_rows_whole"]:
                seen.add((facts["num_rows"], facts["num_rows_whole"]))
    return {
        "warnings": sorted({str(run.result["data"].get("warning") or "") for run in runs} - {""}),
        "sizes": sorted(
            {s for run in runs for s in run.result["data"].get("unlike_published", ())}
        ),
        "overlaps": [
            f"{count:,} of {rows:,} rows ({100 * count / rows:.1f} %) of {name}"
            for name, (count, rows) in overlaps.items()
        ],
        "subsets": [
            f"{split} is a fixed subset, {rows:,} of {whole:,} rows"
            for split, seen in subsets.items()
            for rows, whole in sorted(seen)
        ],
        "cuts": [f"{100 * s:.0f} % of {split}" for split, s in cuts.items() if s >= _MUCH_CUT],
    }


def _tallied(values: Iterable[Any]) -> str:
    found = Counter(pairs(value) if isinstance(value, dict) else str(value) for value in values)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({count})" for value, count in found.most_common())
