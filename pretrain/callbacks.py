"""What a pretraining run says while it runs: metrics, a line per validation, the curves.

Invariant: the device is waited for once per window of steps, where its numbers are read, and at no
step.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities import rank_zero_only

from data_prep.command import counted
from pretrain.comparison import differences_from_bundle
from pretrain.module import PretrainModule
from pretrain.randomness import derive_key
from pretrain.sums import LossSums, means, sum_dtype
from training.callbacks.steps import say_above, show
from training.interruption import say
from training.metrics_file import last_value, read_metrics
from training.reports.curves import plot_curves
from training.run_config import CHECKPOINT_FOLDER, CURVES_FILE, EVALUATIONS_FILE, METRICS_FILE
from training.run_folder import append_record
from training.utilisation import FetchClock, PeakRate, corrected_rate, memory_gib, peak_rate

_DRAW_EVERY_S = 30.0
_SHOWN = {
    "train/loss": ("loss", ".3f"),
    "train/mlm_accuracy": ("mlm acc", ".3f"),
    "train/pair_accuracy": ("pair acc", ".3f"),
    "train/tokens_per_s": ("tok/s", ",.0f"),
    "train/mfu": ("mfu", ".0%"),
    "train/data_wait_share": ("wait", ".0%"),
    "train/memory_gib": ("GiB", ".1f"),
}
"""What the bar shows. Metric: label and format."""


def step_loss(sums: torch.Tensor, pair_loss_weight: float = 1.0) -> float:
    """What `train/loss` is: nats per hidden token plus weighted nats per pair."""
    return means(sums, pair_loss_weight)["loss"]


def dropout_seed(trainer: Trainer, batch_idx: int) -> int:
    """Seed of a forward pass, of (seed, first sample of the micro-batch) and of nothing else.

    So the same micro-batch drops the same units on any number of devices.
    """
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    first = datamodule.first_sample_of(trainer.global_step, batch_idx)
    return int(derive_key(datamodule.seed, "dropout", first))


class TrainingLog(Callback):
    """Log the means since the last line, every `trainer.log_every_n_steps` optimiser steps.

    Metrics: `train/loss`, `train/mlm_loss`, `train/mlm_accuracy`, `train/perplexity`,
    `train/pair_loss`, `train/pair_accuracy`, `train/grad_norm` (before clipping, of the window's
    last step), `train/lr` (of that step), `train/samples_seen`. Validation time is not counted in:
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
        self._flops = self._lr = 0.0
        self._fetching: FetchClock | None = None
        self._sums: torch.Tensor | None = None
        self._last_step = 0
        self._window_start = self._pause_start = 0.0
        self._saved: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out the peak rate, and begin the first window."""
        device, precision = trainer.strategy.root_device, str(trainer.precision)
        self._use_peak(peak_rate(device, precision, tflops=self._peak_tflops))
        if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
            trainer.profiler = self._fetching = FetchClock()  # type: ignore[attr-defined]
        self._last_step = trainer.global_step
        self._begin_window()
        self._go_on(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the window that is open, its sums over all ranks; every rank calls it."""
        if self._sums is None:
            return
        sums: Any = trainer.strategy.reduce(self._sums.clone(), reduce_op="sum")
        checkpoint["callbacks"][self.state_key] = {
            "sums": sums.tolist(),
            "flops": self._flops,
            "seconds": (self._pause_start or time.monotonic()) - self._window_start,
            "waited_s": 0.0 if self._fetching is None else self._fetching.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the window that was open."""
        self._saved = state_dict

    def _go_on(self, trainer: Trainer) -> None:
        """Open the window of a saved run again: its lines do not tell where a run was stopped."""
        saved, self._saved = self._saved, {}
        if not saved:
            return
        self._flops = saved["flops"]
        self._window_start -= saved["seconds"]
        if self._fetching is not None:
            self._fetching.seconds = saved["waited_s"]
        device = trainer.strategy.root_device
        sums = torch.tensor(saved["sums"], dtype=sum_dtype(device), device=device)
        self._sums = sums if trainer.is_global_zero else torch.zeros_like(sums)

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
        self._sums, self._flops = None, 0.0
        self._window_start = time.monotonic()
        if self._fetching is not None:
            self._fetching.seconds = 0.0

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self._pause_start = time.monotonic()

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock again."""
        self._window_start += time.monotonic() - self._pause_start
        self._pause_start = 0.0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the learning rate of this step; when it is logged, that of the next is set."""
        self._lr = float(optimizer.param_groups[0]["lr"])

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
        if step % trainer.log_every_n_steps == 0 or step == trainer.max_steps:  # type: ignore[attr-defined]
            self._log(trainer, pl_module, step)
            self._begin_window()

    def _log(self, trainer: Trainer, pl_module: PretrainModule, step: int) -> None:
        assert self._sums is not None
        sums: Any = trainer.strategy.reduce(self._sums, reduce_op="sum")
        seconds = time.monotonic() - self._window_start
        found = means(sums, pl_module.pair_loss_weight)
        metrics = {f"train/{name}": value for name, value in found.items()}
        if pl_module.grad_norm is not None:
            metrics["train/grad_norm"] = float(pl_module.grad_norm)
        metrics["train/lr"] = self._lr
        metrics["train/tokens_per_s"] = float(sums[LossSums._fields.index("tokens")]) / seconds
        metrics["train/mfu"] = self._share_of_peak(trainer, self._flops / seconds)
        metrics["train/memory_gib"] = memory_gib(trainer.strategy.root_device)
        if self._fetching is not None:
            metrics["train/data_wait_share"] = self._fetching.seconds / seconds
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None:
            metrics["train/samples_seen"] = float(step * datamodule.global_batch_size)
        show(trainer, {k: format(metrics[n], f) for n, (k, f) in _SHOWN.items() if n in metrics})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


class EvaluationReport(Callback):
    """Log new baselines; print a line after every validation; keep the curves drawn.

    The plot takes the better part of a second, so it is drawn twice a minute at most and at the
    end, not at every one of many short validations.

    Args:
        folder: The run's folder, with its metrics file.
        draws: Whether there are curves to draw; a rehearsal has none.
    """

    def __init__(self, folder: str | Path, *, draws: bool = True) -> None:
        self.folder = Path(folder)
        self.draws = draws
        self.baselines: dict[str, float] = {}
        self._drawn_at = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what chance and a unigram guesser score on the validation examples."""
        self._drawn_at = time.monotonic()  # the first drawing is due when there is something to see
        self._log_baselines(trainer)
        say_above(trainer, _opening(trainer, pl_module, self.folder, keeps=self.draws))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics beside the baselines, and draw now and then."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if not self.baselines:  # of a run that was complete, which does not start
            self._log_baselines(trainer)
        self._report(trainer, "val", f"step {pl_module.evaluated_step:,}: validation")
        if time.monotonic() - self._drawn_at >= _DRAW_EVERY_S:
            self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        if trainer.is_global_zero:
            self._draw()

    def _log_baselines(self, trainer: Trainer) -> None:
        """Log them and the counts of the plan, but those that the run has logged last already."""
        datamodule, path = trainer.datamodule, self.folder / METRICS_FILE  # type: ignore[attr-defined]
        self.baselines = datamodule.baselines()
        metrics = {f"baseline/{name}": value for name, value in self.baselines.items()}
        metrics |= {f"data/{name}": value for name, value in datamodule.plan_counts().items()}
        rows = read_metrics(path) if self.draws and path.exists() else []
        if all(str(last_value(rows, name)) == str(float(v)) for name, v in metrics.items()):  # nan
            return
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _draw(self) -> None:
        path = self.folder / METRICS_FILE
        if self.draws and path.exists():
            plot_curves({self.folder.name: read_metrics(path)}, self.folder / CURVES_FILE)
            self._drawn_at = time.monotonic()

    def _report(self, trainer: Trainer, stage: str, opening: str) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        parts = [
            f"{opening} MLM loss {metrics[f'{stage}/mlm_loss']:.3f}",
            f"accuracy {metrics[f'{stage}/mlm_accuracy']:.1%} "
            f"(unigram {self.baselines['unigram_accuracy']:.1%})",
        ]
        if f"{stage}/pair_accuracy" in metrics:
            parts.append(
                f"pair accuracy {metrics[f'{stage}/pair_accuracy']:.1%} "
                f"(chance {self.baselines['pair_chance']:.1%})"
            )
        say_above(trainer, ", ".join(parts))


class EvaluationRecord(EvaluationReport):
    """`validate` and `test`: a line in the run's `evaluations.jsonl`, nothing in what it trained.

    Each line has the command; the checkpoint, its step, and whether it is one of the run's own; the
    shards, and what about them differs from those it was trained on; how many examples of their
    validation split were scored, and of how many; the metrics and the baselines.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and keep the metrics of the first validation examples."""
        step = pl_module.evaluated_step if trainer.ckpt_path else None
        opening = "validation" if step is None else f"step {step:,}: validation"
        self._record(trainer, pl_module, "validate", "val", opening)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and keep the metrics of the whole validation split."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        scored, size = data.scored_examples(whole=True), data.split_examples
        part = f"first {scored:,} of {size:,} examples of the validation split"
        opening = "whole validation split:" if scored == size else f"{part}:"
        self._record(trainer, pl_module, "test", "test", opening)

    def _record(
        self, trainer: Trainer, module: LightningModule, command: str, stage: str, opening: str
    ) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(module, PretrainModule)
        datamodule, whole = trainer.datamodule, command == "test"  # type: ignore[attr-defined]
        self.baselines = datamodule.baselines(whole=whole)
        self._report(trainer, stage, opening)
        record = {
            "command": command,
            **self._evaluated(trainer, module),
            "folder": str(datamodule.folder),
            "examples": datamodule.scored_examples(whole=whole),
            "split_examples": datamodule.split_examples,
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
            "baselines": self.baselines,
        }
        path = self.folder / EVALUATIONS_FILE
        append_record(path, record)
        say_above(trainer, f"written: {path}")

    def _evaluated(self, trainer: Trainer, module: PretrainModule) -> dict[str, Any]:
        """Return which weights were evaluated, and whether on data like those of their training."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.ckpt_path:
            own = (self.folder / CHECKPOINT_FOLDER).resolve()
            return {
                "checkpoint": str(trainer.ckpt_path),
                "own_checkpoint": Path(trainer.ckpt_path).resolve().parent == own,
                "step": module.evaluated_step,
                "differs_from_training": list(datamodule.differs_from_training),
            }
        metadata = module.started_from["metadata"]
        return {
            "checkpoint": module.started_from["source"],
            "own_checkpoint": False,
            "step": metadata.get("steps"),
            "differs_from_training": differences_from_bundle(metadata, datamodule.fingerprint()),
        }


def _opening(trainer: Trainer, module: LightningModule, folder: Path, *, keeps: bool) -> str:
    """What is about to be trained, on what, how long, and where it goes, in three lines."""
    assert isinstance(module, PretrainModule)
    parameters = sum(p.numel() for p in module.parameters())
    config, datamodule = module.encoder_config, trainer.datamodule  # type: ignore[attr-defined]
    counts, done = datamodule.plan_counts(), trainer.global_step
    left = counted(int(trainer.estimated_stepping_batches) - done, "step(s)")
    sizes = (datamodule.global_batch_size, datamodule.micro_batch_size, counts["examples"])
    batch, micro, examples = (counted(number, "example(s)") for number in sizes)
    return (
        f"run {folder.name}: {f'after step {done:,} {left} more' if done else left} of "
        f"{batch}; objective {module.objective.name}; "
        + (f"everything goes to {folder}\n" if keeps else "nothing is written\n")
        + f"data {datamodule.folder}: {examples} per epoch from "
        f"{counts['tokens_total']:,.0f} tokens, {counts['coverage']:.3%} of them used\n"
        f"model: {config.to_dict()['kind']}, {config.num_layers} layers x {config.hidden_size}, "
        f"{parameters:,} parameters; precision {trainer.precision}; a step is "
        f"{micro} x {trainer.accumulate_grad_batches} accumulated x "
        f"{counted(trainer.world_size, 'device(s)')}"
    )
