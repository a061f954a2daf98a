"""What stands for a whole text: a pooler over the states of its tokens.

B batch, L tokens, D width, T texts.
"""

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.encoders.backbone import at_positions, init_weights
from ponet.pooling.plan import score_bias


class Pooler(nn.Module):
    """Linear layer and tanh on the first token ([CLS])."""

    def __init__(self, config: EncoderConfig) -> None:
        """Build and initialise the linear layer."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        init_weights(self, config.init_range)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return (B, D) in [-1, 1]."""
        return torch.tanh(self.dense(x_BLD[:, 0]))


class ChannelAttentionPooler(nn.Module):
    """Softmax over tokens for every channel by itself, weighting a projection of the states.

    Padding takes no part, except in encoders of fixed places: their empty places are as the words.

    Source: the public code of pNLP-Mixer; the bias of its scores has no effect on the softmax and
    is counted by the published sizes.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Build both linear layers, as PyTorch initialises them."""
        super().__init__()
        self.sees_all_places = config.fixed_places
        self.score = nn.Linear(config.hidden_size, config.hidden_size)
        self.feature = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, D), in the dtype of the weights.

        Args:
            x_BLD: Hidden states.
            mask_BL: bool, True = real token; a row without one is pooled over all its places.
        """
        scores_BLD = self.score(x_BLD)
        if not self.sees_all_places:
            scores_BLD = scores_BLD + score_bias(mask_BL)[..., None]
        pooled_BD: Tensor = (scores_BLD.softmax(1) * self.feature(x_BLD)).sum(1)
        return pooled_BD.to(self.score.weight.dtype)  # the mask has made low ones float32


def make_pooler(config: EncoderConfig) -> Pooler | ChannelAttentionPooler:
    """Return the pooler that suits the encoder.

    Attention takes the place of the first token where that cannot stand for the text: hashed
    words, an LSTM of one direction.
    """
    return Pooler(config) if config.first_sees_all else ChannelAttentionPooler(config)


def first_positions(batch: EncoderBatch) -> Tensor:
    """Return the positions of the texts' first tokens, int64 (B, 1) or, of joined ones, (1, T)."""
    if batch.text_places is not None:
        return batch.text_places[None, :, 0]
    return torch.zeros_like(batch.input_ids[:, :1])


def first_states(x_BRD: Tensor) -> Tensor:
    """Return as rows (T, 1, D) the states that were read at `first_positions`."""
    return x_BRD.flatten(0, 1)[:, None]


def pooled_states(x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
    """Return the states (B, L, D) that `pool` reads; of joined texts the first ones (T, 1, D)."""
    if batch.text_places is None:
        return x_BLD
    return first_states(at_positions(x_BLD, first_positions(batch)))


def pool(pooler: nn.Module, x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
    """Return what a pooler makes of the states of a batch, those of joined texts `pooled_states`.

    Raises:
        ValueError: If the pooler reads whole texts, and rows hold several.
    """
    is_masked = isinstance(pooler, ChannelAttentionPooler)
    if is_masked:
        refuse_joined(batch)
    pooled: Tensor = pooler(x_BLD, batch.mask) if is_masked else pooler(x_BLD)
    return pooled


def refuse_joined(batch: EncoderBatch) -> None:
    """Refuse rows of several texts, where a row gives one vector."""
    if batch.text_places is not None:
        raise ValueError(
            f"rows of several texts ({len(batch.text_places)}, of join_texts) were given to a pool "
            "over whole rows, which would mix them; give every text a row of its own"
        )
