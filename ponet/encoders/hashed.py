"""Bottleneck over hashed words: the input of encoders without an embedding table.

B batch, L words, W distinct words, N hashes, M features, C = 2 window + 1 places, D width, K = C D.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig

_FEW_LISTED, _RADIX_SORTED = 2**12, 2**15
"""From so many numbers on a CPU sorts by radix, several times faster: padding up to there pays."""


class SumRows(torch.autograd.Function):
    """Sums of listed rows; the gradient is the same sum over the lists turned round.

    PyTorch's own gradient adds row after row to the table; a sum over the places that list a row
    takes a third of that time.
    """

    @staticmethod
    def forward(ctx: Any, lists_WN: Tensor, table_MK: Tensor) -> Tensor:
        """Return (W + 1, K), the first row zero."""
        num_words, length = lists_WN.shape
        ctx.save_for_backward(lists_WN)
        ctx.num_rows = len(table_MK)
        starts = (torch.arange(num_words + 1, device=lists_WN.device) - 1).clamp(min=0) * length
        return F.embedding_bag(lists_WN.flatten(), table_MK, starts, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_WK: Tensor) -> tuple[None, Tensor]:
        """Return the gradient (M, K) of the table."""
        (lists_WN,) = ctx.saved_tensors
        short = torch.int16 if ctx.num_rows < 2**15 else torch.int32
        listed = lists_WN.flatten().to(short)
        if _FEW_LISTED < listed.numel() < _RADIX_SORTED:
            listed = F.pad(listed, (0, _RADIX_SORTED - listed.numel()), value=ctx.num_rows)
        rows, places = listed.sort(stable=True)
        numbers_M = torch.arange(ctx.num_rows, device=rows.device, dtype=short)
        starts_M = torch.searchsorted(rows, numbers_M)
        words = places[: lists_WN.numel()] // lists_WN.shape[1]
        return None, F.embedding_bag(words, grad_WK[1:].contiguous(), starts_M, mode="sum")


def sum_rows(lists_WN: Tensor, table_MK: Tensor) -> Tensor:
    """Return the sum of the listed rows, counts times weights without the counts.

    Args:
        lists_WN: int64 in [0, M), with repetitions.
        table_MK: Rows to add up.

    Returns:
        (W + 1, K); the first row is zero, the sum of an empty list.
    """
    summed_WK: Tensor = SumRows.apply(lists_WN, table_MK)  # type: ignore[no-untyped-call]
    return summed_WK


def window_rows(batch: EncoderBatch, window: int) -> Tensor:
    """Return which rows of a table of (word, place) each place of a text adds up, (B L, C).

    The table begins with a word of zeros, which stands for what lies outside of a text.

    Args:
        batch: Its input_ids number the words.
        window: Neighbours on each side.

    Source:
        The window of arXiv 2202.04350: features of t - w, ..., t + w one behind another, zeros
        outside the text.
    """
    num_places, empty_BL = 2 * window + 1, ~batch.mask
    ids_BL = (batch.input_ids + 1).masked_fill(empty_BL, 0)
    if not window:
        return ids_BL.view(-1, 1)
    seen_BLC = F.pad(ids_BL, (window, window)).unfold(1, num_places, 1)
    rows_BLC = seen_BLC * num_places + torch.arange(num_places, device=ids_BL.device)
    return rows_BLC.masked_fill(empty_BL[..., None], 0).flatten(0, 1)


class HashedWords(nn.Module):
    """Linear layer over the features of a window of words; padding has the bias alone.

    `weight` is (M, C, D), so that all a feature means lies in one row. The published layer has it
    as (D, C x M): `weight.permute(2, 1, 0).flatten(1)`.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Build the weights of one configuration.

        Raises:
            ValueError: The configuration has no projection.
        """
        super().__init__()
        if config.projection is None:
            raise ValueError("projection is missing; give ProjectionConfig() or use nn.Embedding")
        self.projection = config.projection
        places, size = 2 * config.projection.window + 1, config.projection.feature_size
        self.weight = nn.Parameter(torch.empty(size, places, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))
        self.reset_parameters()

    sum_rows = staticmethod(sum_rows)
    """An export to a graph without bags of rows puts another form of it in this place."""

    def reset_parameters(self) -> None:
        """Draw weights as nn.Linear does for the C x M inputs of a window."""
        bound = (self.weight.shape[0] * self.weight.shape[1]) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return (B, L, D).

        Raises:
            ValueError: The batch has no word features, or of another width.
        """
        features = batch.word_features
        if features is None:
            raise ValueError(
                "a batch without word_features was given to an encoder of hashed words; make them "
                "with ponet.projection.WordFeatures"
            )
        weight_MK = self.weight.flatten(1)
        if self.projection.is_bag:
            words_WK = self.sum_rows(features.long(), weight_MK)
        else:
            words_WK = F.pad(features.to(weight_MK.dtype) @ weight_MK, (0, 0, 1, 0))
        rows_NC = window_rows(batch, self.projection.window)
        summed_ND = self.sum_rows(rows_NC, words_WK.view(-1, self.weight.shape[2]))[1:]
        return summed_ND.view(*batch.input_ids.shape, -1) + self.bias
