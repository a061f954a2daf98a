"""Blocks of tokens that the eager kernels go through, and the rows of the tables that tokens use.

N = B * L tokens, S segments; lower case: of one block (n tokens).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ponet.pooling.plan import PoolInputs, PoolPlan

BLOCK_BYTES = 256 * 1024
"""Float32 values of one block and thread; about six blocks are in use at a time."""


class Halo(NamedTuple):
    """A block's tokens with neighbours from the same row, as far as there are any."""

    start: int
    """First token, counted over all rows."""
    stop: int
    """One past the last token."""
    before: int
    """Missing neighbours on the left: they would lie in another row."""
    after: int
    """The same on the right."""
    marks_n1: tuple[Tensor, Tensor] | None
    """1 and 0 at tokens that enter windows, 0 and -inf at others; None = all enter."""


class Block(NamedTuple):
    """Some whole rows, or a part of one row."""

    num_rows: int
    write_rows_n: Tensor
    """int64, row of the table of maxima each token contributes to; S = padding."""
    read_rows_n: Tensor
    """int64, row of the table of shared pools each token reads."""
    excluded: Tensor | None
    """int64, tokens of the block that are outside all windows; None = there is none."""
    windows: Halo
    """With the neighbours whose windows contain a token of the block."""
    values: Halo
    """With the neighbours of those neighbours."""


def plan_rows(plan: PoolPlan, *, with_segments: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return a plan's indices without empty segments; S segments have at least one real token.

    The table of shared pools has S rows of segments (none without a segment pool), then one per
    text for tokens that get the global pool alone, then one that stays 0, for padding.

    Returns:
        int64: the text of every segment (S,); the segment that every token contributes to
        (N,), S = padding; the row of the table of shared pools that it reads (N,).
    """
    key = ("rows", with_segments)
    if key not in plan.forms:
        mask_N, text_N = plan.mask_BL1.reshape(-1), plan.text_rows_N
        read_N = torch.where(mask_N, text_N, len(plan.text_mask_TP1))
        rows, write_N = torch.unique(plan.write_rows_N, return_inverse=True)
        of_segment_S = torch.zeros_like(rows).scatter_(0, write_N, text_N)
        of_segment_S = of_segment_S[: int((rows < len(mask_N)).sum())]
        if with_segments:
            read_N = torch.where(plan.window_BL1.reshape(-1), write_N, len(of_segment_S) + read_N)
        plan.forms[key] = (of_segment_S, write_N, read_N)
    found: tuple[Tensor, Tensor, Tensor] = plan.forms[key]
    return found


def plan_blocks(inputs: PoolInputs, plan: PoolPlan, window: int) -> list[Block]:
    """Return the blocks of a batch for these inputs; made once per kind."""
    width, dtype = next((t.shape[-1], t.dtype) for t in reversed(inputs) if t is not None)
    dtype = torch.promote_types(dtype, torch.float32)
    size = plan.mask_BL1.numel()
    if plan.mask_BL1.device.type == "cpu":
        size = max(1, BLOCK_BYTES * torch.get_num_threads() // (4 * width))
    with_segments = inputs.segment_BLD is not None
    key = (size, with_segments, window, dtype)
    if key not in plan.forms:
        rows = plan_rows(plan, with_segments=with_segments)[1:]
        plan.forms[key] = [
            _block(plan.window_BL1, rows, bounds, window // 2, dtype)
            for bounds in block_bounds(*plan.mask_BL1.shape[:2], size=size)
        ]
    blocks: list[Block] = plan.forms[key]
    return blocks


def block_bounds(num_rows: int, num_tokens: int, *, size: int) -> list[tuple[int, int]]:
    """Return (start, stop) of blocks of about `size` tokens: whole rows, or parts of one row."""
    total = num_rows * num_tokens
    if num_tokens <= size:
        step, whole = size // num_tokens * num_tokens, total
    else:
        step, whole = -(-num_tokens // -(-num_tokens // size)), num_tokens
    return [
        (row + start, row + min(whole, start + step))
        for row in range(0, total, whole)
        for start in range(0, whole, step)
    ]


def _block(
    window_BL1: Tensor, rows: tuple[Tensor, ...], bounds: tuple[int, int], reach: int,
    dtype: torch.dtype,
) -> Block:  # fmt: skip
    part = slice(*bounds)
    write_rows_n, read_rows_n = (rows_N[part] for rows_N in rows)
    excluded = (~window_BL1.reshape(-1)[part]).nonzero()[:, 0]
    return Block(
        num_rows=max(1, len(write_rows_n) // window_BL1.shape[1]),
        write_rows_n=write_rows_n,
        read_rows_n=read_rows_n,
        excluded=excluded if len(excluded) else None,
        windows=_halo(window_BL1, *bounds, reach, dtype),
        values=_halo(window_BL1, *bounds, 2 * reach, dtype),
    )


def _halo(window_BL1: Tensor, start: int, stop: int, reach: int, dtype: torch.dtype) -> Halo:
    row_tokens = window_BL1.shape[1]
    left, right = min(reach, start % row_tokens), min(reach, -stop % row_tokens)
    window_n1, marks = window_BL1.reshape(-1, 1)[start - left : stop + right], None
    if not bool(window_n1.all()):
        keep_n1 = window_n1.to(dtype)
        marks = keep_n1, torch.zeros_like(keep_n1).masked_fill_(~window_n1, float("-inf"))
    return Halo(start - left, stop + right, reach - left, reach - right, marks)
