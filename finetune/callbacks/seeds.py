"""Dropout that repeats, whatever happened before training."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class TrainingSeeds(Callback):
    """Seed each rank's generator when training starts: its own dropout on every rank.

    Args:
        seed: Seed of the run, in [0, 2^32).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what loading and building drew."""
        torch.manual_seed((self.seed << 16) + trainer.global_rank)
