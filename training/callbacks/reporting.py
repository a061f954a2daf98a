"""What a learner is measured against, a line per validation, and the curves beside it."""

import json
import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from training.metrics_file import read_metrics
from training.reports.curves import plot_curves
from training.run_config import CURVES_FILE, EVALUATIONS_FILE, METRICS_FILE

_DRAW_EVERY_S = 30.0


class EvaluationReport(Callback):
    """Log the baselines once; print a line after every validation; keep the curves drawn.

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
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        self.baselines = datamodule.baselines()
        counts = datamodule.plan_counts()
        metrics = {f"baseline/{name}": value for name, value in self.baselines.items()}
        metrics |= {f"data/{name}": value for name, value in counts.items()}
        if not trainer.global_step:  # a resumed run has logged them
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=0)
        _say(trainer, _opening(trainer, pl_module, self.folder, keeps=self.draws))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the metrics beside the baselines, and draw now and then."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._report(trainer, "val", f"step {pl_module.evaluated_step:,}: validation")
        if time.monotonic() - self._drawn_at >= _DRAW_EVERY_S:
            self._draw()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the whole run."""
        if trainer.is_global_zero:
            self._draw()

    def _draw(self) -> None:
        path = self.folder / METRICS_FILE
        if self.draws and path.exists():
            plot_curves({self.folder.name: read_metrics(path)}, self.folder / CURVES_FILE)
            self._drawn_at = time.monotonic()

    def _report(self, trainer: Trainer, stage: str, opening: str) -> None:
        if not self.baselines:
            self.baselines = trainer.datamodule.baselines()  # type: ignore[attr-defined]
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
        _say(trainer, ", ".join(parts))


class EvaluationRecord(EvaluationReport):
    """`validate` and `test`: a line in the run's `evaluations.jsonl`, nothing in what it trained.

    Each line has the command, the checkpoint and its step, the shards, what about them differs
    from those it was trained on, the metrics and the baselines.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and keep the metrics of the first validation examples."""
        if trainer.is_global_zero:
            self._report(trainer, "val", f"step {pl_module.evaluated_step:,}: validation")
            self._record(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and keep the metrics of the whole validation split."""
        if trainer.is_global_zero:
            self._report(trainer, "test", "whole validation split:")
            self._record(trainer, pl_module, "test")

    def _record(self, trainer: Trainer, module: LightningModule, command: str) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        record = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": command,
            "checkpoint": str(trainer.ckpt_path),
            "step": module.evaluated_step,
            "folder": str(datamodule.folder),
            "differs_from_training": list(datamodule.differs_from_training),
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
            "baselines": self.baselines,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / EVALUATIONS_FILE
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        _say(trainer, f"written: {path}")


def _say(trainer: Trainer, text: str) -> None:
    """Print on the first rank, above the progress bar where there is one."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(text)
    elif trainer.is_global_zero:
        print(text)


def _opening(trainer: Trainer, module: LightningModule, folder: Path, *, keeps: bool) -> str:
    """What is about to be trained, on what, how long, and where it goes, in three lines."""
    parameters = sum(p.numel() for p in module.parameters())
    config, datamodule = module.encoder_config, trainer.datamodule  # type: ignore[attr-defined]
    counts, done = datamodule.plan_counts(), trainer.global_step
    left = f"{int(trainer.estimated_stepping_batches) - done:,} steps"
    return (
        f"run {folder.name}: {f'after {done:,} steps {left} more' if done else left} of "
        f"{datamodule.global_batch_size} examples; objective {module.objective.name}; "
        + (f"everything goes to {folder}\n" if keeps else "nothing is written\n")
        + f"data {datamodule.folder}: {counts['examples']:,.0f} examples per epoch from "
        f"{counts['tokens_total']:,.0f} tokens, {counts['coverage']:.3%} of them used\n"
        f"model: {config.to_dict()['kind']}, {config.num_layers} layers x {config.hidden_size}, "
        f"{parameters:,} parameters; precision {trainer.precision}; a step is "
        f"{datamodule.micro_batch_size} examples x {trainer.accumulate_grad_batches} accumulated x "
        f"{trainer.world_size} device{'s' * (trainer.world_size != 1)}"
    )
