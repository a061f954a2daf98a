"""table.csv, one line per trial and scored split, and table.json, the whole report.

Invariant: every number of table.md can be computed again from table.csv.
"""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from finetune.reporting.choice import Column, Entry
from finetune.reporting.model import Report
from finetune.reporting.runs import Run


def csv_text(report: Report) -> str:
    """One line per trial and scored split, with every setting and metric; empty: not there."""
    chosen = {run.path for entry in report.entries for run in entry.choice.runs}
    rows = [row for run in report.found.runs for row in _trial_rows(run, run.path in chosen)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _trial_rows(run: Run, is_chosen: bool) -> list[dict[str, Any]]:
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


def json_text(report: Report) -> str:
    """The numbers of the report; scores are fractions, what papers published is per cent."""
    content = {
        "format_version": 1,
        "unit": "fractions; published_per_cent as printed in the papers",
        "results": [_entry(entry) for entry in report.entries],
        "comparisons": [
            {
                **_column(item.column),
                "first": item.first,
                "second": item.second,
                "difference": asdict(item.difference),
                "num_unpaired": item.num_unpaired,
                "verdict": item.verdict,
            }
            for item in report.comparisons
        ],
        "averages": {
            name: {
                "columns": [column.title for column in average.columns],
                "encoders": {e: asdict(s) for e, s in average.summaries.items()},
                "published_per_cent": dict(average.published),
            }
            for name, average in report.averages.items()
        },
        "num_trials": len(report.found.runs),
        "num_duplicates": report.found.num_duplicates,
        "failed": list(report.found.failed),
        "unfinished": list(report.found.unfinished),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


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
