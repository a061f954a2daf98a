"""metrics.jsonl: one JSON object per line, the record every plot, table and report reads.

Invariant: lines are appended whole, so a killed run leaves at most one broken last line; a resumed
run first cuts the lines after its checkpoint off, so that every step stands there once.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from data_prep.files import write_atomic
from training.metrics_lines import append_metrics
from training.metrics_rows import last_value, read_metrics, series

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
        count = len(self.path.read_text(encoding="utf-8").splitlines())
        kept = [row for row in read_metrics(self.path) if step and (row["step"] or 0) <= step]
        if len(kept) < count:
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        spent = max((row["elapsed_s"] for row in kept), default=0.0)
        self._started = time.monotonic() - spent
        return count - len(kept)

    def sync(self) -> None:
        """Make sure that what was logged is on the disk."""
        if self.path.exists():
            with self.path.open("a", encoding="utf-8") as file:
                os.fsync(file.fileno())
