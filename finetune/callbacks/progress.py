"""What a fit says while it trains: a line per validation, above the bar where there is one."""

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.module import FinetuneModule

EVERY_S = 30.0
"""Seconds between two lines of a log file, which has no bar."""


class ProgressLines(Callback):
    """Prints the scores of every validation; every half a minute a line where there is no bar."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say how far it is, in a log file."""
        if trainer.progress_bar_callback is None and time.monotonic() - self._said_at >= EVERY_S:
            self._say(trainer, "")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the first validation split scores."""
        assert isinstance(pl_module, FinetuneModule)
        if not trainer.sanity_checking:
            found = next(iter(pl_module.evaluation.values()))
            self._say(trainer, f": score {found['score']:.4f}, loss {found['loss']:.4f}")

    def _say(self, trainer: Trainer, text: str) -> None:
        if not trainer.is_global_zero:
            return
        step, steps = trainer.global_step, int(trainer.estimated_stepping_batches)
        line = f"step {step:,} of {steps:,}{text}"
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.print(line)
        else:
            print(line, file=sys.stderr, flush=True)
        self._said_at = time.monotonic()
