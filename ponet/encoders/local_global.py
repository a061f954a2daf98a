"""Local and global attention in turn: most layers see a window, every few layers see everything.

B batch, L tokens, D width, H heads, K head width, W window, n blocks of W tokens in a row,
N = B * n. The local layers cost a constant per token: a block of W queries has the 2 W keys around
it, of which a mask leaves each its window.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import LocalGlobalConfig
from ponet.encoders.backbone import at_positions
from ponet.encoders.bert import BertMixer


class LocalGlobalPlan(NamedTuple):
    """Who attends to whom."""

    everywhere: Any
    """In the global layers: the plan of BERT's mixer."""
    nearby: Tensor
    """In the local ones, bool: (N, 1, W, 2 W), each block of queries and the keys from W / 2 tokens
    before it to as many behind it; or (B or 1, 1, L, L) for rows of 2 W tokens or fewer."""


class GlobalMixer(BertMixer):
    """BERT's mixer as a global layer among local ones."""

    def prepare(self, batch: EncoderBatch) -> Any:
        """Return the `LocalGlobalPlan` of a batch, for both kinds of layers."""
        assert isinstance(self.config, LocalGlobalConfig)
        nearby = plan_windows(batch, self.config.window)
        return LocalGlobalPlan(super().prepare(batch), nearby)

    def forward(self, x_BLD: Tensor, plan: Any) -> Tensor:
        """Return the (B, L, D) update."""
        return super().forward(x_BLD, plan.everywhere)

    def mix_at(self, x_BLD: Tensor, plan: Any, read_BR: Tensor) -> Tensor:
        """Return the (B, R, D) update of some tokens."""
        return super().mix_at(x_BLD, plan.everywhere, read_BR)


class LocalMixer(GlobalMixer):
    """Attention of every token to the W / 2 tokens before it, itself and the W / 2 behind it.

    Source:
        The sliding window of Longformer (arXiv 2004.05150), with the sizes of ModernBERT
        (arXiv 2412.13663): 128 tokens, every third layer global, the first one too. Positions are
        the learned ones of this project's other encoders, not ModernBERT's rotary ones, and so are
        embeddings, norms and feed-forward: the mixer alone differs. Blocks of W queries were the
        fastest of three sizes on a CPU (W / 2, W, 2 W). An ONNX graph, which has one form for all
        lengths, masks full attention instead.
    """

    def forward(self, x_BLD: Tensor, plan: Any) -> Tensor:
        """Return the (B, L, D) update."""
        update: Tensor = self.dropout(self.output(self._nearby(x_BLD, plan)))
        return update

    def mix_at(self, x_BLD: Tensor, plan: Any, read_BR: Tensor) -> Tensor:
        """Return the (B, R, D) update of some tokens."""
        attended_BRD = at_positions(self._nearby(x_BLD, plan), read_BR)
        update: Tensor = self.dropout(self.output(attended_BRD))
        return update

    def _nearby(self, x_BLD: Tensor, plan: LocalGlobalPlan) -> Tensor:
        """Return what the attention gives every token, (B, L, D)."""
        (num_rows, num_tokens, width), block = x_BLD.shape, plan.nearby.shape[-2]
        qkv_BLE = self.query_key_value(x_BLD)
        if plan.nearby.shape[-1] == block:
            return self._attend(self._split(qkv_BLE, 3), plan.nearby)
        query_BLD, both_BLE = qkv_BLE.split_with_sizes((width, 2 * width), -1)
        missing = -num_tokens % block
        query_NWD = F.pad(query_BLD, (0, 0, 0, missing)).view(-1, block, width)
        halves = F.pad(both_BLE, (0, 0, block // 2, missing + block // 2))
        halves = halves.view(num_rows, -1, block, 2 * width)
        both_NVE = torch.cat([halves[:, :-1], halves[:, 1:]], 2).flatten(0, 1)
        parts = (*self._split(query_NWD, 1), *self._split(both_NVE, 2))
        attended = self._attend(parts, plan.nearby)
        return attended.view(num_rows, -1, width)[:, :num_tokens]


def layer_mixer(config: LocalGlobalConfig, number: int) -> GlobalMixer:
    """Return the mixer of a layer, counted from 0."""
    return attention_mixer(config, config.attended(number))


def attention_mixer(config: LocalGlobalConfig, attended: float) -> GlobalMixer:
    """Return the mixer of a layer that attends to a window of tokens, or to infinitely many."""
    return (LocalMixer if math.isfinite(attended) else GlobalMixer)(config)


def plan_windows(batch: EncoderBatch, window: int) -> Tensor:
    """Return `LocalGlobalPlan.nearby`.

    Real tokens see real ones of their text alone, padding sees padding: so none sees nothing.

    Args:
        batch: Any batch.
        window: W, even.
    """
    texts_BL = _texts(batch)
    if texts_BL.shape[1] <= 2 * window:
        place_L = torch.arange(texts_BL.shape[1], device=texts_BL.device)
        near_LL = (place_L[:, None] - place_L).abs() <= window // 2
        if not batch.has_padding and batch.text_places is None:
            return near_LL[None, None]
        return (near_LL & (texts_BL[:, :, None] == texts_BL[:, None]))[:, None]
    missing = -texts_BL.shape[1] % window
    blocks = (texts_BL.shape[0], -1, window)
    asking = F.pad(texts_BL, (0, missing), value=-1).view(blocks)
    halves = F.pad(texts_BL, (window // 2, missing + window // 2), value=-1).view(blocks)
    asked = torch.cat([halves[:, :-1], halves[:, 1:]], 2)
    query_W1 = torch.arange(window, device=texts_BL.device)[:, None]
    ahead_WV = torch.arange(2 * window, device=texts_BL.device) - query_W1
    near_WV = (ahead_WV >= 0) & (ahead_WV <= window)
    allowed: Tensor = near_WV & (asking[..., None] == asked[:, :, None])
    return allowed.flatten(0, 1)[:, None]


def _texts(batch: EncoderBatch) -> Tensor:
    """Return the text of every token within its row, int64 (B, L); -1 at padding."""
    if batch.text_places is None:
        return batch.mask.long() - 1
    text_BL = (batch.text_slots // batch.text_places.shape[1]).view_as(batch.mask)
    return text_BL.masked_fill(~batch.mask, -1)
