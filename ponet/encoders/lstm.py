"""LSTM as a token mixer that is the whole block. B batch, L tokens, D width, K of a direction."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch, real_first
from ponet.config import LSTMConfig
from ponet.dropout import Dropout
from ponet.encoders.backbone import TokenMixer


class Reading(NamedTuple):
    """In which order the tokens of a batch are read; what comes after the real ones is harmless."""

    forward_BL: Tensor
    """int64 (B, L): the real tokens from left to right, then padding."""
    backward_BL: Tensor
    """The same with the real tokens from right to left."""
    mask_BL1: Tensor
    """bool, True at real tokens."""


class LSTMMixer(TokenMixer):
    """One layer of an LSTM, from left to right or in both directions, then dropout.

    No packed sequences: they would make a device wait for the lengths. Instead the real tokens are
    read first, so that no state of theirs has seen padding, whose own states are 0.
    """

    is_whole_block: ClassVar[bool] = True

    def __init__(self, config: LSTMConfig) -> None:
        """Build one or two directions, as PyTorch initialises them."""
        super().__init__()
        width = config.hidden_size
        size = width // 2 if config.bidirectional else width
        self.left_to_right = nn.LSTM(width, size, batch_first=True)
        self.right_to_left = (
            nn.LSTM(width, size, batch_first=True) if config.bidirectional else None
        )
        self.dropout = Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> Reading:
        """Return the orders of reading."""
        forward_BL = real_first(batch.mask)
        lengths_B1 = batch.mask.sum(1, keepdim=True)
        places_L = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        mirrored_BL = torch.where(places_L < lengths_B1, lengths_B1 - 1 - places_L, places_L)
        return Reading(forward_BL, forward_BL.gather(1, mirrored_BL), batch.mask[..., None])

    def forward(self, x_BLD: Tensor, plan: Reading) -> Tensor:
        """Return the next (B, L, D) hidden states."""
        read_BLD = _read(self.left_to_right, x_BLD, plan.forward_BL)
        if self.right_to_left is not None:
            back_BLK = _read(self.right_to_left, x_BLD, plan.backward_BL)
            read_BLD = torch.cat([read_BLD, back_BLK], 2)
        states_BLD: Tensor = self.dropout((read_BLD * plan.mask_BL1).to(x_BLD.dtype))
        return states_BLD


def _read(lstm: nn.LSTM, x_BLD: Tensor, order_BL: Tensor) -> Tensor:
    """Return the states (B, L, K), each at the place of the token that was read."""
    ordered_BLD = x_BLD.gather(1, order_BL[..., None].expand_as(x_BLD))
    states_BLK: Tensor = lstm(ordered_BLD)[0]
    back_BL = order_BL.argsort(1)
    return states_BLK.gather(1, back_BL[..., None].expand_as(states_BLK))
