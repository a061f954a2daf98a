"""Stacks of which the first parts may be frozen, so that only what lies above them is trained."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

StackT = TypeVar("StackT", bound="FreezableStack")


class FreezableStack(nn.Module):
    """Embeddings, layers and final norm, one after the other; what is frozen is not trained.

    Frozen parts get no gradient and keep nothing for a backward pass. They stay in evaluation mode
    when the model is put into training mode: dropout makes weights robust that adapt to it, and
    these cannot. So the state of a text that leaves them is the same in every epoch, and the one of
    validation.
    """

    embeddings: nn.Module
    layers: nn.ModuleList
    final_norm: nn.Module
    num_frozen: int = 0
    """How many of these parts are frozen, from the embeddings on."""

    @property
    def _parts(self) -> list[nn.Module]:
        return [self.embeddings, *self.layers, self.final_norm]

    def freeze(self, num_blocks: int | None = None) -> None:
        """Freeze the embeddings and the first blocks; do it before making an optimizer.

        Args:
            num_blocks: In [0, layers]; None: all of them, and the final norm.

        Raises:
            ValueError: There are not as many.
        """
        layers = len(self.layers)
        if num_blocks is not None and not 0 <= num_blocks <= layers:
            raise ValueError(
                f"num_blocks is {num_blocks}, but the encoder has {layers} layers; give 0 (the "
                f"embeddings alone) to {layers}, or None for the whole encoder"
            )
        self.num_frozen = len(self._parts) if num_blocks is None else num_blocks + 1
        for number, part in enumerate(self._parts):
            part.requires_grad_(number >= self.num_frozen)
        self.train(self.training)

    def train(self: StackT, mode: bool = True) -> StackT:
        """Put what is not frozen into training mode, or all of it into evaluation mode."""
        super().train(mode)
        for part in self._parts[: self.num_frozen]:
            part.eval()
        return self

    def graph_of(self, number: int) -> AbstractContextManager[None]:
        """Return what a part, counted from the embeddings, runs in: frozen ones leave no graph."""
        return torch.no_grad() if number < self.num_frozen else nullcontext()
