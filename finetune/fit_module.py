"""FitModule: what the callbacks of a fit ask of the module that is trained."""

from pytorch_lightning import LightningModule
from torch import Tensor, optim, stack


class FitModule(LightningModule):
    """A module whose optimiser steps may take several micro-batches, scored split by split."""

    def __init__(self) -> None:
        super().__init__()
        self.diverged = ""
        """Why training was stopped; empty: it was not."""
        self.evaluation: dict[str, dict[str, float]] = {}
        """Split -> its newest scores, `loss` and `num_rows`."""
        self.step_loss: Tensor | None = None
        """Loss of the newest optimiser step on this rank, as a mean over its rows."""
        self._open_loss: list[Tensor] = []

    @property
    def renamed_after(self) -> int:
        """Step after which `loss_name` is another one; 0: it never is."""
        return 0

    @property
    def loss_name(self) -> str:
        """What the loss of the newest steps is called in logs."""
        return "train/loss"

    def on_before_optimizer_step(self, optimizer: optim.Optimizer) -> None:
        """Put the micro-batches of the step together."""
        self.step_loss = stack(self._open_loss).mean()
        self._open_loss = []
