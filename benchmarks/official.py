"""PoNet in the arrangement of the authors' released code: what the project's speed is held against.

The same function and the same parameters as `ponet.encoders.ponet.PoNetMixer` (a test holds both
together), computed in the released order: five projections of every token, the mean query after its
projection, keys and values by head, each pool in the layout its operator wants, every mask as a
fill of its own. Written from a description of that code; no line of it is used. Left out are its
casts to float32 around the segment pool, so the rival is faster than the release in low precision.

B batch, L tokens, D width, H heads, K head width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import PoNetConfig
from ponet.dropout import Dropout
from ponet.encoders.backbone import Encoder, TokenMixer

EXCLUDED = -10_000.0
"""Stands for minus infinity, as in BERT's masks."""


class OfficialPlan(NamedTuple):
    """Masks and indices of one batch."""

    padding_BL1: Tensor
    """bool, True at padding."""
    outside_BL1: Tensor
    """bool, True at padding and at guarded tokens: they get neither local nor segment pool."""
    num_real_B1: Tensor
    """float32 (B, 1), real tokens per row, at least 1."""
    score_bias_B1L: Tensor
    """float32, 0 at real tokens, -10000 at padding."""
    segment_B1L: Tensor
    """int64 in [0, L]; padding has segment L."""


class OfficialMixer(TokenMixer):
    """Global, segment and local pooling with five projections, then a linear layer and dropout.

    Of the full model: switched-off pools and other windows than 3 are not supported.
    """

    def __init__(self, config: PoNetConfig) -> None:
        super().__init__()
        full = PoNetConfig()
        for name in ("global_pool", "use_segment_pool", "use_local_pool", "fusion_product",
                     "local_window"):  # fmt: skip
            given, needed = getattr(config, name), getattr(full, name)
            if given != needed:
                raise ValueError(
                    f"{name}={given!r} given; the released code knows {needed!r} alone"
                )
        self.config = config
        width = config.hidden_size
        for name in ("query", "key", "gate", "segment", "local", "output"):
            self.add_module(name, nn.Linear(width, width))
        self.neighbours = nn.MaxPool1d(kernel_size=3, stride=1, padding=1)
        self.dropout = Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> OfficialPlan:
        """Return the masks and indices of a batch."""
        padding_BL = ~batch.mask
        guarded_BL = batch.special_mask & self.config.guard_special_tokens
        return OfficialPlan(
            padding_BL1=padding_BL[..., None],
            outside_BL1=(padding_BL | guarded_BL)[..., None],
            num_real_B1=batch.mask.sum(1, keepdim=True).clamp(min=1).float(),
            score_bias_B1L=padding_BL[:, None].float() * EXCLUDED,
            segment_B1L=batch.segment_ids.masked_fill(padding_BL, padding_BL.shape[1])[:, None],
        )

    def forward(self, x_BLD: Tensor, plan: OfficialPlan) -> Tensor:
        """Return the (B, L, D) update."""
        gate_BLD = self.gate(x_BLD)
        mixed_BLD = self._global(x_BLD, gate_BLD, plan)
        mixed_BLD = mixed_BLD + self._segment(x_BLD, plan) * gate_BLD
        mixed_BLD = mixed_BLD + self._local(x_BLD, plan)
        mixed_BLD = mixed_BLD.masked_fill(plan.padding_BL1, 0.0)
        update: Tensor = self.dropout(self.output(mixed_BLD))
        return update

    def _heads(self, x_BLD: Tensor) -> Tensor:
        """Return (B, H, L, K)."""
        return x_BLD.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def _global(self, x_BLD: Tensor, gate_BLD: Tensor, plan: OfficialPlan) -> Tensor:
        """Return the attention of the mean query over all tokens, times the gate."""
        query_BLD = self.query(x_BLD).masked_fill(plan.padding_BL1, 0.0)
        key_BHLK = self._heads(self.key(x_BLD))
        query_BHK = self._heads(query_BLD).sum(2) / plan.num_real_B1[..., None]
        scores_BHL = torch.einsum("bhk,bhlk->bhl", query_BHK.to(key_BHLK.dtype), key_BHLK)
        scores_BHL = scores_BHL / key_BHLK.shape[-1] ** 0.5 + plan.score_bias_B1L
        shares_BHL = F.softmax(scores_BHL, dim=-1)
        pooled_BHK = torch.einsum("bhl,bhlk->bhk", shares_BHL.to(key_BHLK.dtype), key_BHLK)
        gated_BHLK = pooled_BHK[:, :, None] * self._heads(gate_BLD)
        return gated_BHLK.transpose(1, 2).reshape(x_BLD.shape)

    def _segment(self, x_BLD: Tensor, plan: OfficialPlan) -> Tensor:
        """Return the maximum over each token's segment, in the layout (B, D, L) and back."""
        values_BDL = self.segment(x_BLD).transpose(1, 2)
        index_BDL = plan.segment_B1L.expand_as(values_BDL)
        num_rows, width, num_tokens = values_BDL.shape
        table = values_BDL.new_full((num_rows, width, num_tokens + 1), EXCLUDED)
        table = table.scatter_reduce(2, index_BDL, values_BDL, "amax")
        pooled_BLD = table.gather(2, index_BDL).transpose(1, 2)
        return pooled_BLD.masked_fill(plan.outside_BL1, 0.0)

    def _local(self, x_BLD: Tensor, plan: OfficialPlan) -> Tensor:
        """Return the maximum over three neighbours, in the layout (B, D, L) and back."""
        values_BLD = self.local(x_BLD).masked_fill(plan.outside_BL1, EXCLUDED)
        pooled_BLD = self.neighbours(values_BLD.transpose(1, 2)).transpose(1, 2)
        return pooled_BLD.masked_fill(plan.outside_BL1, 0.0)


def official_encoder(config: Any) -> Encoder:
    """Return a freshly initialised encoder; `load_state_dict` takes a PoNet encoder's weights."""
    return Encoder(config, lambda: OfficialMixer(config))
