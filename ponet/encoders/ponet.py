"""PoNet token mixer. B batch, L tokens, D width, N = B * L.

Under autocast the per-token projections, the max pools and the fusion run in the low precision;
the global branch (masked mean, softmax, its small products) runs in float32, because it sums over
the whole sequence.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import PoNetConfig, projections_in_use
from ponet.encoders.backbone import TokenMixer
from ponet.pooling.global_pool import Weights, attend, mean_query, pool_projected
from ponet.pooling.mix import choose_kernels, kernel_set, mix, with_tiles
from ponet.pooling.plan import PoolInputs, PoolPlan, at_least_float32, plan_pools


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
        plan = plan_pools(batch, guard_special_tokens=self.config.guard_special_tokens)
        dtype = autocast_dtype(next(self.parameters()))
        chosen = choose_kernels(self.config.kernels, device=batch.mask.device, dtype=dtype)
        return with_tiles(plan) if chosen == "triton" else plan

    def forward(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor:
        """Return the (B, L, D) update."""
        mixed_BLD = self.pool(x_BLD, plan)
        update: Tensor = self.dropout(self.output(mixed_BLD))
        return update

    def pool(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor:
        """Return the fused pools (B, L, D) before the output projection."""
        config, dtype = self.config, autocast_dtype(x_BLD)
        kernels = choose_kernels(config.kernels, device=x_BLD.device, dtype=dtype)
        has_tokens = config.use_segment_pool or config.use_local_pool or self.uses_gate
        if kernels != "reference" and config.global_pool == "attention" and has_tokens:
            return pool_projected(
                x_BLD,
                self.weights(),
                plan=plan,
                num_heads=config.num_heads,
                window=config.local_window,
                kernels=kernel_set(kernels),
                dtype=dtype,
            )
        global_BD = self.pool_globally(x_BLD, plan)
        # One cast for three products; autocast by itself would cast once for each.
        x_BLD = x_BLD.to(dtype)
        inputs = PoolInputs(
            global_BD=global_BD,
            segment_BLD=self.segment(x_BLD) if config.use_segment_pool else None,
            local_BLD=self.local(x_BLD) if config.use_local_pool else None,
            gate_BLD=self.gate(x_BLD) if self.uses_gate else None,
        )
        return mix(inputs, plan=plan, window=config.local_window, kernels=kernels)

    def weights(self) -> Weights:
        """Return the parameters of the projections; None for those the configuration omits."""
        parameters: list[Any] = []
        for name in Weights._fields[::2]:
            layer = getattr(self, name, None)
            parameters += [None, None] if layer is None else [layer.weight, layer.bias]
        return Weights(*parameters)

    def pool_globally(self, x_BLD: Tensor, plan: PoolPlan) -> Tensor | None:
        """Return the global pool (B, D) in at least float32, or None if it is switched off.

        global_pool="mean" is the first stage alone: the projected mean of the real tokens.
        """
        if self.config.global_pool == "none":
            return None
        with torch.autocast(x_BLD.device.type, enabled=False):
            x_BLD, weights = at_least_float32(x_BLD), self.weights()
            if self.config.global_pool == "mean":
                return mean_query(x_BLD, weights, plan)[1]
            return attend(x_BLD, weights, plan, self.config.num_heads)[0]


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast would give the tensor; outside autocast, its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
