"""Triton kernels of runs that lie in several tiles, and of what tiles give to a text.

The combining kernels join pieces: they touch two rows per tile at most.
"""

# The Triton language is no Python that mypy knows.
# mypy: ignore-errors
# ruff: noqa: PLR0913, PLR0917 (a kernel takes its pointers one by one)
import triton
import triton.language as tl

from ponet.pooling.triton_tiles import (
    IN_LEFT,
    IN_RIGHT,
    IS_REAL,
    at_rows,
    chunk_of,
    count_maxima,
    cut_rows,
    cuts_of,
    has,
    join_maxima,
    program_of,
)


@triton.jit
def partial_max(
    segment_ptr, code_ptr, tiles_ptr, piece_max_ptr, piece_ties_ptr, num_tiles, width, in_stride,
    LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write maximum and number of tied maxima of the piece of each cut run in the tile.

    piece_*: float32 (2, T, D), [0] of the run that enters from the left, [1] of the one that starts
    here and leaves.
    """
    tile, cols, begin, end = program_of(tiles_ptr, num_tiles, width, LINE)
    left, right = cuts_of(tiles_ptr, tile, num_tiles)
    if (left < 0) & (right != tile):
        return
    left_max = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
    right_max = tl.full([CHUNK, LINE], float("-inf"), tl.float32)
    left_ties = tl.zeros([CHUNK, LINE], tl.float32)
    right_ties = tl.zeros([CHUNK, LINE], tl.float32)
    for start in range(begin, end, CHUNK):
        tokens, exists, code, here = chunk_of(code_ptr, start, end, cols, width, CHUNK)
        at, here = at_rows(tokens, cols, in_stride), here & has(code, IS_REAL)
        in_left, in_right = here & has(code, IN_LEFT), here & has(code, IN_RIGHT)
        x = tl.load(segment_ptr + at, mask=in_left | in_right, other=0).to(tl.float32)
        left_max, left_ties = count_maxima(left_max, left_ties, x, in_left)
        right_max, right_ties = count_maxima(right_max, right_ties, x, in_right)
    to = tile.to(tl.int64) * width + cols
    store = cols < tl.where(left >= 0, width, 0)
    best, ties = join_maxima(left_max, left_ties)
    tl.store(piece_max_ptr + to, best, mask=store)
    tl.store(piece_ties_ptr + to, ties, mask=store)
    to = (num_tiles + tile).to(tl.int64) * width + cols
    store = cols < tl.where(right == tile, width, 0)
    best, ties = join_maxima(right_max, right_ties)
    tl.store(piece_max_ptr + to, best, mask=store)
    tl.store(piece_ties_ptr + to, ties, mask=store)


@triton.jit
def _pieces(start, last, cols, width, STEP: tl.constexpr):
    """Return the addresses of the next pieces of a (T, D) table, and which of them there are."""
    rows = start + tl.arange(0, STEP)
    return at_rows(rows, cols, width), (rows <= last)[:, None] & (cols < width)[None, :]


@triton.jit
def combine_max(
    piece_max_ptr, piece_ties_ptr, tiles_ptr, cut_max_ptr, cut_ties_ptr, num_tiles, width,
    LINE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write maximum and ties of the cut run that starts in the tile, from all its pieces."""
    tile = tl.program_id(0)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    if right != tile:
        return
    cols = tl.program_id(1) * LINE + tl.arange(0, LINE)
    to = tile.to(tl.int64) * width + cols
    to_right = (num_tiles + tile).to(tl.int64) * width + cols
    best = tl.load(piece_max_ptr + to_right, mask=cols < width, other=0)
    ties = tl.load(piece_ties_ptr + to_right, mask=cols < width, other=0)
    final = tl.load(tiles_ptr + 2 * (num_tiles + 1) + tile)
    for start in range(tile + 1, final + 1, STEP):
        at, use = _pieces(start, final, cols, width, STEP)
        x = tl.load(piece_max_ptr + at, mask=use, other=float("-inf"))
        counts = tl.load(piece_ties_ptr + at, mask=use, other=0)
        newest = tl.maximum(best, tl.max(x, 0))
        ties = tl.where(best == newest, ties, 0.0)
        ties += tl.sum(tl.where(x == newest[None, :], counts, 0.0), 0)
        best = newest
    tl.store(cut_max_ptr + to, best, mask=cols < width)
    tl.store(cut_ties_ptr + to, ties, mask=cols < width)


@triton.jit
def combine_sum(
    piece_sum_ptr, tiles_ptr, cut_ties_ptr, cut_share_ptr, num_tiles, width,
    LINE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write what each maximum of the cut run that starts in the tile gets of its gradient."""
    tile = tl.program_id(0)
    right = tl.load(tiles_ptr + (num_tiles + 1) + tile + 1)
    if right != tile:
        return
    cols = tl.program_id(1) * LINE + tl.arange(0, LINE)
    to = tile.to(tl.int64) * width + cols
    to_right = (num_tiles + tile).to(tl.int64) * width + cols
    total = tl.load(piece_sum_ptr + to_right, mask=cols < width, other=0)
    final = tl.load(tiles_ptr + 2 * (num_tiles + 1) + tile)
    for start in range(tile + 1, final + 1, STEP):
        at, use = _pieces(start, final, cols, width, STEP)
        total += tl.sum(tl.load(piece_sum_ptr + at, mask=use, other=0), 0)
    ties = tl.load(cut_ties_ptr + to, mask=cols < width, other=1)
    tl.store(cut_share_ptr + to, total / ties, mask=cols < width)


@triton.jit
def combine_global(
    piece_global_ptr, ends_ptr, cut_global_ptr, num_texts, width,
    LINE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the global pool of a text, from the pieces of all its tiles."""
    text = tl.program_id(0)
    cols = tl.program_id(1) * LINE + tl.arange(0, LINE)
    first = text + tl.load(ends_ptr + text)
    last = text + tl.load(ends_ptr + num_texts + text)
    total = tl.zeros([LINE], tl.float32)
    for start in range(first, last + 1, STEP):
        at, use = _pieces(start, last, cols, width, STEP)
        total += tl.sum(tl.load(piece_global_ptr + at, mask=use, other=0), 0)
    to = text.to(tl.int64) * width + cols
    tl.store(cut_global_ptr + to, total, mask=cols < width)


@triton.jit
def cut_backward(
    segment_ptr, grad_tokens_ptr, cut_max_ptr, cut_share_ptr, code_ptr, tiles_ptr, num_tiles,
    width, in_stride, out_stride, LINE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of segment at the tokens of cut runs."""
    tile, cols, begin, end = program_of(tiles_ptr, num_tiles, width, LINE)
    left, right = cuts_of(tiles_ptr, tile, num_tiles)
    if (left < 0) & (right != tile):
        return
    left_max, right_max = cut_rows(cut_max_ptr, tiles_ptr, tile, num_tiles, cols, width)
    left_share, right_share = cut_rows(cut_share_ptr, tiles_ptr, tile, num_tiles, cols, width)
    for start in range(begin, end, CHUNK):
        tokens, exists, code, here = chunk_of(code_ptr, start, end, cols, width, CHUNK)
        here, in_left = here & has(code, IN_LEFT | IN_RIGHT), has(code, IN_LEFT)
        use = here & has(code, IS_REAL)
        at = at_rows(tokens, cols, in_stride)
        x = tl.load(segment_ptr + at, mask=use, other=0).to(tl.float32)
        best = tl.where(in_left, left_max[None, :], right_max[None, :])
        share = tl.where(in_left, left_share[None, :], right_share[None, :])
        to = at_rows(tokens, cols, out_stride)
        tl.store(grad_tokens_ptr + to, tl.where(use & (x == best), share, 0.0), mask=here)
