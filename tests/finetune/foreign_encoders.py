"""Modules of somebody else, for the tests of encoder files that name one."""

import torch
from torch import Tensor, nn


class Convolution(nn.Module):
    """Embeddings and a convolution that makes them twice as wide."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.convolution = nn.Conv1d(width, 2 * width, 3, padding=1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        embedded = self.embedding(ids) * mask[..., None]
        states: Tensor = self.convolution(embedded.mT).mT
        return states


class TokenByToken(nn.Embedding):
    """States that see nothing but their own token, so that padding may be cut."""

    ignores_padding = True

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids)


class OfIdsAlone(nn.Embedding):
    """An encoder of another signature."""

    def __init__(self, width: int) -> None:
        if width < 1:
            raise RuntimeError(f"no width of {width}")
        super().__init__(32, width)


class Pooled(nn.Module):
    """No states at all: one vector a text."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.zeros(len(ids), 4)
