"""Tiles of neighbouring tokens for the Triton kernels, and where segments run across their borders.

B batch, L tokens, N = B * L, P tiles per row, T = B * P tiles.

A run is a maximal stretch of tokens of one segment, padding between them included; any other
padding token is a run of its own. A tile border moves to the left, by up to `slack` tokens, to the
start of the run that it would cut. Only longer runs are cut, and the kernels join their pieces in
a second stage; so a run may be as long as it likes, and all tiles are computed in parallel.
Everything here depends on the batch alone and is the same for all layers.
"""

import weakref
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.pooling.plan import PoolPlan

IS_REAL, HAS_WINDOW, READS_SEGMENT, IS_ALONE, IN_LEFT, IN_RIGHT = 1, 2, 4, 8, 16, 32
"""Bits of the token codes. IS_ALONE: the only token of its run. IN_LEFT, IN_RIGHT: in the cut run
that enters the tile from the left, or that starts in the tile and leaves it to the right."""
FIRST_RUN = 64
"""Token codes also hold this times the number, from 1, of the token's run among those of two tokens
or more that lie in the tile as a whole; 0 times it in all other runs."""


@dataclass(frozen=True, kw_only=True)
class TileSizes:
    """How the work is cut; every choice gives the same result up to the order of sums.

    Raises:
        ValueError: If a size is no power of two or the slack leaves too little of a block.
    """

    block: int = 64
    """Most tokens of a tile, a power of two."""
    slack: int = 16
    """How far a border moves to the left to spare a run, below half a block."""
    line_bytes: int = 128
    """Bytes of one token that a program works on, a power of two: one cache line."""
    num_warps: int = 4
    """Warps per program."""

    def __post_init__(self) -> None:
        """Check the relation of block and slack."""
        for name in ("block", "line_bytes"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name}={value} given; a power of two is needed")
        if not 0 <= 2 * self.slack < self.block:
            raise ValueError(
                f"slack={self.slack} given for block={self.block}; 0 to less than half a block "
                "is allowed"
            )


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
    begin_T = (begin_BP + offset_B1).flatten()
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


Tiles = tuple[RunTiles, RunTiles]
_newest: list[tuple[list["weakref.ref[Tensor]"], TileSizes, Tiles]] = []


def plan_tiles(plan: PoolPlan, sizes: TileSizes) -> Tiles:
    """Return the tiles of the batch as it stands, and those that its segments are pooled in.

    Both are the same where segments are runs. The newest answer is kept while its plan lives, so
    that only the first layer of a model computes it.
    """
    if torch.compiler.is_compiling():
        return _compute_tiles(plan, sizes)
    parts = (plan.mask_BL1, plan.window_BL1, plan.write_rows_N, plan.read_rows_N)
    for references, old_sizes, tiles in _newest:
        alive = (reference() for reference in references)
        if old_sizes == sizes and all(a is b for a, b in zip(alive, parts, strict=True)):
            return tiles
    tiles = _compute_tiles(plan, sizes)
    _newest[:] = [([weakref.ref(part) for part in parts], sizes, tiles)]
    return tiles


def _compute_tiles(plan: PoolPlan, sizes: TileSizes) -> Tiles:
    mask_BL, window_BL = plan.mask_BL1[..., 0], plan.window_BL1[..., 0]
    rows_BL = plan.write_rows_N.view_as(mask_BL)
    reads_BL = plan.read_rows_N.view_as(mask_BL) != mask_BL.numel()
    if plan.segments_are_runs:
        tiles = tile_runs(mask_BL, window_BL, reads_BL, rows_BL, sizes=sizes)
        return tiles, tiles
    place_BL = torch.arange(mask_BL.numel(), device=mask_BL.device).view_as(mask_BL)
    # Runs of one token: the fusion itself then has nothing to do with segments.
    single = tile_runs(mask_BL, window_BL, reads_BL, place_BL, sizes=sizes)
    return single, tile_sorted(mask_BL, reads_BL, rows_BL, sizes=sizes)
