"""Training metrics over windows of optimiser steps, throughput, learning rate, gradient norm."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from pretrain.module import LossSums, means


class TrainingLog(Callback):
    """Log the means since the last line, every `trainer.log_every_n_steps` optimiser steps.

    Metrics: `train/loss`, `train/mlm_loss`, `train/mlm_accuracy`, `train/perplexity`,
    `train/pair_loss`, `train/pair_accuracy`, `train/grad_norm` (before clipping, of the window's
    last step), `train/lr`, `train/tokens_per_s` (real tokens over all ranks; validation time is
    not counted), `train/samples_seen`.
    """

    def __init__(self) -> None:
        self._sums: torch.Tensor | None = None
        self._last_step = 0
        self._window_start = 0.0
        self._paused_s = 0.0
        self._pause_start = 0.0
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the first window."""
        self._last_step = trainer.global_step
        self._begin_window()

    def _begin_window(self) -> None:
        self._sums, self._paused_s, self._window_start = None, 0.0, time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._pause_start = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again."""
        self._paused_s += time.monotonic() - self._pause_start

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Add the micro-batch; log where it completes a window."""
        sums = outputs["sums"]
        self._sums = sums if self._sums is None else self._sums + sums
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if step % trainer.log_every_n_steps == 0 or step == trainer.max_steps:
            self._log(trainer, pl_module, step)
            self._begin_window()

    def _log(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        assert self._sums is not None
        sums = trainer.strategy.reduce(self._sums, reduce_op="sum")
        seconds = time.monotonic() - self._window_start - self._paused_s
        metrics = {f"train/{name}": value for name, value in means(sums).items()}
        if pl_module.grad_norm is not None:
            metrics["train/grad_norm"] = float(pl_module.grad_norm)
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics["train/tokens_per_s"] = float(sums[LossSums._fields.index("tokens")]) / seconds
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            metrics["train/samples_seen"] = float(step * datamodule.global_batch_size)
        self.latest = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
