"""metrics.jsonl: one JSON object per line, the record every plot, table and report reads.

Invariant: a resumed run first cuts the lines after its checkpoint off, so that every step stands
there once.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from data_prep.files import write_atomic
from training.metrics_rows import append_metrics, last_value, read_metrics, series

__all__ = ["MetricsFileLogger", "last_value", "read_metrics", "series"]


class MetricsFileLogger(Logger):
    """Lightning logger that appends `{"step", "elapsed_s", metric: value, ...}` lines.

    Args:
        path: File to append to; its folder is created at the first line.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._started = time.monotonic()

    @property
    def name(self) -> str:
        """Always `metrics`."""
        return "metrics"

    @property
    def version(self) -> str:
        """Unused by this logger."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config is a file of its own beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line. NaN and infinities are kept, in Python's JSON spelling."""
        elapsed_s = time.monotonic() - self._started
        append_metrics(self.path, metrics, step=step, elapsed_s=elapsed_s)

    def rewind(self, step: int) -> int:
        """Cut off what was logged after a step (at 0: everything) and go on in time from there.

        Args:
            step: The optimiser step the run goes on from.

        Returns:
            The number of lines cut off, a broken last one included.
        """
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        pairs = [
            (line, row)
            for line, row in zip(lines, read_metrics(self.path), strict=False)
            if line.endswith(b"\n") and step and (row["step"] or 0) <= step
        ]
        if len(pairs) < len(lines):
            write_atomic(self.path, b"".join(line for line, _ in pairs))
        spent = max((row["elapsed_s"] for _, row in pairs), default=0.0)
        self._started = time.monotonic() - spent
        return len(lines) - len(pairs)
