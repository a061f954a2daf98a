"""Validation every n optimiser steps, whatever the accumulation, and after the last one."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class EvaluationInterval(Callback):
    """Set Lightning's validation interval, which counts micro-batches, from optimiser steps.

    The last step is validated too where the interval does not divide the run, so that every run
    ends in a score of the weights it leaves. Set up after the data module, which derives the
    accumulation from the devices, and before all other callbacks: EarlyStopping asks the trainer
    there whether to look at validations or at the end of epochs.

    Args:
        every_n_steps: Optimiser steps between validations, > 0.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Translate steps to micro-batches for the fit loop."""
        if stage == "fit":
            trainer.check_val_every_n_epoch = None
            trainer.val_check_interval = self.every_n_steps * trainer.accumulate_grad_batches

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask for a validation after the last step: Lightning validates where a run shall stop."""
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True
