"""PoNet token mixer. B batch, L tokens, D width, N = B * L.

Under autocast the per-token projections, the max pools and the fusion run in the low precision;
the global branch (masked mean, softmax, its small products) runs in float32, because it sums over
the whole sequence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import PoNetConfig
from ponet.encoders.backbone import TokenMixer
from ponet.pooling import (
    at_least_float32,
    global_attention,
    local_max,
    masked_mean,
    mix_pools,
    score_bias,
    segment_max,
    segment_rows,
)


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """Indices and masks of one batch, shared by all layers."""

    mask_BL1: Tensor
    """bool, True at real tokens."""
    window_BL1: Tensor
    """bool, True for tokens that enter local windows."""
    write_rows_N: Tensor
    """int64, the segment a token contributes to; see pooling.segment_rows."""
    read_rows_N: Tensor
    """int64, the segment a token reads; the padding row for padding and guarded tokens."""
    score_bias_BL: Tensor
    """float32, see pooling.score_bias."""


def plan_pools(batch: EncoderBatch, *, guard_special_tokens: bool) -> PoolPlan:
    """Return the indices and masks of a batch.

    Args:
        batch: Any batch.
        guard_special_tokens: Whether special tokens stay outside local windows and get neither
            the local nor the segment pool. They still count for their own segment.
    """
    mask_BL = batch.mask
    guarded_BL = batch.special_mask if guard_special_tokens else torch.zeros_like(mask_BL)
    pooled_BL = mask_BL & ~guarded_BL
    write_rows_N = segment_rows(batch.segment_ids, mask_BL)
    read_rows_N = write_rows_N.masked_fill(~pooled_BL.reshape(-1), mask_BL.numel())
    return PoolPlan(
        mask_BL1=mask_BL[..., None],
        window_BL1=pooled_BL[..., None],
        write_rows_N=write_rows_N,
        read_rows_N=read_rows_N,
        score_bias_BL=score_bias(mask_BL),
    )


class PoNetMixer(TokenMixer):
    """Global, segment and local pooling, fused, then a linear layer and dropout.

    `gate`, `segment` and `local` are applied to every token; `query` and `key` to pooled vectors
    only. Three linear layers rather than one wide one: their contiguous outputs save more time on
    the CPU than the wide product does.
    """

    query: nn.Linear
    key: nn.Linear
    gate: nn.Linear
    segment: nn.Linear
    local: nn.Linear

    def __init__(self, config: PoNetConfig) -> None:
        """Create the parameters that the configuration uses, and no others."""
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.uses_gate = "gate" in projections_in_use(config)
        for name in projections_in_use(config):
            self.add_module(name, nn.Linear(width, width))
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout_prob)

    def prepare(self, batch: EncoderBatch) -> PoolPlan:
        """Return the pooling plan of a batch."""
        return plan_pools(batch, guard_special_tokens=self.config.guard_special_tokens)

    def forward(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor:
        """Return the (B, L, D) update."""
        mixed_BLD = self.pool(x_BLD, plan)
        update: Tensor = self.dropout(self.output(mixed_BLD))
        return update

    def pool(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor:
        """Return the fused pools (B, L, D) before the output projection."""
        global_BD = self.pool_globally(x_BLD, plan)
        # One cast for three products; autocast by itself would cast once for each.
        x_BLD = autocast_once(x_BLD)
        gate_BLD = segment_BLD = local_BLD = None
        if self.uses_gate:
            gate_BLD = self.gate(x_BLD)
        if self.config.use_segment_pool:
            segment_ND = self.segment(x_BLD).flatten(0, 1)
            segment_ND = segment_max(segment_ND, plan.write_rows_N, plan.read_rows_N)
            segment_BLD = segment_ND.view_as(x_BLD)
        if self.config.use_local_pool:
            window = self.config.local_window
            local_BLD = local_max(self.local(x_BLD), plan.window_BL1, window=window)
        return mix_pools(
            global_BD=global_BD,
            segment_BLD=segment_BLD,
            local_BLD=local_BLD,
            gate_BLD=gate_BLD,
            mask_BL1=plan.mask_BL1,
        )

    def pool_globally(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor | None:
        """Return the global pool (B, D) in at least float32, or None if it is switched off.

        global_pool="mean" is the first stage alone: the projected mean of the real tokens.
        """
        if self.config.global_pool == "none":
            return None
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD = at_least_float32(x_BLD)
            weight_DD, bias_D = (
                at_least_float32(self.query.weight),
                at_least_float32(self.query.bias),
            )
            mean_BD = masked_mean(x_BLD, plan.mask_BL1[..., 0])
            query_BD = torch.addmm(bias_D, mean_BD, weight_DD.t())
            if self.config.global_pool == "mean":
                return query_BD
            return global_attention(
                x_BLD,
                query_BD,
                at_least_float32(self.key.weight),
                at_least_float32(self.key.bias),
                bias_BL=plan.score_bias_BL,
                num_heads=self.config.num_heads,
            )


def autocast_once(x: Tensor) -> Tensor:
    """Return the tensor in the dtype autocast would give it, or unchanged outside autocast."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def projections_in_use(config: PoNetConfig) -> tuple[str, ...]:
    """Return the names of the projections that a configuration needs.

    The gate multiplies the global and segment pools, so it is absent when both are off.
    """
    has_shared = config.global_pool != "none" or config.use_segment_pool
    needed = {
        "query": config.global_pool != "none",
        "key": config.global_pool == "attention",
        "gate": config.fusion_product and has_shared,
        "segment": config.use_segment_pool,
        "local": config.use_local_pool,
    }
    return tuple(name for name, is_needed in needed.items() if is_needed)
