"""What a fit keeps: a metrics file and the weights of the best epoch."""

import json
import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from finetune.module import ClassifierModule

LOG_EVERY_N_STEPS = 10


class MetricsFile(Callback):
    """Appends `{"step", "elapsed_s", metric: value, ...}` lines to a JSONL file.

    Args:
        path: File; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = time.monotonic()

    def append(self, step: int, **values: Any) -> None:
        """Write one line; numbers that are not finite keep Python's JSON spelling."""
        row = {"step": step, "elapsed_s": round(time.monotonic() - self._started, 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write loss and learning rate every few steps."""
        if trainer.global_step % LOG_EVERY_N_STEPS == 0:
            loss = float(trainer.callback_metrics["train/loss"])
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            self.append(trainer.global_step, **{"train/loss": loss, "lr": lr})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation metrics of an epoch."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.append(trainer.global_step, epoch=trainer.current_epoch + 1, **values)


class BestEpoch(Callback):
    """Keeps the classifier's weights, in memory, of the epoch with the best validation accuracy.

    Equal accuracies are decided by the smaller validation loss.
    """

    def __init__(self) -> None:
        self.epoch = 0
        """Best epoch, counted from 1."""
        self.metrics: dict[str, float] = {}
        """Its `accuracy`, `macro_f1` and `loss`."""
        self._state: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best so far.

        Raises:
            ValueError: The validation loss is not a finite number.
        """
        assert isinstance(pl_module, ClassifierModule)
        names = ("accuracy", "macro_f1", "loss")
        metrics = {name: float(trainer.callback_metrics[f"val/{name}"]) for name in names}
        epoch = trainer.current_epoch + 1
        if not math.isfinite(metrics["loss"]):
            raise ValueError(
                f"the validation loss is {metrics['loss']} after epoch {epoch}: training has "
                f"diverged; give a smaller --lr than {pl_module.config.lr} or another --seed"
            )
        if not self.metrics or _rank(metrics) > _rank(self.metrics):
            self.epoch, self.metrics = epoch, metrics
            state = pl_module.classifier.state_dict()
            self._state = {k: v.detach().to("cpu", copy=True) for k, v in state.items()}

    def restore(self, module: ClassifierModule) -> None:
        """Put the best epoch's weights into the module's classifier."""
        module.classifier.load_state_dict(self._state)


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["accuracy"], -metrics["loss"]
