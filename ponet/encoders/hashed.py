"""Bottleneck over hashed words: the input of encoders without an embedding table.

B batch, L words, W distinct words, N hashes, M features, C = 2 window + 1 places, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig


def sum_rows(features_WN: Tensor, weight_MK: Tensor) -> Tensor:
    """Return the sum of the rows of every word, (W, K): counts times weights without the counts.

    Args:
        features_WN: int in [0, M), with repetitions.
        weight_MK: Rows to add up.
    """
    return F.embedding_bag(features_WN.long(), weight_MK, mode="sum")


def add_neighbours(places_BLCD: Tensor) -> Tensor:
    """Return for every word the sum of what its neighbours mean at their place, (B, L, D).

    Args:
        places_BLCD: What each word adds at place 0 (as the last word of the window's left half)
            to C - 1; zero at padding.

    Source:
        The window of arXiv 2202.04350: features of t - w, ..., t + w one behind another, zeros
        outside the text.
    """
    num_places = places_BLCD.shape[2]
    window = num_places // 2
    if not window:
        return places_BLCD[:, :, 0]
    padded = F.pad(places_BLCD, (0, 0, 0, 0, window, window))
    length = places_BLCD.shape[1]
    return sum(
        (padded[:, place : place + length, place] for place in range(1, num_places)),
        start=padded[:, :length, 0],
    )


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
            words_WK = sum_rows(features, weight_MK)
        else:
            words_WK = features.to(weight_MK.dtype) @ weight_MK
        places_BLCD = F.embedding(batch.input_ids, words_WK).view(
            *batch.input_ids.shape, *self.weight.shape[1:]
        )
        mask_BL11 = batch.mask[:, :, None, None]
        summed_BLD = add_neighbours(places_BLCD * mask_BL11)
        return summed_BLD * mask_BL11[:, :, 0] + self.bias
