"""metrics.jsonl: one JSON object per line, what a run logged and when.

Invariant: lines are appended whole, so a killed run leaves at most one broken last line.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from data_prep.files import write_atomic
from training.metrics_lines import append_metrics


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
        """Nothing: the resolved configuration is a file of its own beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line. NaN and infinities are kept, in Python's JSON spelling."""
        elapsed_s = time.monotonic() - self._started
        append_metrics(self.path, metrics, step=step, elapsed_s=elapsed_s)

    def rewind(self, step: int, *, spent_s: float) -> None:
        """Cut off what was logged after a step, and go on in time.

        Args:
            step: The optimiser step the run goes on from.
            spent_s: Seconds of earlier starts.
        """
        self._started = time.monotonic() - spent_s
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # a kill may have cut the last
        kept = [line for line in whole if (json.loads(line)["step"] or 0) <= step]
        if len(kept) < len(lines):
            write_atomic(self.path, b"".join(kept))
