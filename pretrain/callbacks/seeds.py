"""Dropout as a pure function of the sample stream.

Invariant: the random numbers of a forward pass depend on (seed, first sample of its micro-batch)
and on nothing else. So nothing has to be stored to resume, and the same micro-batch drops the same
units on any number of devices.
"""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from pretrain.randomness import derive_key


class StepSeeds(Callback):
    """Seed torch's generators anew before every training forward pass."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed from the number of the micro-batch's first sample."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        first = datamodule.first_sample_of(trainer.global_step, batch_idx)
        seed = int(derive_key(datamodule.seed, "dropout", first))
        # torch.manual_seed would format a stack trace for every kind of device that is absent.
        torch.default_generator.manual_seed(seed)
        kind = pl_module.device.type
        if kind != "cpu":
            getattr(torch, kind).manual_seed(seed)
