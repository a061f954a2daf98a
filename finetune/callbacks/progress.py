"""Progress in a log file: whole lines now and then, where a bar would redraw itself."""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar

EVERY_S = 30.0


class ProgressLines(ProgressBar):
    """A line on stderr every 30 seconds of training, and one at the end of an epoch.

    Args:
        every_s: Seconds between two lines.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__()
        self.every_s = every_s
        self._enabled = True
        self._began = self._said = 0.0

    def disable(self) -> None:
        """Show nothing (other ranks)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the lines."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = self._said = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say where it is, if that is due or the epoch is over."""
        is_last = batch_idx + 1 >= self.total_train_batches
        if is_last or time.monotonic() - self._said >= self.every_s:
            self._say(trainer, pl_module, batch_idx + 1)

    def _say(self, trainer: Trainer, module: LightningModule, batches: int) -> None:
        self._said = time.monotonic()
        if not self._enabled:
            return
        metrics = self.get_metrics(trainer, module)
        shown = [f"{k}={v:.4g}" for k, v in metrics.items() if isinstance(v, int | float)]
        place = f"finetune: epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, {batches}/"
        place += f"{self.total_train_batches} batches, {self._said - self._began:.0f} s so far"
        print(", ".join([place, *shown]), file=sys.stderr, flush=True)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on stdout."""
        if self._enabled:
            print(*args)
