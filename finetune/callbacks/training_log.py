"""Loss and learning rate of the training steps, and the end of a run whose loss is not finite.

Invariant: every rank looks at the same steps, and all see the same numbers.
"""

import math
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from finetune.module import FinetuneModule


class TrainingLog(Callback):
    """Logs the mean loss of the steps since the last look, every few steps and at validation.

    `train/loss` is the mean over the rows of these steps, in nats (squared error for a
    regression). A loss that is not finite stops training and is noted in the module's `diverged`.

    Args:
        every_n_steps: Optimiser steps between two looks, > 0.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._last_step = 0
        self._losses: list[Tensor] = []
        self._lr = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Losses that are not logged yet, as plain values."""
        return {"losses": [float(loss) for loss in self._losses], "lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with them."""
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self._lr = state_dict["lr"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the step that the run goes on from."""
        self._last_step = trainer.global_step
        self._losses = [loss.to(pl_module.device) for loss in self._losses]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the learning rate that the step takes."""
        self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the loss of a step that this micro-batch completed."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        assert isinstance(pl_module, FinetuneModule) and pl_module.step_loss is not None
        self._losses.append(pl_module.step_loss)
        if self._last_step % self.every_n_steps == 0:
            self.look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps before they are judged."""
        if self._losses:
            self.look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps."""
        if self._losses:
            self.look(trainer, pl_module)

    def look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the steps since the last look; every rank calls it at the same step."""
        assert isinstance(pl_module, FinetuneModule)
        reduced = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean")
        losses: list[float] = reduced.tolist()
        first_step = trainer.global_step - len(losses) + 1
        self._losses = []
        mean = sum(losses) / len(losses)
        for logger in trainer.loggers:
            logger.log_metrics({"train/loss": mean, "lr": self._lr}, step=trainer.global_step)
        trainer.progress_bar_metrics["loss"] = round(mean, 4)
        bad = [n for n, loss in enumerate(losses, first_step) if not math.isfinite(loss)]
        if bad and not pl_module.diverged:
            pl_module.diverged = (
                f"the training loss is {losses[bad[0] - first_step]} at step {bad[0]}"
            )
            trainer.should_stop = True
