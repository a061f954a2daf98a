"""Kernel set in Triton: tiles of neighbouring tokens, and the launches of triton_kernels on them.

B batch, L tokens, D width, N = B * L, P tiles per row, T = B * P tiles. Needs CUDA, or
TRITON_INTERPRET=1 for tests. Nothing here looks at values on the device, so it never waits, and no
allocation depends on them.

A run is a maximal stretch of tokens of one segment, padding between them included; any other
padding token is a run of its own. A tile border moves to the left, by up to `slack` tokens, to the
start of the run that it would cut. Only longer runs are cut, and the kernels join their pieces in
a second stage; so a run may be as long as it likes, and all tiles are computed in parallel.

Segments that are runs are pooled while they are fused. For other segment ids the segment values
are brought into the order of the segments, pooled there as runs by the same kernels, and brought
back: two copies each way more, and results repeat bit by bit, as no other scatter does.

There is no kernel for the global pool: folded, it is two matrix products over x in each direction
(and one for the mean), which read x three times forward where an online softmax would read it
twice. The backward rank-(2H+1) update of the gradient of x is a product too, added in place.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.pooling import triton_kernels
from ponet.pooling.joined_global import (
    add_global,
    global_backward,
    has_joined_global,
    without_global,
)
from ponet.pooling.plan import PoolInputs, PoolPlan, mixed_dtype

IS_REAL, HAS_WINDOW, READS_SEGMENT, IS_ALONE, IN_LEFT, IN_RIGHT = 1, 2, 4, 8, 16, 32
"""Bits of the token codes. IS_ALONE: the only token of its run. IN_LEFT, IN_RIGHT: in the cut run
that enters the tile from the left, or that starts in the tile and leaves it to the right."""
FIRST_RUN = 64
"""Token codes also hold this times the number, from 1, of the token's run among those of two tokens
or more that lie in the tile as a whole; 0 times it in all other runs."""


class TileSizes(NamedTuple):
    """How the work is cut; every choice gives the same result up to the order of sums."""

    block: int = 64
    """Most tokens of a tile, a power of two."""
    slack: int = 16
    """How far a border moves to the left to spare a run, below half a block."""
    line_bytes: int = 64
    """Bytes of one token that a program works on, a power of two of at least 32, a sector."""
    num_warps: int = 8
    """Warps per program. With the two above a thread has 8 values of bfloat16: 48 registers forward
    and 116 backward on an H100, where 32 values (128 bytes, 4 warps) need 137 and 250."""


SIZES = TileSizes()
"""How the kernels cut their work."""
_COMBINE_LINE, _COMBINE_STEP = 128, 32
"""Channels and pieces that one step of joining cut runs takes."""


class RunTiles(NamedTuple):
    """What the kernels know about tokens and tiles; positions count from 0 to N."""

    code_N: Tensor
    """int32, bits and run number of every token."""
    tiles_4T1: Tensor
    """int32. Per tile, and one more behind the last: its first token (N behind the last); the tile
    in which the run starts that enters it from the left, -1 if none does; the tile in which the run
    of its last token ends; how many runs have numbers."""
    order_2N: Tensor
    """int64. Where segments are no runs: the tokens sorted by segment and the place of every token
    in that order; code_N and tiles_4T1 then speak of the sorted tokens. Else (2, 0)."""

    @property
    def num_tiles(self) -> int:
        """T."""
        return self.tiles_4T1.shape[1] - 1


def tile_runs(
    mask_BL: Tensor, window_BL: Tensor, reads_BL: Tensor, rows_BL: Tensor, *, sizes: TileSizes
) -> RunTiles:
    """Return the tiles of a batch whose segments are runs; no size depends on values.

    Args:
        mask_BL: bool, True at real tokens.
        window_BL: bool, True at tokens that enter local windows.
        reads_BL: bool, True at tokens that get their segment's maximum.
        rows_BL: int64, equal for tokens of one segment; ignored at padding.
        sizes: How to cut.
    """
    num_rows, num_tokens = mask_BL.shape
    place_L = torch.arange(num_tokens, device=mask_BL.device)
    inside_BL = _inside_a_run(mask_BL, rows_BL, place_L)
    first_BL = torch.where(inside_BL, 0, place_L).cummax(1).values
    next_start_BL = _from_right(torch.where(inside_BL, num_tokens, place_L))
    last_BL = F.pad(next_start_BL[:, 1:], (0, 1), value=num_tokens) - 1
    border_P = torch.arange(0, num_tokens, sizes.block - sizes.slack, device=mask_BL.device)
    start_BP = first_BL[:, border_P]
    is_cut_BP = border_P - start_BP > sizes.slack
    begin_BP = torch.where(is_cut_BP, border_P, start_BP)

    offset_B1 = torch.arange(num_rows, device=mask_BL.device)[:, None] * num_tokens
    # Flattened first: searchsorted, compiled for a GPU, wants a buffer and no view of a sum.
    begin_T = begin_BP.flatten() + offset_B1.expand_as(begin_BP).flatten()
    owner_T = torch.searchsorted(begin_T, (start_BP + offset_B1).flatten(), right=True) - 1
    owner_T = owner_T.where(is_cut_BP.flatten(), -1)
    first_N, last_N = (first_BL + offset_B1).flatten(), (last_BL + offset_B1).flatten()
    bits_BL = (
        IS_REAL * mask_BL.int() + HAS_WINDOW * window_BL.int() + READS_SEGMENT * reads_BL.int()
    )
    return _number_runs(bits_BL.flatten(), first_N, last_N, begin_T, owner_T)


def _number_runs(
    bits_N: Tensor, first_N: Tensor, last_N: Tensor, begin_T: Tensor, owner_T: Tensor
) -> RunTiles:
    """Return the tiles, with what the codes say about runs added to the bits.

    Args:
        bits_N: Codes so far.
        first_N: First token of the run of every token.
        last_N: Last token of the run of every token.
        begin_T: First token of every tile.
        owner_T: Tile in which the run starts that enters from the left, or -1.
    """
    place_N = torch.arange(len(bits_N), device=bits_N.device)
    tile_N = torch.searchsorted(begin_T, place_N, right=True) - 1
    end_T = torch.cat([begin_T[1:], begin_T.new_full((1,), len(bits_N))])
    in_left_N = first_N < begin_T[tile_N]
    in_right_N = ~in_left_N & (last_N >= end_T[tile_N])
    alone_N = first_N == last_N
    numbered_N = ~(in_left_N | in_right_N | alone_N)
    count_N = (numbered_N & (first_N == place_N)).long().cumsum(0)
    before_T = torch.where(begin_T > 0, count_N[begin_T - 1], 0)
    number_N = torch.where(numbered_N, count_N - before_T[tile_N], 0)
    code_N = bits_N + IS_ALONE * alone_N + IN_LEFT * in_left_N + IN_RIGHT * in_right_N
    code_N = code_N + FIRST_RUN * number_N
    final_T = torch.searchsorted(begin_T, last_N[end_T - 1], right=True) - 1
    runs_T = count_N[end_T - 1] - before_T
    ends = zip((begin_T, owner_T, final_T, runs_T), (len(bits_N), -1, -1, 0), strict=True)
    tiles_4T1 = torch.stack([F.pad(values_T, (0, 1), value=behind) for values_T, behind in ends])
    return RunTiles(code_N.int(), tiles_4T1.int(), begin_T.new_empty((2, 0)))


def _inside_a_run(mask_BL: Tensor, rows_BL: Tensor, place_L: Tensor) -> Tensor:
    """Return True where the nearest real tokens before, and here or after, share a segment."""
    num_tokens = len(place_L)
    before_BL = torch.where(mask_BL, place_L, -1).cummax(1).values
    before_BL = F.pad(before_BL[:, :-1], (1, 0), value=-1)
    after_BL = _from_right(torch.where(mask_BL, place_L, num_tokens))
    row_before_BL = rows_BL.gather(1, before_BL.clamp(min=0))
    row_after_BL = rows_BL.gather(1, after_BL.clamp(max=num_tokens - 1))
    return (before_BL >= 0) & (after_BL < num_tokens) & (row_before_BL == row_after_BL)


def _from_right(values_BL: Tensor) -> Tensor:
    """Return the smallest value here or to the right."""
    return values_BL.flip(1).cummin(1).values.flip(1)


def tile_sorted(
    mask_BL: Tensor, reads_BL: Tensor, rows_BL: Tensor, *, sizes: TileSizes
) -> RunTiles:
    """Return the tiles of a batch with any segment ids: of its tokens sorted by segment.

    Args:
        mask_BL: bool, True at real tokens.
        reads_BL: bool, True at tokens that get their segment's maximum.
        rows_BL: int64, equal for tokens of one segment; padding has the highest.
        sizes: How to cut.
    """
    num_tokens = mask_BL.shape[1]
    order_BL = rows_BL.argsort(dim=1, stable=True)
    mask_BL, reads_BL, rows_BL = (t.gather(1, order_BL) for t in (mask_BL, reads_BL, rows_BL))
    offset_B1 = torch.arange(len(mask_BL), device=mask_BL.device)[:, None] * num_tokens
    place_BL = order_BL.argsort(dim=1) + offset_B1
    order_2N = torch.stack([(order_BL + offset_B1).flatten(), place_BL.flatten()])
    runs = tile_runs(mask_BL, torch.zeros_like(mask_BL), reads_BL, rows_BL, sizes=sizes)
    return runs._replace(order_2N=order_2N)


def plan_tiles(plan: PoolPlan, sizes: TileSizes) -> tuple[RunTiles, RunTiles]:
    """Return the tiles of the batch as it stands, and those that its segments are pooled in.

    Both are the same where segments are runs.
    """
    mask_BL, window_BL = plan.mask_BL1[..., 0], plan.window_BL1[..., 0]
    rows_BL = plan.write_rows_N.view_as(mask_BL)
    reads_BL = plan.read_rows_N.view_as(mask_BL) != mask_BL.numel()
    if plan.segments_are_runs:
        return (tile_runs(mask_BL, window_BL, reads_BL, rows_BL, sizes=sizes),) * 2
    place_BL = torch.arange(mask_BL.numel(), device=mask_BL.device).view_as(mask_BL)
    # Runs of one token: the fusion itself then has nothing to do with segments.
    single = tile_runs(mask_BL, window_BL, reads_BL, place_BL, sizes=sizes)
    return single, tile_sorted(mask_BL, reads_BL, rows_BL, sizes=sizes)


def forward(inputs: PoolInputs, plan: PoolPlan, window: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the fused pools (B, L, D) and small tensors about cut runs; see plan.Kernels."""
    if has_joined_global(inputs, plan):
        rest = without_global(inputs)
        mixed_BLD, saved = (None, ()) if rest is None else forward(rest, plan, window)
        return add_global(mixed_BLD, inputs, plan), saved
    tiles, pool_tiles = plan_tiles(plan, SIZES) if plan.tiles is None else plan.tiles
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
    if has_joined_global(inputs, plan):
        rest, grads = without_global(inputs), PoolInputs(None, None, None, None)
        if rest is not None:
            grads = backward(grad_BLD, rest, saved, plan, window)
        return global_backward(grad_BLD, grads, inputs, plan)
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
    # One by one: compiled, the halves of one allocation would be copied around every kernel.
    cut_max_TD, cut_ties_TD = _table(x_BLD, num_tiles, width), _table(x_BLD, num_tiles, width)
    if num_tiles == len(x_BLD):  # a tile holds a whole row
        return cut_max_TD, cut_ties_TD
    piece_max_2TD, piece_ties_2TD = (_table(x_BLD, 2, num_tiles, width) for _ in range(2))
    triton_kernels.partial_max[(num_tiles,)](
        x_BLD, tiles.code_N, tiles.tiles_4T1, piece_max_2TD, piece_ties_2TD,
        num_tiles, width, **_sizes(x_BLD),
    )  # fmt: skip
    triton_kernels.combine_max[_combine_grid(num_tiles, width)](
        piece_max_2TD, piece_ties_2TD, tiles.tiles_4T1, cut_max_TD, cut_ties_TD, num_tiles, width,
        LINE=_COMBINE_LINE, STEP=_COMBINE_STEP,
    )  # fmt: skip
    return cut_max_TD, cut_ties_TD


def _table(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


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
    num_tiles, pools_runs = tiles.num_tiles, len(cut) > 0
    piece_global_TD = _table(grad_BLD, num_tiles, width)
    piece_sum_2TD = _table(grad_BLD, 2, num_tiles, width)
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
