"""Indices and masks of one batch, made once and shared by all layers.

B batch, L tokens, N = B * L.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.pooling.blocks import BlockPlan, plan_blocks
from ponet.pooling.global_pool import score_bias


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """Indices and masks of one batch, shared by all layers; make it with plan_pools."""

    mask_BL1: Tensor
    """bool, True at real tokens."""
    window_BL1: Tensor
    """bool, True for tokens that enter local windows."""
    write_rows_N: Tensor
    """int64, the segment a token contributes to; see segment_rows."""
    read_rows_N: Tensor
    """int64, the segment a token reads; the padding row, N, for padding and guarded tokens."""
    score_bias_BL: Tensor
    """float32, see pooling.score_bias."""
    segments_are_runs: bool
    """The tokens of each segment are adjacent, without padding between them."""
    blocks: BlockPlan | None = None
    """Form of the indices that the CPU kernels use; None elsewhere and where sizes are static."""


def segment_rows(segment_ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the segment of every token as a row of one table; padding has the last row, N.

    Args:
        segment_ids_BL: int64 in [0, L); equal ids need not be adjacent.
        mask_BL: bool, True = real token.

    Returns:
        int64 (N,), in [0, N].
    """
    num_rows, num_tokens = segment_ids_BL.shape
    offsets_B1 = torch.arange(num_rows, device=segment_ids_BL.device)[:, None] * num_tokens
    rows_BL = torch.where(mask_BL, segment_ids_BL + offsets_B1, num_rows * num_tokens)
    return rows_BL.reshape(-1)


def plan_pools(batch: EncoderBatch, *, guard_special_tokens: bool) -> PoolPlan:
    """Return the indices and masks of a batch.

    Args:
        batch: Any batch.
        guard_special_tokens: Whether special tokens stay outside local windows and get neither
            the local nor the segment pool. They still count for their own segment.
    """
    mask_BL = batch.mask
    guarded_BL = batch.special_mask if guard_special_tokens else torch.zeros_like(mask_BL)
    pooled_BL = mask_BL & ~guarded_BL
    write_rows_N = segment_rows(batch.segment_ids, mask_BL)
    read_rows_N = write_rows_N.masked_fill(~pooled_BL.reshape(-1), mask_BL.numel())
    # Its sizes depend on values, which a compiler cannot have and a GPU would have to wait for.
    has_blocks = mask_BL.device.type == "cpu" and not torch.compiler.is_compiling()
    return PoolPlan(
        mask_BL1=mask_BL[..., None],
        window_BL1=pooled_BL[..., None],
        write_rows_N=write_rows_N,
        read_rows_N=read_rows_N,
        score_bias_BL=score_bias(mask_BL),
        segments_are_runs=batch.segments_are_runs,
        blocks=plan_blocks(mask_BL, pooled_BL, write_rows_N) if has_blocks else None,
    )
