"""study.json: what one pretraining run is worth, from masked words to downstream tasks.

Invariant: as in the tables of fine-tuning, settings are chosen on validation scores alone, and a
seed that diverged counts as the constant answer and is named, never left out.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from data_prep.files import write_atomic
from training.metrics_rows import own_test_rows, read_metrics
from training.run_config import METRICS_FILE, STUDY_FILE

RESULT_FILE, DOWNSTREAM_FOLDER = "result.json", "downstream"
RESULT_VERSION = 1
_REPETITION = ("seed", "fold", "repeat")


def write_study(run: Path) -> dict[str, Any]:
    """Collect what a run and its downstream folder hold into its study.json.

    Args:
        run: Folder of the run.

    Returns:
        `{"pretraining": {metric: last value}, "downstream": {task: {"score", "n", ...}}}`.
    """
    rows = metric_rows(run)
    if not rows:
        raise ValueError(f"{run} is not a run folder: it has no {METRICS_FILE}")
    metrics = {name: value for row in rows for name, value in row.items() if name != "elapsed_s"}
    metrics.pop("step")
    steps = next((row["step"] for row in reversed(rows) if row["step"]), 0)
    study = {
        "format_version": 1,
        "pretraining": {**metrics, "steps": steps},
        "downstream": downstream_scores(run / DOWNSTREAM_FOLDER),
    }
    text = json.dumps(study, indent=2, ensure_ascii=False) + "\n"
    write_atomic(run / STUDY_FILE, text.encode("utf-8"))
    return study


def metric_rows(run: Path) -> list[dict[str, float]]:
    """Return what a run has logged, and what `test` found on its own data; the newest last."""
    path = run / METRICS_FILE
    return [*read_metrics(path), *own_test_rows(run)] if path.is_file() else []


def downstream_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Task -> score over the seeds of its best setting, below the folder of a grid."""
    tasks: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.rglob(RESULT_FILE)):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: is not valid JSON ({error}); remove it and go on") from error
        if (version := result["format_version"]) != RESULT_VERSION:
            raise ValueError(
                f"{path}: format_version is {version!r}; this version reads {RESULT_VERSION}: "
                "remove the file and run the same command again"
            )
        tasks[result["task"]].append(result)
    return {task: _task_scores(results) for task, results in sorted(tasks.items())}


def _task_scores(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    settings: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        own = {k: v for k, v in result["settings"].items() if k not in _REPETITION}
        settings[json.dumps(own, sort_keys=True)].append(result)
    most = max(len(found) for found in settings.values())
    complete = (item for item in settings.items() if len(item[1]) == most)
    key, best = max(complete, key=lambda item: fmean(_score(r, "validation") for r in item[1]))
    has_test = all("score" in result["evaluation"].get("test", {}) for result in best)
    split = "test" if has_test else "validation"
    scores = [_score(result, split) for result in best]
    return {
        "score": fmean(scores),
        "sd": stdev(scores) if len(scores) > 1 else None,
        "n": len(scores),
        "scores": scores,
        "split": split,
        "metrics": best[0]["score"],
        "constant": best[0]["majority"].get(split, {}).get("score"),
        "num_diverged": sum(bool(result["diverged"]) for result in best),
        "num_settings": len(settings),
        "setting": json.loads(key),
    }


def _score(result: Mapping[str, Any], split: str) -> float:
    """The score on a split; of a run that diverged before it had one, the constant answer's."""
    for scores in (result["evaluation"], result["majority"]):
        value = scores.get(split, {}).get("score")
        if value is not None and math.isfinite(value):
            return float(value)
    return 0.0
