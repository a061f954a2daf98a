"""Blocks of tokens that fit into a CPU's cache, and tables of segments without empty rows.

B batch, L tokens, N = B * L, S segments of the whole batch. A pass over a hidden-sized tensor costs
a CPU several times more from memory than from its cache; so all passes are made over one block
before the next is touched.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

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
    """Missing neighbours on the right."""
    keep_n1: Tensor | None
    """1 at tokens that enter windows, 0 at others, of the window's dtype; None = all enter."""
    bias_n1: Tensor | None
    """0 at tokens that enter windows, -inf at others; None = all enter."""


class Block(NamedTuple):
    """Some whole rows, or a part of one row."""

    num_rows: int
    num_tokens: int
    """Tokens of each row."""
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


@dataclass(kw_only=True)
class BlockPlan:
    """A PoolPlan's indices in the form that blocks use.

    The table of shared pools has S rows of segments, then one per batch row for tokens that get
    the global pool alone, then one that stays 0, for padding.
    """

    num_segments: int
    """S, segments with at least one real token."""
    row_of_segment_S: Tensor
    """int64, the batch row of every segment."""
    write_rows_N: Tensor
    """int64 in [0, S]; S = padding."""
    read_rows_N: Tensor
    """int64 in [0, S + B]."""
    global_rows_N: Tensor
    """int64 in [0, B]: what read_rows_N would be without any segment."""
    window_BL: Tensor
    """bool, True for tokens that enter local windows."""
    _blocks: dict[tuple[int, bool, int, torch.dtype], list[Block]] = field(default_factory=dict)

    def blocks(
        self, width: int, *, with_segments: bool, reach: int, dtype: torch.dtype
    ) -> list[Block]:
        """Return the blocks for hidden states of a width; made once per kind.

        Args:
            width: D.
            with_segments: Whether tokens read segments, or the global pool alone.
            reach: Neighbours on each side that a window has.
            dtype: Of the arithmetic in a block.
        """
        size = max(1, BLOCK_BYTES * torch.get_num_threads() // (4 * width))
        key = (size, with_segments, reach, dtype)
        if key not in self._blocks:
            num_rows, num_tokens = self.window_BL.shape
            read_rows_N = self.read_rows_N if with_segments else self.global_rows_N
            self._blocks[key] = [
                self._block(start, stop, read_rows_N, reach, dtype)
                for start, stop in block_bounds(num_rows, num_tokens, size)
            ]
        return self._blocks[key]

    def _block(
        self, start: int, stop: int, read_rows_N: Tensor, reach: int, dtype: torch.dtype
    ) -> Block:
        row_tokens = self.window_BL.shape[1]
        num_rows = max(1, (stop - start) // row_tokens)
        excluded = (~self.window_BL.reshape(-1)[start:stop]).nonzero()[:, 0]
        return Block(
            num_rows=num_rows,
            num_tokens=(stop - start) // num_rows,
            write_rows_n=self.write_rows_N[start:stop],
            read_rows_n=read_rows_N[start:stop],
            excluded=excluded if len(excluded) else None,
            windows=self._halo(start, stop, reach, dtype),
            values=self._halo(start, stop, 2 * reach, dtype),
        )

    def _halo(self, start: int, stop: int, reach: int, dtype: torch.dtype) -> Halo:
        row_tokens = self.window_BL.shape[1]
        left = min(reach, start % row_tokens)
        right = min(reach, -stop % row_tokens)
        keep_n1 = bias_n1 = None
        window_n1 = self.window_BL.reshape(-1, 1)[start - left : stop + right]
        if not bool(window_n1.all()):
            keep_n1 = window_n1.to(dtype)
            bias_n1 = torch.zeros_like(keep_n1).masked_fill_(~window_n1, float("-inf"))
        return Halo(start - left, stop + right, reach - left, reach - right, keep_n1, bias_n1)


def block_bounds(num_rows: int, num_tokens: int, size: int) -> list[tuple[int, int]]:
    """Return (start, stop) of blocks of about `size` tokens: whole rows, or parts of one row."""
    total = num_rows * num_tokens
    if num_tokens <= size:
        step = size // num_tokens * num_tokens
        return [(start, min(total, start + step)) for start in range(0, total, step)]
    parts = -(-num_tokens // size)
    step = -(-num_tokens // parts)
    return [
        (row + start, row + min(num_tokens, start + step))
        for row in range(0, total, num_tokens)
        for start in range(0, num_tokens, step)
    ]


def plan_blocks(mask_BL: Tensor, window_BL: Tensor, write_rows_N: Tensor) -> BlockPlan:
    """Return the block form of a batch's indices.

    Args:
        mask_BL: bool, True = real token.
        window_BL: bool, True for tokens that enter windows and get the segment pool.
        write_rows_N: See plan.segment_rows.
    """
    num_rows, num_tokens = mask_BL.shape
    rows, compact_N = torch.unique(write_rows_N, return_inverse=True)
    num_segments = int((rows < mask_BL.numel()).sum())
    row_of_segment_S = rows[:num_segments] // num_tokens
    row_BL = torch.arange(num_rows)[:, None].expand_as(mask_BL)
    global_rows_N = torch.where(mask_BL, row_BL, num_rows).reshape(-1)
    return BlockPlan(
        num_segments=num_segments,
        row_of_segment_S=row_of_segment_S,
        write_rows_N=compact_N,
        read_rows_N=torch.where(window_BL.reshape(-1), compact_N, num_segments + global_rows_N),
        global_rows_N=global_rows_N,
        window_BL=window_BL,
    )


class Scratch:
    """Block-sized buffers, and views of them, that are made once and used for every block.

    Making a view costs Python as much time as a pass over a cached block.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Start without any buffer."""
        self.dtype = dtype
        self._buffers: dict[object, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of a name and shape; it holds what was last written to it."""
        buffer = self._buffers.get((name, shape))
        if buffer is None:
            buffer = self._buffers[name, shape] = torch.empty(shape, dtype=self.dtype)
        return buffer

    def view(self, slab: "Slab") -> Tensor:
        """Return the part of a buffer that a slab names."""
        view = self._buffers.get(slab)
        if view is None:
            view = self(slab.name, *slab.shape).narrow(1, slab.start, slab.length)
            self._buffers[slab] = view
        return view


class Slab(NamedTuple):
    """The name of a part, along the tokens, of a buffer (k, tokens, D)."""

    name: str
    shape: tuple[int, ...]
    start: int
    length: int

    def part(self, start: int, length: int) -> "Slab":
        """Return the name of a part of this part."""
        return Slab(self.name, self.shape, self.start + start, length)

    def view(self, scratch: Scratch) -> Tensor:
        """Return the part itself."""
        return scratch.view(self)
