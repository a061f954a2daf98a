"""Training metrics over windows of optimiser steps, throughput, learning rate, gradient norm.

Invariant: the device is waited for once per window, where its numbers are read, and at no step.
"""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_only

from pretrain.module import LossSums, PretrainModule, means
from training.interruption import say
from training.utilisation import FetchClock, PeakRate, corrected_rate, memory_gib, peak_rate


class TrainingLog(Callback):
    """Log the means since the last line, every `trainer.log_every_n_steps` optimiser steps.

    Metrics: `train/loss`, `train/mlm_loss`, `train/mlm_accuracy`, `train/perplexity`,
    `train/pair_loss`, `train/pair_accuracy`, `train/grad_norm` (before clipping, of the window's
    last step), `train/lr`, `train/samples_seen`. Validation time is not counted in:
    `train/tokens_per_s` (real tokens over all ranks), `train/mfu` (model FLOP utilisation: share of
    the peak rate, see `ponet.flops` and `run.peak_tflops`) and `train/data_wait_share` (share of
    the time in which the first rank's host waited for its next batch, an upper limit of how long
    its device did; not measured under a `trainer.profiler`). `train/memory_gib`: on a GPU the
    largest memory of tensors so far, on a CPU the process's resident memory; of the first rank.

    Args:
        peak_tflops: Rate that `train/mfu` is a share of; 0: found out at the start.
    """

    def __init__(self, peak_tflops: float = 0.0) -> None:
        self._peak_tflops = peak_tflops
        self._peak = PeakRate(0.0, "")
        self._flops = 0.0
        self._fetching: FetchClock | None = None
        self._sums: torch.Tensor | None = None
        self._last_step = 0
        self._window_start = 0.0
        self._paused_s = 0.0
        self._pause_start = 0.0
        self.latest: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out the peak rate, and begin the first window."""
        device, precision = trainer.strategy.root_device, str(trainer.precision)
        self._use_peak(peak_rate(device, precision, tflops=self._peak_tflops))
        if type(trainer.profiler) is PassThroughProfiler:
            trainer.profiler = self._fetching = FetchClock()
        self._last_step = trainer.global_step
        self._begin_window()

    def _use_peak(self, peak: PeakRate) -> None:
        self._peak = peak
        rank_zero_only(say)(
            f"train/mfu will say what share of {peak.flops_per_s / 1e12:.3g} TFLOP/s a device "
            f"uses ({peak.source})"
        )

    def _share_of_peak(self, trainer: Trainer, flops_per_s: float) -> float:
        device, precision = trainer.strategy.root_device, str(trainer.precision)
        peak = corrected_rate(self._peak, flops_per_s, device, precision)
        if peak != self._peak:
            self._use_peak(peak)
        return flops_per_s / peak.flops_per_s

    def _begin_window(self) -> None:
        self._sums, self._flops, self._paused_s = None, 0.0, 0.0
        self._window_start = time.monotonic()
        if self._fetching is not None:
            self._fetching.seconds = 0.0

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
        assert isinstance(pl_module, PretrainModule)
        self._flops += pl_module.batch_flops(batch)
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
        metrics["train/mfu"] = self._share_of_peak(trainer, self._flops / seconds)
        metrics["train/memory_gib"] = memory_gib(trainer.strategy.root_device)
        if self._fetching is not None:
            metrics["train/data_wait_share"] = self._fetching.seconds / seconds
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            metrics["train/samples_seen"] = float(step * datamodule.global_batch_size)
        self.latest = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
