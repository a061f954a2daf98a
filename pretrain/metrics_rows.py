"""Reading metrics.jsonl without torch or Lightning, so that tables and reports start fast."""

import json
from collections.abc import Iterator
from pathlib import Path


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """All whole lines of a metrics file, in order.

    Raises:
        ValueError: A line other than the last is not JSON; names file and line.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error
    return rows


def series(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]


def last_value(rows: list[dict[str, float]], name: str) -> float | None:
    """The newest value of one metric, or None."""
    return next(_backwards(rows, name), None)


def _backwards(rows: list[dict[str, float]], name: str) -> Iterator[float]:
    return (row[name] for row in reversed(rows) if name in row)
