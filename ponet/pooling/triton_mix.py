"""Kernel set in Triton: launches of triton_kernels. Needs CUDA, or TRITON_INTERPRET=1 for tests.

B batch, L tokens, D width, N = B * L, T tiles. Nothing here looks at values on the device, so it
never waits, and no allocation depends on them.

Segments that are runs are pooled while they are fused. For other segment ids the segment values
are brought into the order of the segments, pooled there as runs by the same kernels, and brought
back: two copies each way more, and results repeat bit by bit, as no other scatter does.

There is no kernel for the global pool: folded, it is two matrix products over x in each direction
(and one for the mean), which read x three times forward where an online softmax would read it
twice. The backward rank-(2H+1) update of the gradient of x is a product too, added in place.
"""

from typing import Any

import torch
from torch import Tensor

from ponet.pooling import triton_kernels
from ponet.pooling.plan import PoolInputs, PoolPlan, mixed_dtype
from ponet.pooling.triton_tiles import RunTiles, TileSizes, plan_tiles

SIZES = TileSizes()
"""How the kernels cut their work."""
_COMBINE_LINE, _COMBINE_STEP = 128, 32
"""Channels and pieces that one step of joining cut runs takes."""


def forward(inputs: PoolInputs, plan: PoolPlan, window: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the fused pools (B, L, D) and small tensors about cut runs; see plan.Kernels."""
    tiles, pool_tiles = plan_tiles(plan, SIZES)
    if plan.segments_are_runs or inputs.segment_BLD is None:
        cut_max_TD, cut_ties_TD = _cut_runs(inputs, tiles)
        mixed_BLD = _fuse(inputs, tiles, cut_max_TD, plan, window=window)
        return mixed_BLD, (*tiles, cut_max_TD, cut_ties_TD)
    ready, extra = _pool_sorted(inputs.segment_BLD, pool_tiles, plan)
    mixed_BLD = _fuse(inputs._replace(segment_BLD=ready), tiles, None, plan, window=window)
    return mixed_BLD, (*tiles, *pool_tiles, *extra)


def backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    saved: tuple[Tensor, ...],
    plan: PoolPlan,
    window: int,
) -> PoolInputs:
    """Return the gradients of the inputs; see plan.Kernels."""
    tiles = RunTiles(*saved[:3])
    if plan.segments_are_runs or inputs.segment_BLD is None:
        return _fuse_backward(grad_BLD, inputs, tiles, saved[3:], plan, window=window)
    pool_tiles, cut = RunTiles(*saved[3:6]), saved[6:]
    # Pooled again rather than kept: it has the size of an activation.
    ready_BLD, _ = _pool_sorted(inputs.segment_BLD, pool_tiles, plan)
    ready_inputs = inputs._replace(segment_BLD=ready_BLD)
    grads = _fuse_backward(grad_BLD, ready_inputs, tiles, (), plan, window=window)
    assert grads.segment_BLD is not None
    order_N, place_N = pool_tiles.order_2N
    lone = PoolInputs(None, _reorder(inputs.segment_BLD, order_N), None, None)
    grad_sorted = _reorder(grads.segment_BLD, order_N)
    sorted_grad = _fuse_backward(grad_sorted, lone, pool_tiles, cut, plan, window=1).segment_BLD
    assert sorted_grad is not None
    return grads._replace(segment_BLD=_reorder(sorted_grad, place_N))


def _pool_sorted(
    segment_BLD: Tensor, tiles: RunTiles, plan: PoolPlan
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the segment maximum of every token, 0 where none is read, for any segment ids."""
    order_N, place_N = tiles.order_2N
    lone = PoolInputs(None, _reorder(segment_BLD, order_N), None, None)
    cut_max_TD, cut_ties_TD = _cut_runs(lone, tiles)
    pooled_BLD = _fuse(lone, tiles, cut_max_TD, plan, window=1)
    return _reorder(pooled_BLD, place_N), (cut_max_TD, cut_ties_TD)


def _reorder(x_BLD: Tensor, order_N: Tensor) -> Tensor:
    return x_BLD.flatten(0, 1).index_select(0, order_N).view_as(x_BLD)


def _line(tensor: Tensor) -> int:
    """Return the channels per program."""
    return SIZES.line_bytes // tensor.element_size()


def _sizes(tensor: Tensor) -> dict[str, Any]:
    return {"BLOCK": SIZES.block, "LINE": _line(tensor), "num_warps": SIZES.num_warps}


def _cut_runs(inputs: PoolInputs, tiles: RunTiles) -> tuple[Tensor, Tensor]:
    """Return maximum and number of ties of every cut run, float32 (T, D), at its first tile.

    Rows of tiles in which no cut run starts are never written nor read.
    """
    x_BLD = inputs.segment_BLD
    if x_BLD is None:
        nothing = tiles.code_N.new_empty(0, dtype=torch.float32)
        return nothing, nothing
    num_tiles, width = tiles.num_tiles, x_BLD.shape[-1]
    cut_max_TD, cut_ties_TD = x_BLD.new_empty((2, num_tiles, width), dtype=torch.float32)
    if num_tiles == len(x_BLD):  # a tile holds a whole row
        return cut_max_TD, cut_ties_TD
    piece_max_2TD, piece_ties_2TD = x_BLD.new_empty((2, 2, num_tiles, width), dtype=torch.float32)
    triton_kernels.partial_max[(num_tiles,)](
        x_BLD, tiles.code_N, tiles.tiles_4T1, piece_max_2TD, piece_ties_2TD,
        num_tiles, width, **_sizes(x_BLD),
    )  # fmt: skip
    triton_kernels.combine_max[_combine_grid(num_tiles, width)](
        piece_max_2TD, piece_ties_2TD, tiles.tiles_4T1, cut_max_TD, cut_ties_TD, num_tiles, width,
        LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
    )  # fmt: skip
    return cut_max_TD, cut_ties_TD


def _combine_grid(num_tiles: int, width: int) -> tuple[int, int]:
    return num_tiles, -(-width // _COMBINE_LINE)


def _switches(inputs: PoolInputs, window: int, *, pools_runs: bool) -> dict[str, Any]:
    """Return the compile-time switches of mix_forward and mix_backward."""
    # NO_SEGMENT, POOL_RUNS and IS_POOLED of the kernels.
    segment = 0 if inputs.segment_BLD is None else 1 if pools_runs else 2
    return {
        "HAS_GLOBAL": inputs.global_BD is not None,
        "SEGMENT": segment,
        "HAS_LOCAL": inputs.local_BLD is not None,
        "HAS_GATE": inputs.gate_BLD is not None,
        "REACH": window // 2,
    }


def _fuse(
    inputs: PoolInputs, tiles: RunTiles, cut_max_TD: Tensor | None, plan: PoolPlan, *, window: int
) -> Tensor:
    """Return the fused pools; without `cut_max_TD` the segment part is pooled already."""
    num_rows, num_tokens = plan.mask_BL1.shape[:2]
    some = next(tensor for tensor in reversed(inputs) if tensor is not None)
    width = some.shape[-1]
    out_BLD = some.new_empty((num_rows, num_tokens, width), dtype=mixed_dtype(inputs))
    grid = (tiles.num_tiles * -(-width // _line(out_BLD)),)
    triton_kernels.mix_forward[grid](
        inputs.global_BD, inputs.segment_BLD, inputs.local_BLD, inputs.gate_BLD, out_BLD,
        cut_max_TD, tiles.code_N, tiles.tiles_4T1, tiles.num_tiles,
        num_tokens, width, **_switches(inputs, window, pools_runs=cut_max_TD is not None),
        **_sizes(out_BLD),
    )  # fmt: skip
    return out_BLD


def _fuse_backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    tiles: RunTiles,
    cut: tuple[Tensor, ...],
    plan: PoolPlan,
    *,
    window: int,
) -> PoolInputs:
    """Return all gradients; without `cut` the segment part of the inputs is pooled already.

    Args:
        grad_BLD: Of the fused pools, contiguous.
        inputs: As for _fuse.
        tiles: As for _fuse.
        cut: Maximum and ties of cut runs, of _cut_runs.
        plan: Of the batch.
        window: Odd width of the local windows.
    """
    num_rows, num_tokens, width = grad_BLD.shape
    num_tiles, pools_runs = tiles.num_tiles, bool(cut)
    piece_global_TD = grad_BLD.new_empty((num_tiles, width), dtype=torch.float32)
    piece_sum_2TD = grad_BLD.new_empty((2, num_tiles, width), dtype=torch.float32)
    of_segment, of_local, of_gate = (
        None if tensor is None else torch.empty_like(tensor) for tensor in inputs[1:]
    )
    grid = (num_tiles * -(-width // _line(grad_BLD)),)
    triton_kernels.mix_backward[grid](
        grad_BLD, *inputs, of_segment, of_local, of_gate, piece_global_TD, piece_sum_2TD,
        cut[0] if pools_runs else None, tiles.code_N, tiles.tiles_4T1,
        num_tiles, num_tokens, width, **_switches(inputs, window, pools_runs=pools_runs),
        **_sizes(grad_BLD),
    )  # fmt: skip
    if pools_runs and of_segment is not None and num_tiles > num_rows:
        cut_share_TD = torch.empty_like(piece_global_TD)
        triton_kernels.combine_sum[_combine_grid(num_tiles, width)](
            piece_sum_2TD, tiles.tiles_4T1, cut[1], cut_share_TD, num_tiles, width,
            LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
        )  # fmt: skip
        triton_kernels.cut_backward[(num_tiles,)](
            inputs.segment_BLD, of_segment, cut[0], cut_share_TD, tiles.code_N,
            tiles.tiles_4T1, num_tiles, width, **_sizes(grad_BLD),
        )  # fmt: skip
    of_global = None
    if inputs.global_BD is not None:
        of_global = piece_global_TD.view(num_rows, -1, width).sum(1).to(inputs.global_BD.dtype)
    return PoolInputs(of_global, of_segment, of_local, of_gate)
