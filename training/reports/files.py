"""The numbers of a report for programs: CSV with a line per run, JSON with the whole results.

Invariant: every number of the tables can be computed again from the CSV.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from training.reports.choice import Column, Entry, Results
from training.reports.configurations import Configuration, Study
from training.reports.measures import Column as MeasureColumn
from training.reports.runs import Problem
from training.reports.trials import Trial
from training.statistics import paired_difference


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of all of them; empty: not there."""
    stream = io.StringIO(newline="")
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(stream, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps({"format_version": 1, **content}, indent=2, ensure_ascii=False) + "\n"


def study_csv(study: Study, columns: Sequence[MeasureColumn]) -> str:
    """One line per pretraining run and measure."""
    return _csv(
        [
            {
                "configuration": found.label,
                "run": run.name,
                "seed": run.seed,
                "measure": column.measure.title,
                "unit": column.measure.unit,
                "value": value,
                "guess": column.measure.level(run),
                "counted": run in found.counted,
                "finished": run.is_finished,
                "diverged_at": run.diverged_at,
                "path": str(run.folder),
            }
            for found in study.configurations
            for run in found.runs
            for column in columns
            if (value := column.measure.read(run)) is not None
        ]
    )


def study_json(
    study: Study,
    columns: Sequence[MeasureColumn],
    baseline: Configuration,
    problems: Sequence[Problem],
) -> str:
    """The numbers of a report on pretraining, in the units that its tables have."""
    base = list(study.configurations).index(baseline)
    results, differences = [], []
    for number, found in enumerate(study.configurations):
        for column in columns:
            place = {"configuration": found.label, "measure": column.measure.title}
            cell = column.cells[number]
            results.append({**place, **asdict(cell), "unit": column.measure.unit})
            is_fair = number != base and column.comparable(number, base, study)
            difference = paired_difference(cell.by_seed, column.cells[base].by_seed)
            if is_fair and difference:
                verdict = {"difference": asdict(difference), "verdict": difference.verdict}
                differences.append({**place, "minus": baseline.label, **verdict})
    return _json(
        {
            "configurations": {
                found.label: {
                    "settings": {study.names[key]: value for key, value in found.factors.items()},
                    "runs": [str(run.folder) for run in found.runs],
                }
                for found in study.configurations
            },
            "results": results,
            "differences": differences,
            "problems": {problem.folder: problem.reason for problem in problems},
        }
    )


def results_csv(results: Results) -> str:
    """One line per fine-tuning trial and scored split, with every setting and metric."""
    chosen = {run.path for entry in results.entries for run in entry.choice.runs}
    runs = results.found.runs
    return _csv([row for run in runs for row in _trial_rows(run, run.path in chosen)])


def _trial_rows(run: Trial, is_chosen: bool) -> list[dict[str, Any]]:
    result = run.result
    start = {
        "task": run.task,
        "encoder": run.encoder,
        "kind": result["encoder"]["kind"],
        "weights": result["encoder"]["digest"],
        **result["settings"],
        "chosen": is_chosen,
        "diverged": result["diverged"],
        "best_epoch": result["best_epoch"],
    }
    end = {
        "elapsed_s": result["elapsed_s"],
        "device": result["device"],
        **{f"version_{name}": value for name, value in result["versions"].items()},
        "path": str(run.path),
    }
    splits = list(result["evaluation"]) or list(result["majority"])
    return [
        {
            **start,
            "split": split,
            "score": run.score(split),
            "constant_score": run.constant(split),
            "num_train_rows": run.split_facts("train").get("num_rows"),
            **result["evaluation"].get(split, {}),
            **end,
        }
        for split in splits
    ]


def results_json(results: Results) -> str:
    """The numbers of a report on fine-tuning; scores are fractions, published ones per cent."""
    return _json(
        {
            "unit": "fractions; published_per_cent as printed in the papers",
            "results": [_entry(entry) for entry in results.entries],
            "comparisons": [
                {
                    **_column(item.column),
                    "first": item.first,
                    "second": item.second,
                    "difference": asdict(item.difference),
                    "num_unpaired": item.num_unpaired,
                    "verdict": item.verdict,
                }
                for item in results.comparisons
            ],
            "averages": {
                name: {
                    "columns": [column.title for column in average.columns],
                    "encoders": {e: asdict(s) for e, s in average.summaries.items()},
                    "published_per_cent": dict(average.published),
                }
                for name, average in results.averages.items()
            },
            "num_trials": len(results.found.runs),
            "num_duplicates": results.found.num_duplicates,
            "failed": list(results.found.failed),
            "unfinished": list(results.found.unfinished),
        }
    )


def _column(column: Column) -> dict[str, Any]:
    return {"task": column.task, "title": column.title, "split": column.split}


def _entry(entry: Entry) -> dict[str, Any]:
    choice = entry.choice
    return {
        **_column(entry.column),
        "encoder": entry.encoder,
        "metrics": list(entry.column.metrics),
        **asdict(entry.summary),
        "scores": list(entry.scores),
        "seeds": [
            dict(zip(("seed", "fold", "repeat"), r.repetition, strict=True)) for r in choice.runs
        ],
        "setting": choice.setting,
        "num_settings": choice.num_settings,
        "num_incomplete_settings": choice.num_incomplete,
        "num_trials": choice.num_trials,
        "num_diverged": entry.num_diverged,
        "num_diverged_trials": choice.num_diverged_trials,
        "constant_answer": entry.constant,
        "against_constant": entry.against_constant,
        "num_at_constant": entry.num_at_constant,
        "published_per_cent": dict(entry.column.published),
        "best_run": str(choice.best_run.path),
        "runs": [str(run.path) for run in choice.runs],
    }
