"""The numbers of a report on fine-tuning, with what a sceptical reader asks of every one.

Invariant: no score stands without n, spread, split and how its setting was chosen; every note is
made from result.json alone and appears only where it applies.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from training.reports.choice import METRIC_TITLES, Entry, Task, average_of, compare, task_columns
from training.reports.figures import Column, Panel, dot_panels, published_models
from training.reports.page import NOTHING, Cell, Form, Rows, render
from training.reports.trials import (
    PAIRED_BY,
    FoundTrials,
    Trial,
    grouped,
    searched_names,
    setting_text,
    shared_text,
)
from training.statistics import Estimate

_SIGNS = {
    "at or below": ("▼", "not above the best constant answer"),
    "above, not separable": ("▽", "above it, but its interval reaches down to it"),
    "diverged": ("†", "some seeds diverged and count as they are, see below"),
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
    def tasks(self) -> list[list[Trial]]:
        """The trials of every task, in the order of the table."""
        by_task = grouped(self.found.runs, lambda run: run.task)
        return [by_task[name] for name in dict.fromkeys(e.task.name for e in self.entries)]

    def dots(self) -> list[Panel]:
        """A panel for every column, with the encoders at the same places in each."""
        return dot_panels(self.columns, sorted({entry.encoder for entry in self.entries}))

    def text(self, form: Form) -> str:
        """The report as a page or as Markdown, which has no figures."""
        used = "".join(map(_marks, self.entries))
        comparisons = compare(self.entries)
        return render(
            "finetuning.j2",
            form,
            **self._notes(),
            found=self.found,
            entries=self.entries,
            comparisons=comparisons,
            averages=self.averages,
            tables={family: self._main_table(family) for family in self.families},
            signs=[(sign, text) for sign, text in _SIGNS.values() if sign in used],
            dots=self.dots() if form == "html" else [],
            models=published_models(self.columns),
            details=self._details(),
            compared=_compared(comparisons),
            encoders=self._encoders(),
        )

    def _main_table(self, family: str) -> Rows:
        entries, average = self.families[family], self.averages.get(family)
        encoders = sorted({entry.encoder for entry in entries})
        by_task = grouped(entries, lambda entry: entry.task.title).values()
        columns: Rows = [["", *encoders, Cell(text="best constant answer", tone="soft")]]
        models = list(dict.fromkeys(m for entry in entries for m in entry.task.published))
        columns[0] += [Cell(text=f"{model}, published", tone="soft") for model in models]
        for found in by_task:
            task, n = found[0].task, max(entry.summary.n for entry in found)
            texts = {e.encoder: _mean_text(e.summary, n=n) + _marks(e) for e in found}
            published = [task.published.get(model) for model in models]
            columns.append(
                [
                    Cell(text=task.title, notes=task.notes(n)),
                    *(texts.get(name, NOTHING) for name in encoders),
                    _percent(found[0].constant),
                    *(NOTHING if v is None else f"{v:.4g}" for v in published),  # as printed
                ]
            )
        if average:
            published = [average["published_per_cent"].get(model) for model in models]
            columns.append(
                [
                    f"mean of {len(average['columns'])}",
                    *(_mean_text(average["encoders"][name]) for name in encoders),
                    NOTHING,
                    *(NOTHING if v is None else f"{v:.1f}" for v in published),
                ]
            )
        return list(map(list, zip(*columns, strict=True)))

    def _details(self) -> Rows:
        searched = {trials[0].task: searched_names(trials) for trials in self.tasks}
        rows = [_detail_row(entry, searched[entry.task.name]) for entry in self.entries]
        names = [name for name in rows[0] if name not in _OPTIONAL or any(r[name] for r in rows)]
        return [[*names], *([row[name] or NOTHING for name in names] for row in rows)]

    def _encoders(self) -> Rows:
        rows: Rows = [["encoder", "kind", "parameters", "weights (sha256)"]]
        for name, found in sorted(grouped(self.found.runs, lambda run: run.encoder).items()):
            encoder = found[-1].result["encoder"]
            is_random, size = encoder["random_init"], encoder["num_parameters"]
            weights = "random, none loaded" if is_random else str(encoder["digest"])[:12]
            rows.append([name, encoder["kind"], f"{size:,}", weights])
        return rows

    def _notes(self) -> dict[str, Any]:
        """What stands under the tables: how numbers were chosen, what is wrong with the data."""
        runs, entries, tasks = self.found.runs, self.entries, self.tasks
        assumed = {k: v for run in runs for k, v in run.assumed.items()}
        by_name = grouped(entries, lambda entry: entry.task.name).values()
        by_title = grouped(entries, lambda entry: entry.task.title)
        by_encoder = grouped(entries, lambda entry: entry.encoder)
        sourced = [entry for entry in entries if entry.task.published_source]
        by_source = grouped(sourced, lambda entry: entry.task.published_source)
        return {
            "is_uneven_search": any(len({e.num_settings for e in some}) > 1 for some in by_name),
            "shared": {
                text: [some[0].title for some in found]
                for text, found in grouped(tasks, shared_text).items()
            },
            "assumed": ", ".join(f"{name} {value}" for name, value in assumed.items()),
            "f1_labels": {
                run.title: repr(run.result["data"]["f1_label"])
                for run in runs
                if "f1" in run.result["score"] and run.result["data"].get("f1_label")
            },
            "num_rows": {e.task.title: n for e in entries if (n := _fewest_rows(e))},
            "missing": {
                encoder: sorted(by_title.keys() - {entry.task.title for entry in some})
                for encoder, some in by_encoder.items()
            },
            "uneven": [
                title for title, some in by_title.items() if len({e.summary.n for e in some}) > 1
            ],
            "data": {found[0].title: _data_notes(found) for found in tasks},
            "sources": {
                text: dict.fromkeys(entry.runs[0].title for entry in some)
                for text, some in by_source.items()
            },
            "silent": dict.fromkeys(
                run.title for run in runs if self.with_published and not run.result["task_facts"]
            ),
            "hours": sum(float(run.result["elapsed_s"]) for run in runs) / 3600,
            "made_with": {
                "versions": _counted(_version_text(run) for run in runs),
                "devices": _counted(str(run.result["device"]) for run in runs),
                "precision": _counted(str(run.result["settings"]["precision"]) for run in runs),
                "segments": _counted(str(run.result["settings"]["segments"]) for run in runs),
            },
        }

    def csv_rows(self) -> list[dict[str, Any]]:
        """One line per trial and scored split, with every setting and metric."""
        chosen = {run.path for entry in self.entries for run in entry.runs}
        return [row for run in self.found.runs for row in _trial_rows(run, run.path in chosen)]

    def numbers(self) -> dict[str, Any]:
        """The results; scores are fractions, published ones per cent."""
        return {
            "unit": "fractions; published_per_cent as printed in the papers",
            "results": [_entry_numbers(entry) for entry in self.entries],
            "comparisons": compare(self.entries),
            "averages": self.averages,
            "num_trials": len(self.found.runs),
            "num_duplicates": self.found.num_duplicates,
            "failed": list(self.found.failed),
            "unfinished": list(self.found.unfinished),
        }


def _percent(value: float | None) -> str:
    """A fraction as per cent."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def _mean_text(summary: Estimate, *, n: int | None = None) -> str:
    """`45.4 ± 1.2`; equal values have no width to speak of.

    Args:
        summary: The values.
        n: How many the reader expects from the header; another number is said. None: say nothing.
    """
    text = _percent(summary.mean)
    if summary.has_no_spread:
        text += " (all equal)"
    elif summary.half_width is not None:
        text += f" ± {_percent(summary.half_width)}"
    return text if n in (None, summary.n) else f"{text} (n = {summary.n})"


def _interval_text(summary: Estimate) -> str:
    """The ends of the interval, if there are any."""
    if summary.low is None:
        return NOTHING
    if summary.has_no_spread:
        return "all equal"
    return f"{_percent(summary.low)} to {_percent(summary.high)}"


def _marks(entry: Entry) -> str:
    """The signs behind a number of the main table."""
    found = ["diverged"] if entry.num_diverged else []
    found += [entry.against_constant] if entry.against_constant in _SIGNS else []
    return "".join([" ", *(_SIGNS[name][0] for name in found)]) if found else ""


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
    summary, task = entry.summary, entry.task
    parts = ""
    if len(task.metrics) > 1:
        means = {m: fmean(run.score(task.split, m) for run in entry.runs) for m in task.metrics}
        parts = ", ".join(f"{METRIC_TITLES.get(k, k)} {_percent(v)}" for k, v in means.items())
    count = "1 setting" if entry.num_settings == 1 else f"{entry.num_settings} settings"
    if entry.num_incomplete:
        count += f" ({entry.num_incomplete} with fewer seeds, not eligible)"
    ends = f"{_percent(summary.minimum)} to {_percent(summary.maximum)}"
    return {
        "task": task.title,
        "encoder": entry.encoder,
        "n": str(summary.n),
        "mean": _percent(summary.mean),
        "95 % interval": _interval_text(summary),
        "min to max": ends if summary.n > 1 else "",
        "parts": parts,
        "beside the constant answer": _beside_text(entry),
        "setting": setting_text(dict(entry.runs[0].setting), searched),
        "chosen from": count,
        "diverged": f"{entry.num_diverged} of {summary.n}" if entry.num_diverged else "",
    }


def _beside_text(entry: Entry) -> str:
    text = entry.against_constant
    for word in ("at or below", "above"):
        text = text.replace(word, f"{word} {_percent(entry.constant)}")
    if 0 < entry.num_at_constant < entry.summary.n:
        text += f" ({entry.num_at_constant} of {entry.summary.n} seeds not above)"
    return text


def _fewest_rows(entry: Entry) -> int:
    scored = [run.result["evaluation"][entry.task.split] for run in entry.runs if run.has_scores]
    return int(min((found["num_rows"] for found in scored), default=0))


def _data_notes(runs: Sequence[Trial]) -> dict[str, list[str]]:
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


def _version_text(run: Trial) -> str:
    return ", ".join(f"{name} {value}" for name, value in run.result["versions"].items())


def _counted(values: Iterable[str]) -> str:
    found = Counter(values)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{value} ({count})" for value, count in found.most_common())


def _trial_rows(run: Trial, is_chosen: bool) -> list[dict[str, Any]]:
    result = run.result
    return [
        {
            "task": run.task,
            "encoder": run.encoder,
            "kind": result["encoder"]["kind"],
            "weights": result["encoder"]["digest"],
            **result["settings"],
            "chosen": is_chosen,
            "diverged": result["diverged"],
            "best_epoch": result["best_epoch"],
            "split": split,
            "score": run.score(split),
            "constant_score": run.constant(split),
            "num_train_rows": run.split_facts("train").get("num_rows"),
            **result["evaluation"].get(split, {}),
            "elapsed_s": result["elapsed_s"],
            "device": result["device"],
            **{f"version_{name}": value for name, value in result["versions"].items()},
            "path": str(run.path),
        }
        for split in result["evaluation"] or result["majority"]
    ]


def _entry_numbers(entry: Entry) -> dict[str, Any]:
    return {
        **entry.task.numbers,
        "encoder": entry.encoder,
        "metrics": list(entry.task.metrics),
        **asdict(entry.summary),
        "scores": list(entry.by_seed.values()),
        "seeds": [dict(zip(PAIRED_BY, run.repetition, strict=True)) for run in entry.runs],
        "setting": dict(entry.runs[0].setting),
        "num_settings": entry.num_settings,
        "num_incomplete_settings": entry.num_incomplete,
        "num_trials": len(entry.trials),
        "num_diverged": entry.num_diverged,
        "num_diverged_trials": entry.num_diverged_trials,
        "constant_answer": entry.constant,
        "against_constant": entry.against_constant,
        "num_at_constant": entry.num_at_constant,
        "published_per_cent": dict(entry.task.published),
        "best_run": str(entry.best_run.path),
        "runs": [str(run.path) for run in entry.runs],
    }
