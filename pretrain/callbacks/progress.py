"""One bar over the optimiser steps of the run: loss, accuracies, tokens per second, time left."""

import sys
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from pretrain.callbacks.training_log import TrainingLog

SHOWN = {
    "train/loss": "loss",
    "train/mlm_accuracy": "mlm acc",
    "train/pair_accuracy": "pair acc",
    "train/tokens_per_s": "tok/s",
}


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
        interval_s = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc="pretrain",
            unit="step",
            mininterval=interval_s,
            maxinterval=2 * interval_s,
            dynamic_ncols=True,
            disable=not self._enabled,
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
            label: f"{latest[name]:,.0f}" if label == "tok/s" else f"{latest[name]:.3f}"
            for name, label in SHOWN.items()
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
