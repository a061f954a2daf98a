"""Segment pool. B batch, L tokens, D width, N = B * L tokens in a row, R = N + 1 table rows.

Segments are rows of one flat table; its last row collects padding, so that neither padding nor
guarded tokens need a pass of their own over the activations.
"""

from typing import Any

import torch
from torch import Tensor

from ponet.pooling.masks import compare


def segment_rows(segment_ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the table row of every token; padding goes to the last row, B * L.

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


class _SegmentMax(torch.autograd.Function):
    """Scatter-max and gather on flat rows with the gradient shared evenly among tied maxima."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, write_rows_N: Tensor, read_rows_N: Tensor) -> Tensor:
        num_tokens, width = x_ND.shape
        table_RD = x_ND.new_full((num_tokens + 1, width), float("-inf"))
        table_RD.scatter_reduce_(0, write_rows_N[:, None].expand(-1, width), x_ND, "amax")
        table_RD[-1].zero_()
        is_max_ND = compare(torch.eq, x_ND, table_RD.index_select(0, write_rows_N))
        ctx.save_for_backward(is_max_ND, write_rows_N, read_rows_N)
        return table_RD.index_select(0, read_rows_N)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        is_max_ND, write_rows_N, read_rows_N = ctx.saved_tensors
        grad_ND = grad_outputs[0].contiguous()
        num_tokens, width = grad_ND.shape
        read_ND = read_rows_N[:, None].expand(-1, width)
        write_ND = write_rows_N[:, None].expand(-1, width)
        # float32: thousands of bf16 terms may meet in one row.
        dtype = torch.promote_types(grad_ND.dtype, torch.float32)
        total_RD = grad_ND.new_zeros((num_tokens + 1, width), dtype=dtype)
        total_RD.scatter_add_(0, read_ND, grad_ND.to(dtype))
        ties_RD = torch.zeros_like(total_RD).scatter_add_(0, write_ND, is_max_ND.to(dtype))
        total_RD.div_(ties_RD.clamp_(min=1.0))
        total_RD[-1].zero_()
        grad_x_ND = total_RD.index_select(0, write_rows_N).mul_(is_max_ND)
        return grad_x_ND.to(grad_ND.dtype), None, None


def segment_max(x_ND: Tensor, write_rows_N: Tensor, read_rows_N: Tensor) -> Tensor:
    """Return, for every token, the elementwise maximum over the tokens of its segment.

    Args:
        x_ND: Values, any float dtype, finite.
        write_rows_N: int64, the segment each token contributes to (see segment_rows).
        read_rows_N: int64, the segment each token reads; equal to write_rows_N, or N (the
            padding row) where the result has to be 0.

    Returns:
        (N, D), dtype of x_ND; 0 where the padding row is read.

    Source:
        PoNet (arXiv 2110.02442), segment max-pooling. Gradient of tied maxima: divided evenly,
        as scatter_reduce(amax) of the released code does.
    """
    result: Tensor = _SegmentMax.apply(  # type: ignore[no-untyped-call]
        x_ND, write_rows_N, read_rows_N
    )
    return result
