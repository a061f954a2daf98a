"""Kernel set in Triton: the launches of the kernels on the tiles of a batch.

B batch, L tokens, D width, N = B * L, T tiles, K texts, M kinds of values per token. Needs CUDA, or
TRITON_INTERPRET=1 for tests. Nothing here looks at values on the device, so it never waits.

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

from ponet.pooling import triton_cuts, triton_kernels
from ponet.pooling.plan import PoolInputs, PoolPlan, mixed_dtype
from ponet.pooling.run_tiles import RunTiles, TileSizes, plan_tiles

SIZES = TileSizes()
"""How the kernels cut their work."""
_COMBINE_LINE, _COMBINE_STEP = 128, 32
"""Channels and pieces that one step of joining cut runs takes."""


def forward(inputs: PoolInputs, plan: PoolPlan, window: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the fused pools (B, L, D) and small tensors about cut runs; see plan.Kernels.

    The values per token may be slices of one tensor (B, L, M * D), all alike.
    """
    tiles, pool_tiles = plan_tiles(plan, SIZES) if plan.tiles is None else plan.tiles
    if plan.segments_are_runs or inputs.segment_BLD is None:
        cut_max_TD, cut_ties_TD = _cut_runs(inputs, tiles)
        mixed_BLD = _fuse(inputs, tiles, cut_max_TD, plan, window=window)
        return mixed_BLD, (*tiles, cut_max_TD, cut_ties_TD)
    ready_BLD, extra = _pool_sorted(inputs.segment_BLD, pool_tiles, plan)
    mixed_BLD = _fuse(_contiguous(inputs, ready_BLD), tiles, None, plan, window=window)
    return mixed_BLD, (*tiles, *pool_tiles, *extra)


def backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    saved: tuple[Tensor, ...],
    plan: PoolPlan,
    window: int,
) -> PoolInputs:
    """Return the gradients of the inputs; see plan.Kernels."""
    of_global, of_tokens_BLMD = joint_backward(grad_BLD, inputs, saved, plan, window)
    parts = iter(of_tokens_BLMD.unbind(2))
    return PoolInputs(of_global, *(None if t is None else next(parts) for t in inputs[1:]))


def joint_backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    saved: tuple[Tensor, ...],
    plan: PoolPlan,
    window: int,
) -> tuple[Tensor | None, Tensor]:
    """Return the gradient of the global pool, and those of all M values per token (B, L, M, D).

    One tensor, so that one product of the projections' gradients reads it.
    """
    size = len(RunTiles._fields)
    tiles = RunTiles(*saved[:size])
    if plan.segments_are_runs or inputs.segment_BLD is None:
        return _fuse_backward(grad_BLD, inputs, tiles, saved[size:], window=window)
    pool_tiles, cut = RunTiles(*saved[size : 2 * size]), saved[2 * size :]
    # Pooled again rather than kept: it has the size of an activation.
    ready_BLD, _ = _pool_sorted(inputs.segment_BLD, pool_tiles, plan)
    ready = _contiguous(inputs, ready_BLD)
    of_global, of_tokens_BLMD = _fuse_backward(grad_BLD, ready, tiles, (), window=window)
    order_N, place_N = pool_tiles.order_2N
    lone = PoolInputs(None, _reorder(inputs.segment_BLD, order_N), None, None)
    grad_sorted = _reorder(of_tokens_BLMD[:, :, 0], order_N)
    _, of_sorted_BL1D = _fuse_backward(grad_sorted, lone, pool_tiles, cut, window=1)
    of_tokens_BLMD[:, :, 0] = _reorder(of_sorted_BL1D[:, :, 0], place_N)
    return of_global, of_tokens_BLMD


def _contiguous(inputs: PoolInputs, segment_BLD: Tensor) -> PoolInputs:
    """Return the inputs with another segment part, all of it laid out alike."""
    rest = (None if tensor is None else tensor.contiguous() for tensor in inputs[2:])
    return PoolInputs(inputs.global_BD, segment_BLD, *rest)


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
    return x_BLD.flatten(0, 1).index_select(0, order_N).view(x_BLD.shape)


def _launch(tensor: Tensor, num_tiles: int) -> tuple[tuple[int], dict[str, Any]]:
    """Return the grid of a kernel that goes through tiles, and its sizes."""
    width, most = tensor.shape[-1], SIZES.line_bytes // tensor.element_size()
    line = min(most, max(8, 1 << (width - 1).bit_length()))
    sizes = {"LINE": line, "CHUNK": SIZES.chunk, "num_warps": SIZES.num_warps}
    return (num_tiles * -(-width // line),), sizes


def _cut_runs(inputs: PoolInputs, tiles: RunTiles) -> tuple[Tensor, Tensor]:
    """Return maximum and number of ties of every cut run, float32 (T, D), at its first tile.

    Rows of tiles in which no cut run starts are never written nor read.
    """
    x_BLD = inputs.segment_BLD
    if x_BLD is None:
        nothing = tiles.code_N.new_empty(0, dtype=torch.float32)
        return nothing, nothing
    num_tiles, width = tiles.num_tiles, x_BLD.shape[-1]
    # One by one: compiled, the halves of one allocation would be copied around every kernel.
    cut_max_TD, cut_ties_TD = _table(x_BLD, num_tiles, width), _table(x_BLD, num_tiles, width)
    if num_tiles == len(x_BLD):  # a tile holds a whole row
        return cut_max_TD, cut_ties_TD
    piece_max_2TD, piece_ties_2TD = (_table(x_BLD, 2, num_tiles, width) for _ in range(2))
    grid, sizes = _launch(x_BLD, num_tiles)
    triton_cuts.partial_max[grid](
        x_BLD, tiles.code_N, tiles.tiles_4T1, piece_max_2TD, piece_ties_2TD, num_tiles, width,
        x_BLD.stride(1), **sizes,
    )  # fmt: skip
    triton_cuts.combine_max[_combine_grid(num_tiles, width)](
        piece_max_2TD, piece_ties_2TD, tiles.tiles_4T1, cut_max_TD, cut_ties_TD, num_tiles, width,
        LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
    )  # fmt: skip
    return cut_max_TD, cut_ties_TD


def _table(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _combine_grid(num_rows: int, width: int) -> tuple[int, int]:
    return num_rows, -(-width // _COMBINE_LINE)


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
    width, is_per_token = some.shape[-1], some.dim() > 2
    out_BLD = some.new_empty((num_rows, num_tokens, width), dtype=mixed_dtype(inputs))
    grid, sizes = _launch(out_BLD, tiles.num_tiles)
    triton_kernels.mix_forward[grid](
        *inputs, out_BLD, cut_max_TD, tiles.code_N, tiles.text_N, tiles.tiles_4T1,
        tiles.num_tiles, num_tokens, width, some.stride(1) if is_per_token else width,
        **_switches(inputs, window, pools_runs=cut_max_TD is not None), **sizes,
    )  # fmt: skip
    return out_BLD


def _fuse_backward(
    grad_BLD: Tensor,
    inputs: PoolInputs,
    tiles: RunTiles,
    cut: tuple[Tensor, ...],
    *,
    window: int,
) -> tuple[Tensor | None, Tensor]:
    """Return all gradients; without `cut` the segment part of the inputs is pooled already.

    Args:
        grad_BLD: Of the fused pools, contiguous.
        inputs: As for _fuse.
        tiles: As for _fuse.
        cut: Maximum and ties of cut runs, of _cut_runs.
        window: Odd width of the local windows.
    """
    num_rows, num_tokens, width = grad_BLD.shape
    num_tiles, pools_runs = tiles.num_tiles, len(cut) > 0
    num_texts = tiles.ends_2K.shape[1]
    given = [tensor for tensor in inputs[1:] if tensor is not None]
    of_tokens_BLMD = grad_BLD.new_empty((num_rows, num_tokens, len(given), width))
    piece_global_PD = _table(grad_BLD, num_tiles + num_texts, width)
    piece_sum_2TD = _table(grad_BLD, 2, num_tiles, width)
    in_stride = given[0].stride(1) if given else width
    grid, sizes = _launch(grad_BLD, num_tiles)
    triton_kernels.mix_backward[grid](
        grad_BLD, *inputs, of_tokens_BLMD, piece_global_PD, piece_sum_2TD,
        cut[0] if pools_runs else None, tiles.code_N, tiles.text_N, tiles.tiles_4T1,
        num_tiles, num_tokens, width, in_stride, len(given) * width,
        **_switches(inputs, window, pools_runs=pools_runs), **sizes,
    )  # fmt: skip
    if pools_runs and inputs.segment_BLD is not None and num_tiles > num_rows:
        cut_share_TD = _table(grad_BLD, num_tiles, width)
        triton_cuts.combine_sum[_combine_grid(num_tiles, width)](
            piece_sum_2TD, tiles.tiles_4T1, cut[1], cut_share_TD, num_tiles, width,
            LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
        )  # fmt: skip
        triton_cuts.cut_backward[grid](
            inputs.segment_BLD, of_tokens_BLMD, cut[0], cut_share_TD, tiles.code_N,
            tiles.tiles_4T1, num_tiles, width, in_stride, len(given) * width, **sizes,
        )  # fmt: skip
    if inputs.global_BD is None:
        return None, of_tokens_BLMD
    of_global_KD = torch.empty_like(inputs.global_BD)
    triton_cuts.combine_global[_combine_grid(num_texts, width)](
        piece_global_PD, tiles.ends_2K, of_global_KD, num_texts, width,
        LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
    )  # fmt: skip
    return of_global_KD, of_tokens_BLMD
