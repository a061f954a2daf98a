"""Dropout as a function of seed and step, whatever happened before."""

import hashlib
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class TrainingSeeds(Callback):
    """Seed torch anew before every forward pass: nothing has to be stored to go on.

    Args:
        seed: Seed of the run, in [0, 2^32).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed from run, epoch, micro-batch and rank."""
        place = f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        digest = hashlib.blake2b(place.encode(), digest_size=8).digest()
        seed = int.from_bytes(digest, "little")
        # torch.manual_seed would format a stack trace for every kind of device that is absent.
        torch.default_generator.manual_seed(seed)
        kind = pl_module.device.type
        if kind != "cpu":
            getattr(torch, kind).manual_seed(seed)
