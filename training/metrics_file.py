"""metrics.jsonl: one JSON object per line, the record every plot, table and report reads.

Invariant: lines are appended whole, so a killed run leaves at most one broken last line. A resumed
run first cuts the lines after its checkpoint off, so that every step stands there once.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files import json_records
from training.run_config import EVALUATIONS_FILE, METRICS_FILE
from training.run_folder import read_events, read_records


def append_metrics(
    path: Path, metrics: Mapping[str, float], *, step: int | None, elapsed_s: float
) -> None:
    """Append `{"step", "elapsed_s", metric: value, ...}` to a file; its folder is made.

    Args:
        path: The file.
        metrics: Numbers; NaN and infinities are kept, in Python's JSON spelling. `epoch`, which
            Lightning adds, is left out.
        step: Optimiser step.
        elapsed_s: Seconds since the run began.
    """
    values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
    row = {"step": step, "elapsed_s": round(elapsed_s, 3), **values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """All whole lines of a metrics file, in order."""
    return json_records(Path(path).read_text(encoding="utf-8"), path)


def run_rows(folder: str | Path) -> list[dict[str, float]]:
    """What a run has logged, and what `test` found of its last state; the newest last.

    Args:
        folder: The run's folder, with a metrics file.
    """
    rows = read_metrics(Path(folder) / METRICS_FILE)
    steps = [row.get("step") for row in rows if isinstance(row, dict)]
    last_step = max((step for step in steps if isinstance(step, int | float)), default=0)
    return [*rows, *own_test_rows(folder, last_step=last_step)]


def own_test_rows(folder: str | Path, *, last_step: float = 0) -> list[dict[str, float]]:
    """What `test` found of a run's last state, as rows like those of its metrics.

    What guessing scores on the same examples stands there as `test_baseline/...`.

    Only what was scored with a checkpoint of the run, on the whole validation split of the data it
    was trained on; not before the run went on from an earlier step.

    Args:
        folder: The run's folder.
        last_step: The last step of its metrics; its checkpoint may be of a later one.
    """
    folder = Path(folder)
    tests = [record for record in read_records(folder / EVALUATIONS_FILE) if _is_own_test(record)]
    for event in read_events(folder):
        if event.get("event") == "resumed":
            tests = [t for t in tests if t["step"] <= event["step"] or t["time"] >= event["time"]]
    newest = max((last_step, *(record["step"] for record in tests)))
    return [
        {"step": record["step"], **record["metrics"], **_guesses(record)}
        for record in tests
        if record["step"] == newest
    ]


def _guesses(record: Mapping[str, Any]) -> dict[str, float]:
    return {f"test_baseline/{name}": v for name, v in record["baselines"].items()}


def _is_own_test(record: Mapping[str, Any]) -> bool:
    """Whether a line is of a run's own checkpoint, data and whole split."""
    return (
        record["command"] == "test"
        and not record["differs_from_training"]
        and record["own_checkpoint"]
        and record["examples"] == record["split_examples"]
    )


def series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]


def last_value(rows: list[dict[str, float]], name: str) -> float | None:
    """The newest value of one metric, or None."""
    values = (row[name] for row in reversed(rows) if name in row)
    return next(values, None)
