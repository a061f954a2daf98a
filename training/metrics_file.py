"""metrics.jsonl: one JSON object per line, the record every plot, table and report reads.

Invariant: lines are appended whole, so a killed run leaves at most one broken last line. A resumed
run first cuts the lines after its checkpoint off, so that every step stands there once.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from data_prep.files import json_records
from training.run_config import EVALUATIONS_FILE
from training.run_folder import read_records


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


def own_test_rows(folder: str | Path) -> list[dict[str, float]]:
    """What `test` found on the data a run was trained on, as rows like those of its metrics.

    Args:
        folder: The run's folder.
    """
    return [
        {"step": record["step"], **record["metrics"]}
        for record in read_records(Path(folder) / EVALUATIONS_FILE)
        if record["command"] == "test" and not record["differs_from_training"]
    ]


def series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]


def last_value(rows: list[dict[str, float]], name: str) -> float | None:
    """The newest value of one metric, or None."""
    values = (row[name] for row in reversed(rows) if name in row)
    return next(values, None)
