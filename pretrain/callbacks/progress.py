"""One bar over the optimiser steps of the run: loss, accuracies, speed, time left."""

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from pretrain.callbacks.training_log import TrainingLog

SHOWN = {
    "train/loss": ("loss", ".3f"),
    "train/mlm_accuracy": ("mlm acc", ".3f"),
    "train/pair_accuracy": ("pair acc", ".3f"),
    "train/tokens_per_s": ("tok/s", ",.0f"),
    "train/mfu": ("mfu", ".0%"),
    "train/data_wait_share": ("wait", ".0%"),
    "train/memory_gib": ("GiB", ".1f"),
}
"""Metric: label and format."""


class _Lines:
    """stderr for a log file: what would redraw the line begins a new one."""

    def write(self, text: str) -> int:
        """Write without carriage returns and empty lines."""
        shown = text.strip("\r\n ")
        return sys.stderr.write(shown + "\n") if shown else 0

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


def _display(is_terminal: bool) -> dict[str, Any]:
    if is_terminal:
        return {"dynamic_ncols": True, "mininterval": 0.5}
    form = "{desc}: {n_fmt}/{total_fmt} steps, {elapsed} so far, {remaining} left{postfix}"
    return {"file": _Lines(), "bar_format": form, "mininterval": 30.0, "maxinterval": 60.0}


class RunProgressBar(ProgressBar):
    """A tqdm bar with one tick per optimiser step, also over several epochs and after a resume.

    Where the output is not a terminal, a line every 30 seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (other ranks)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step the run continues from."""
        self._bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc="pretrain",
            unit="step",
            disable=not self._enabled,
            **_display(sys.stderr.isatty()),
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tick, and show the newest window's means."""
        log = next((c for c in trainer.callbacks if isinstance(c, TrainingLog)), None)
        latest = log.latest if log else {}
        shown = {
            label: format(latest[name], spec)
            for name, (label, spec) in SHOWN.items()
            if name in latest
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        if self._bar is not None:
            self._bar.close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stdout)
