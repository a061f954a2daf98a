"""Pooling kernels of plain PyTorch operations, backward passes written by hand.

B batch, L tokens, D width, N = B * L, R = N + 1 rows of the table of segments. Every operation here
works on whole tensors and no size depends on values, so that they compile and never make a GPU
wait; on a CPU that does not compile, eager_cpu does the same block by block.
"""

import torch
from torch import Tensor

from ponet.pooling import eager_cpu
from ponet.pooling.plan import PoolInputs, PoolPlan, mixed_dtype


def forward(inputs: PoolInputs, plan: PoolPlan, window: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the fused pools; see plan.Kernels. Nothing beside the inputs is saved."""
    if plan.blocks is not None:
        return eager_cpu.forward(inputs, plan.blocks, window), ()
    shared = _shared(inputs, plan)
    dtype, mask_BL1 = mixed_dtype(inputs), plan.mask_BL1
    local_BLD = None
    if inputs.local_BLD is not None:
        local_BLD = _local_stages(inputs.local_BLD, plan.window_BL1, window)[0]
    if shared is None:
        assert local_BLD is not None
        return local_BLD * mask_BL1.to(dtype), ()
    shared = shared.to(dtype)
    if inputs.gate_BLD is None:
        mixed_BLD = shared if local_BLD is None else shared + local_BLD
    elif local_BLD is None:
        mixed_BLD = shared * inputs.gate_BLD
    else:
        mixed_BLD = torch.addcmul(local_BLD, shared, inputs.gate_BLD)
    return mixed_BLD * mask_BL1.to(dtype), ()


def backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    saved: tuple[Tensor, ...],
    plan: PoolPlan,
    window: int,
) -> PoolInputs:
    """Return the gradients of the inputs; see plan.Kernels."""
    del saved
    if plan.blocks is not None:
        return eager_cpu.backward(grad_BLD, inputs, plan.blocks, window)
    grad_BLD = grad_BLD * plan.mask_BL1.to(grad_BLD.dtype)
    shared = _shared(inputs, plan)
    grad_gate_BLD = grad_shared_BLD = grad_global_BD = grad_segment_BLD = grad_local_BLD = None
    if shared is not None:
        grad_shared_BLD = grad_BLD
        if inputs.gate_BLD is not None:
            grad_gate_BLD = grad_BLD * shared.to(grad_BLD.dtype)
            grad_shared_BLD = grad_BLD * inputs.gate_BLD
    if inputs.global_BD is not None:
        assert grad_shared_BLD is not None
        grad_global_BD = grad_shared_BLD.sum(1, dtype=inputs.global_BD.dtype)
    if inputs.segment_BLD is not None:
        assert grad_shared_BLD is not None
        grad_segment_BLD = _segment_backward(grad_shared_BLD, inputs.segment_BLD, plan)
    if inputs.local_BLD is not None:
        grad_local_BLD = _local_backward(grad_BLD, inputs.local_BLD, plan.window_BL1, window)
    return PoolInputs(grad_global_BD, grad_segment_BLD, grad_local_BLD, grad_gate_BLD)


def _shared(inputs: PoolInputs, plan: PoolPlan) -> Tensor | None:
    """Return global + segment pool, (B, L, D) or (B, 1, D), in the wider dtype."""
    global_B1D = None if inputs.global_BD is None else inputs.global_BD[:, None]
    if inputs.segment_BLD is None:
        if global_B1D is None:
            return None
        return global_B1D.expand(-1, plan.mask_BL1.shape[1], -1)
    table_RD = _segment_table(inputs.segment_BLD.flatten(0, 1), plan)
    segment_BLD = table_RD.index_select(0, plan.read_rows_N).view_as(inputs.segment_BLD)
    return segment_BLD if global_B1D is None else segment_BLD + global_B1D.to(segment_BLD.dtype)


def _segment_table(x_ND: Tensor, plan: PoolPlan) -> Tensor:
    """Return the maximum of every segment, (R, D); the padding row is 0."""
    num_tokens, width = x_ND.shape
    table_RD = x_ND.new_full((num_tokens + 1, width), float("-inf"))
    table_RD.scatter_reduce_(0, plan.write_rows_N[:, None].expand(-1, width), x_ND, "amax")
    table_RD[-1].zero_()
    return table_RD


def _segment_backward(grad_BLD: Tensor, x_BLD: Tensor, plan: PoolPlan) -> Tensor:
    """Return the gradient of x: each segment's sum, shared evenly among its maxima."""
    x_ND = x_BLD.flatten(0, 1)
    num_tokens, width = x_ND.shape
    is_max_ND = x_ND == _segment_table(x_ND, plan).index_select(0, plan.write_rows_N)
    # float32: thousands of bf16 terms may meet in one row.
    dtype = torch.promote_types(grad_BLD.dtype, torch.float32)
    grad_ND = grad_BLD.reshape(num_tokens, width).to(dtype)
    total_RD = grad_ND.new_zeros((num_tokens + 1, width))
    total_RD.scatter_add_(0, plan.read_rows_N[:, None].expand(-1, width), grad_ND)
    write_ND = plan.write_rows_N[:, None].expand(-1, width)
    ties_RD = torch.zeros_like(total_RD).scatter_add_(0, write_ND, is_max_ND.to(dtype))
    total_RD.div_(ties_RD.clamp_(min=1.0))
    total_RD[-1].zero_()
    grad_x_ND = total_RD.index_select(0, plan.write_rows_N).mul_(is_max_ND)
    return grad_x_ND.to(x_BLD.dtype).view_as(x_BLD)


def _local_stages(x_BLD: Tensor, allowed_BL1: Tensor, window: int) -> tuple[Tensor, list[Tensor]]:
    """Return the local maximum, and which of two neighbours won in each comparison."""
    reach = window // 2
    num_rows, num_tokens, width = x_BLD.shape
    keep_BL1 = allowed_BL1.to(x_BLD.dtype)
    best = x_BLD.new_full((num_rows, num_tokens + 2 * reach, width), float("-inf"))
    best[:, reach : reach + num_tokens] = x_BLD.masked_fill(~allowed_BL1, float("-inf"))
    keeps_left = []
    for _ in range(window - 1):
        left, right = best[:, :-1], best[:, 1:]
        keeps_left.append(left >= right)
        best = torch.maximum(left, right)
    # -inf is left only where the token itself is not allowed; a finite value lets 0 win.
    return best.clamp(min=torch.finfo(best.dtype).min).mul_(keep_BL1), keeps_left


def _local_backward(grad_BLD: Tensor, x_BLD: Tensor, allowed_BL1: Tensor, window: int) -> Tensor:
    """Return the gradient of x: that of each window goes to its first maximum."""
    reach, num_tokens = window // 2, x_BLD.shape[1]
    grad = grad_BLD * allowed_BL1.to(grad_BLD.dtype)
    for keep_left in reversed(_local_stages(x_BLD, allowed_BL1, window)[1]):
        num_rows, num_windows, width = grad.shape
        wider = grad.new_zeros((num_rows, num_windows + 1, width))
        to_left = grad * keep_left
        wider[:, :-1] = to_left
        wider[:, 1:] += grad - to_left
        grad = wider
    return grad[:, reach : reach + num_tokens].contiguous()
