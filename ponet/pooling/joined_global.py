"""The global pool of texts that share rows, added behind kernels that read one global pool a row.

B batch, L tokens, D width, N = B * L, T texts.
"""

import torch
from torch import Tensor

from ponet.pooling.plan import PoolInputs, PoolPlan, at_least_float32, mixed_dtype


def has_joined_global(inputs: PoolInputs, plan: PoolPlan) -> bool:
    """Return whether there is a global pool of texts that share rows."""
    return inputs.global_BD is not None and plan.text_places is not None


def without_global(inputs: PoolInputs) -> PoolInputs | None:
    """Return the inputs but the global pool, and the gate if nothing else is gated; None: none."""
    if inputs.segment_BLD is not None:
        return inputs._replace(global_BD=None)
    return None if inputs.local_BLD is None else PoolInputs(None, None, inputs.local_BLD, None)


def add_global(mixed_BLD: Tensor | None, inputs: PoolInputs, plan: PoolPlan) -> Tensor:
    """Return the fused pools (B, L, D), given those without the global pool, None for 0."""
    added_BLD = _of_tokens(inputs, plan)
    if inputs.gate_BLD is not None:
        added_BLD = added_BLD * inputs.gate_BLD
    if mixed_BLD is None:
        return added_BLD.to(mixed_dtype(inputs))
    return (mixed_BLD + added_BLD).to(mixed_BLD.dtype)


def global_backward(
    grad_BLD: Tensor, grads: PoolInputs, inputs: PoolInputs, plan: PoolPlan
) -> PoolInputs:
    """Return all gradients, given that of the fused pools and those of all other paths."""
    grad_BLD, gate_BLD = at_least_float32(grad_BLD) * plan.mask_BL1, inputs.gate_BLD
    if gate_BLD is not None:
        of_gate = grad_BLD * _of_tokens(inputs, plan)
        of_gate = of_gate if grads.gate_BLD is None else grads.gate_BLD + of_gate
        grads = grads._replace(gate_BLD=of_gate.to(gate_BLD.dtype))
        grad_BLD = grad_BLD * gate_BLD
    assert inputs.global_BD is not None
    # A product, because the gradient of a look-up is summed in any order on a GPU.
    text_T1 = torch.arange(len(inputs.global_BD), device=grad_BLD.device)[:, None]
    is_own_TN = (text_T1 == plan.text_rows_N).to(grad_BLD.dtype)
    of_global = is_own_TN @ grad_BLD.flatten(0, 1)
    return grads._replace(global_BD=of_global.to(inputs.global_BD.dtype))


def _of_tokens(inputs: PoolInputs, plan: PoolPlan) -> Tensor:
    """Return the global pool (B, L, D) of the text of every token, 0 at padding."""
    assert inputs.global_BD is not None
    tokens_ND = inputs.global_BD.index_select(0, plan.text_rows_N)
    return tokens_ND.view(*plan.mask_BL1.shape[:2], -1) * plan.mask_BL1
