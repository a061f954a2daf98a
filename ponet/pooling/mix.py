"""Fusion of the pools. B batch, L tokens, D width."""

import torch
from torch import Tensor


def mix_pools(
    *,
    global_BD: Tensor | None,
    segment_BLD: Tensor | None,
    local_BLD: Tensor | None,
    gate_BLD: Tensor | None,
    mask_BL1: Tensor,
) -> Tensor:
    """Return (global + segment) * gate + local, 0 at padding; a pool that is None is left out.

    Args:
        global_BD: Global pool, the same for all tokens of a row.
        segment_BLD: Segment pool.
        local_BLD: Local pool.
        gate_BLD: Projection of the token itself; None = no product.
        mask_BL1: bool, True at real tokens.

    Returns:
        (B, L, D).

    Source:
        PoNet (arXiv 2110.02442), pooling fusion. The product tells apart tokens that share the
        same pools.
    """
    shared: Tensor | None = segment_BLD
    if global_BD is not None:
        per_token_B1D = global_BD[:, None]
        shared = per_token_B1D if shared is None else shared + per_token_B1D.to(shared.dtype)
    mixed = _gate_and_add(shared, gate_BLD, local_BLD)
    # A product, not a fill: three times faster on the CPU. A lone global pool is spread by it.
    return mixed * mask_BL1.to(mixed.dtype)


def _gate_and_add(shared: Tensor | None, gate: Tensor | None, local: Tensor | None) -> Tensor:
    if shared is None:
        assert local is not None, "the configuration refuses an encoder without pools"
        return local
    if gate is None:
        return shared if local is None else shared + local
    shared = shared.to(gate.dtype)
    return shared * gate if local is None else torch.addcmul(local, shared, gate)
