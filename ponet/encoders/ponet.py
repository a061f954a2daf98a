"""PoNet token mixer. B batch, L tokens, R tokens that are read, D width, N = B * L.

Under autocast the per-token projections, the max pools and the fusion run in the low precision;
the global branch (masked mean, softmax, its small products) has float32 sums, because it sums over
the whole sequence: of float32 states, or, in the Triton path, of bfloat16 ones.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.config import PoolingConfig, projections_in_use
from ponet.dropout import Dropout
from ponet.encoders.backbone import TokenMixer, at_positions
from ponet.pooling.global_pool import Weights, attend, mean_query, pool_projected
from ponet.pooling.mix import choose_kernels, kernel_set, mix, with_tiles
from ponet.pooling.plan import PoolInputs, PoolPlan, at_least_float32, by_text, plan_pools


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

    def __init__(self, config: PoolingConfig) -> None:
        """Create the parameters that the configuration uses, and no others."""
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.uses_gate = "gate" in projections_in_use(config)
        for name in projections_in_use(config):
            self.add_module(name, nn.Linear(width, width))
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout_prob)

    @property
    def keeps_texts_apart(self) -> bool:
        """Whether no text sees another of its row.

        Local windows end at a text's last tokens only if those and the next one's first, [SEP] and
        [CLS], are guarded, and if they reach over no more than these two.
        """
        reach = self.config.local_window // 2 if self.config.use_local_pool else 0
        return reach <= (2 if self.config.guard_special_tokens else 0)

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
        # Without gradients a CPU takes the layers themselves, which may be frozen ones.
        in_one_step = has_tokens and (torch.is_grad_enabled() or x_BLD.device.type != "cpu")
        if kernels != "reference" and config.global_pool == "attention" and in_one_step:
            return pool_projected(
                x_BLD,
                self.weights(),
                plan=plan,
                num_heads=config.num_heads,
                window=config.local_window,
                kernels=kernel_set(kernels),
                dtype=dtype,
            )
        inputs = self.project(x_BLD, plan)
        mixed_BLD = mix(inputs, plan=plan, window=config.local_window, kernels=kernels)
        return mixed_BLD.to(dtype)  # the global pool alone is float32

    def project(self, x_BLD: Tensor, plan: PoolPlan) -> PoolInputs:
        """Return what is pooled: the projections of every token and the global pool."""
        config = self.config
        global_BD = self.pool_globally(x_BLD, plan)
        # One cast for three products; autocast by itself would cast once for each.
        x_BLD = x_BLD.to(autocast_dtype(x_BLD))
        return PoolInputs(
            global_BD=global_BD,
            segment_BLD=self.segment(x_BLD) if config.use_segment_pool else None,
            local_BLD=self.local(x_BLD) if config.use_local_pool else None,
            gate_BLD=self.gate(x_BLD) if self.uses_gate else None,
        )

    def mix_at(self, x_BLD: Tensor, plan: PoolPlan, read_BR: Tensor) -> Tensor:
        """Return the (B, R, D) update of some tokens: all are pooled, these read the pools."""
        dtype, read_BRD = autocast_dtype(x_BLD), at_positions(x_BLD, read_BR)
        parts, low_BLD = [], x_BLD.to(dtype)
        if (global_BD := self.pool_globally(x_BLD, plan)) is not None:
            parts.append(_of_text(global_BD, read_BR, plan))
        if self.config.use_segment_pool:
            parts.append(self._pooled_at(read_BR, plan, segment_BLD=self.segment(low_BLD)))
        mixed = sum(parts[1:], start=parts[0]) if parts else None
        if mixed is not None and self.uses_gate:
            mixed = mixed * at_least_float32(self.gate(read_BRD))
        if self.config.use_local_pool:
            local_BRD = self._pooled_at(read_BR, plan, local_BLD=self.local(low_BLD))
            mixed = local_BRD if mixed is None else mixed + local_BRD
        assert mixed is not None
        mixed_BRD = (mixed * at_positions(plan.mask_BL1, read_BR)).to(dtype)
        update: Tensor = self.dropout(self.output(mixed_BRD))
        return update

    def _pooled_at(self, read_BR: Tensor, plan: PoolPlan, **values: Tensor) -> Tensor:
        """Return the maxima (B, R, D) that some tokens read of one pool, float32 or wider."""
        inputs = PoolInputs(**{**dict.fromkeys(PoolInputs._fields), **values})
        window, kernels = self.config.local_window, self.config.kernels
        pooled_BLD = mix(inputs, plan=plan, window=window, kernels=kernels)
        return at_least_float32(at_positions(pooled_BLD, read_BR))

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
            x_BLD, weights = by_text(at_least_float32(x_BLD), plan), self.weights()
            if self.config.global_pool == "mean":
                return mean_query(x_BLD, weights, plan)[1]
            return attend(x_BLD, weights, plan, self.config.num_heads)[0]


def _of_text(global_TD: Tensor, read_BR: Tensor, plan: PoolPlan) -> Tensor:
    """Return the global pool (B, R, D), or (B, 1, D) of rows that are texts, of some tokens."""
    if plan.text_places is None:
        return global_TD[:, None]
    text_BR1 = plan.text_rows_N.view(plan.mask_BL1.shape[:2]).gather(1, read_BR)[..., None]
    # A product, because the gradient of a look-up is summed in any order on a GPU.
    is_own_BRT = text_BR1 == torch.arange(len(global_TD), device=global_TD.device)
    return is_own_BRT.to(global_TD.dtype) @ global_TD


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that autocast would give the tensor; outside autocast, its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
