"""Tiles of neighbouring tokens, which the Triton kernels work on one by one.

B batch, L tokens, D width, N = B * L, P tiles per row, T = B * P tiles, K texts. Nothing here looks
at values on the device, so it never waits, and no allocation depends on them.

A run is a maximal stretch of tokens of one segment, padding between them included; any other
padding token is a run of its own. A tile border moves to the left, by up to `slack` tokens, to the
start of the run that it would cut. Only longer runs are cut, and the kernels join their pieces in
a second stage; so a run may be as long as it likes, and all tiles are computed in parallel.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.pooling.plan import PoolPlan

IS_REAL, HAS_WINDOW, READS_SEGMENT, IS_WHOLE, IN_LEFT, IN_RIGHT = 1, 2, 4, 8, 16, 32
"""Bits of the token codes. IS_WHOLE: in a run of two tokens or more that lies in the tile as a
whole. IN_LEFT, IN_RIGHT: in the cut run that enters the tile from the left, or that starts in the
tile and leaves it to the right."""
LEFT_IN_STRETCH = 64
"""Token codes also hold this times how many tokens of the token's stretch are left, itself one of
them. A stretch is a whole run, the part of a cut run in a tile, or a maximal series of other tokens
of a text in a tile."""


class TileSizes(NamedTuple):
    """How the work is cut; every choice gives the same result up to the order of sums."""

    step: int = 128
    """Tokens of a tile if no border moved."""
    slack: int = 124
    """How far a border moves to the left to spare a run, below `step`."""
    line_bytes: int = 128
    """Most bytes of one token that a program works on, a power of two of at least 32, a sector."""
    chunk: int = 4
    """Tokens that a program works on at a time, a power of two."""
    num_warps: int = 1
    """Warps per program: sums over the tokens of a chunk then need no other."""


class RunTiles(NamedTuple):
    """What the kernels know about tokens and tiles; positions count from 0 to N."""

    code_N: Tensor
    """int32, bits of every token and how much of its stretch is left."""
    text_N: Tensor
    """int32, the text of every token; at padding, of the token before. It never falls."""
    tiles_4T1: Tensor
    """int32. Per tile, and one more behind the last: its first token (N behind the last); the tile
    in which the run starts that enters it from the left, -1 if none does; the tile in which the run
    of its last token ends; how many stretches it has."""
    ends_2K: Tensor
    """int32. The tiles of the first and the last token of every text."""
    order_2N: Tensor
    """int64. Where segments are no runs: the tokens sorted by segment and the place of every token
    in that order; all else then speaks of the sorted tokens. Else (2, 0)."""

    @property
    def num_tiles(self) -> int:
        """T."""
        return self.tiles_4T1.shape[1] - 1


def tile_runs(
    mask_BL: Tensor, window_BL: Tensor, reads_BL: Tensor, rows_BL: Tensor, *, sizes: TileSizes,
    text_N: Tensor | None = None, num_texts: int = 0,
) -> RunTiles:  # fmt: skip
    """Return the tiles of a batch whose segments are runs; no size depends on values.

    Args:
        mask_BL: bool, True at real tokens.
        window_BL: bool, True at tokens that enter local windows.
        reads_BL: bool, True at tokens that get their segment's maximum.
        rows_BL: int64, equal for tokens of one segment; ignored at padding.
        sizes: How to cut.
        text_N: int64, the text of every token, anything at padding; None: the rows are the texts.
        num_texts: K, how many they are.
    """
    num_rows, num_tokens = mask_BL.shape
    if text_N is None:
        row_B1 = torch.arange(num_rows, device=mask_BL.device)[:, None]
        text_N, num_texts = row_B1.repeat(1, num_tokens).flatten(), num_rows
    else:  # padding stands behind texts
        text_N = text_N.where(mask_BL.flatten(), 0).cummax(0).values
    place_L = torch.arange(num_tokens, device=mask_BL.device)
    inside_BL = _inside_a_run(mask_BL, rows_BL, place_L)
    first_BL = torch.where(inside_BL, 0, place_L).cummax(1).values
    next_start_BL = _from_right(torch.where(inside_BL, num_tokens, place_L))
    last_BL = F.pad(next_start_BL[:, 1:], (0, 1), value=num_tokens) - 1
    border_P = torch.arange(0, num_tokens, sizes.step, device=mask_BL.device)
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
    tiles = _find_stretches(bits_BL.flatten(), text_N, first_N, last_N, begin_T, owner_T)
    number_K = torch.arange(num_texts, device=mask_BL.device)
    from_K, to_K = (torch.searchsorted(text_N, number_K, right=side) for side in (False, True))
    first_K = torch.searchsorted(begin_T, from_K, right=True) - 1
    last_K = torch.searchsorted(begin_T, to_K - 1, right=True) - 1
    last_K = torch.where(from_K < to_K, last_K, first_K - 1)  # a text without tokens has no tile
    return tiles._replace(ends_2K=torch.stack([first_K, last_K]).int())


def _find_stretches(  # noqa: PLR0917
    bits_N: Tensor, text_N: Tensor, first_N: Tensor, last_N: Tensor, begin_T: Tensor,
    owner_T: Tensor,
) -> RunTiles:  # fmt: skip
    """Return the tiles, with what the codes say about runs and stretches added to the bits.

    Args:
        bits_N: Codes so far.
        text_N: Text of every token.
        first_N: First token of the run of every token.
        last_N: Last token of the run of every token.
        begin_T: First token of every tile.
        owner_T: Tile in which the run starts that enters from the left, or -1.
    """
    num_tokens = len(bits_N)
    place_N = torch.arange(num_tokens, device=bits_N.device)
    tile_N = torch.searchsorted(begin_T, place_N, right=True) - 1
    end_T = torch.cat([begin_T[1:], begin_T.new_full((1,), num_tokens)])
    in_left_N = first_N < begin_T[tile_N]
    in_right_N = ~in_left_N & (last_N >= end_T[tile_N])
    whole_N = ~(in_left_N | in_right_N) & (first_N < last_N)
    # Of a stretch: the run where it is whole, else the text and on which side the run is cut.
    other_N = 3 * text_N + 1 * in_left_N + 2 * in_right_N
    stretch_N = torch.where(whole_N, first_N, -1 - other_N)
    ends_N = F.pad(stretch_N[1:] != stretch_N[:-1], (0, 1), value=True)
    ends_N = ends_N | (place_N == end_T[tile_N] - 1)
    stop_N = _from_right(torch.where(ends_N, place_N, num_tokens)[None])[0] + 1
    count_N = ends_N.long().cumsum(0)
    before_T = torch.where(begin_T > 0, count_N[begin_T - 1], 0)
    code_N = bits_N + IS_WHOLE * whole_N + IN_LEFT * in_left_N + IN_RIGHT * in_right_N
    code_N = code_N + LEFT_IN_STRETCH * (stop_N - place_N)
    final_T = torch.searchsorted(begin_T, last_N[end_T - 1], right=True) - 1
    stretches_T = count_N[end_T - 1] - before_T
    ends = zip((begin_T, owner_T, final_T, stretches_T), (num_tokens, -1, -1, 0), strict=True)
    tiles_4T1 = torch.stack([F.pad(values_T, (0, 1), value=behind) for values_T, behind in ends])
    nothing = begin_T.new_empty((2, 0))
    return RunTiles(code_N.int(), text_N.int(), tiles_4T1.int(), nothing.int(), nothing)


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
    form: dict[str, Any] = {"sizes": sizes, "num_texts": len(plan.text_mask_TP1)}
    form["text_N"] = None if plan.text_places is None else plan.text_rows_N
    if plan.segments_are_runs:
        return (tile_runs(mask_BL, window_BL, reads_BL, rows_BL, **form),) * 2
    place_BL = torch.arange(mask_BL.numel(), device=mask_BL.device).view_as(mask_BL)
    # Runs of one token: the fusion itself then has nothing to do with segments.
    single = tile_runs(mask_BL, window_BL, reads_BL, place_BL, **form)
    return single, tile_sorted(mask_BL, reads_BL, rows_BL, sizes=sizes)
