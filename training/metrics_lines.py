"""Lines of metrics.jsonl: one JSON object each, appended whole.

Invariant: a killed run leaves at most one broken last line.
"""

import json
from collections.abc import Mapping
from pathlib import Path


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
