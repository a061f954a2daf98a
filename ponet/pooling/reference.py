"""Fusion of the pools in plain differentiable PyTorch: the definition that kernels are held to.

B batch, L tokens, D width, N = B * L. At least float32 inside, rounded once at the end.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.pooling.plan import PoolInputs, PoolPlan, at_least_float32, mixed_dtype


def mix_reference(inputs: PoolInputs, plan: PoolPlan, window: int) -> Tensor:
    """Return (global + segment maximum) * gate + local maximum, 0 at padding.

    Args:
        inputs: Projected values.
        plan: Of the batch.
        window: Odd width of the local windows in tokens.

    Source:
        PoNet (arXiv 2110.02442), pooling fusion.
    """
    global_BD, segment_BLD, local_BLD, gate_BLD = (
        None if tensor is None else at_least_float32(tensor) for tensor in inputs
    )
    parts = []
    if global_BD is not None and plan.text_places is None:
        parts.append(global_BD[:, None].expand(-1, plan.mask_BL1.shape[1], -1))
    elif global_BD is not None:
        parts.append(global_BD[plan.text_rows_N.view(plan.mask_BL1.shape[:2])])
    if segment_BLD is not None:
        pooled_ND = segment_max(segment_BLD.flatten(0, 1), plan.write_rows_N, plan.read_rows_N)
        parts.append(pooled_ND.view_as(segment_BLD))
    mixed_BLD = sum(parts[1:], start=parts[0]) if parts else None
    if mixed_BLD is not None and gate_BLD is not None:
        mixed_BLD = mixed_BLD * gate_BLD
    if local_BLD is not None:
        pooled_BLD = local_max(local_BLD, plan.window_BL1, window=window)
        mixed_BLD = pooled_BLD if mixed_BLD is None else mixed_BLD + pooled_BLD
    assert mixed_BLD is not None
    return (mixed_BLD * plan.mask_BL1).to(mixed_dtype(inputs))


def segment_max(x_ND: Tensor, write_rows_N: Tensor, read_rows_N: Tensor) -> Tensor:
    """Return, for every token, the elementwise maximum over the tokens of its segment.

    Args:
        x_ND: Values, finite.
        write_rows_N: int64, the segment each token contributes to (see segment_rows).
        read_rows_N: int64, the segment each token reads; equal to write_rows_N, or N (the
            padding row) where the result has to be 0.

    Returns:
        (N, D), dtype of x_ND; 0 where the padding row is read.

    Source:
        PoNet (arXiv 2110.02442), segment max-pooling. Gradient of tied maxima: divided evenly,
        as scatter_reduce(amax) of the released code does.
    """
    num_tokens, width = x_ND.shape
    table_RD = x_ND.new_full((num_tokens + 1, width), float("-inf"))
    index_ND = write_rows_N[:, None].expand(-1, width)
    table_RD = table_RD.scatter_reduce(0, index_ND, x_ND, "amax")
    table_RD = torch.cat([table_RD[:-1], torch.zeros_like(table_RD[-1:])])
    return table_RD.index_select(0, read_rows_N)


def local_max(x_BLD: Tensor, allowed_BL1: Tensor, *, window: int) -> Tensor:
    """Return, for every allowed token, the elementwise maximum over its allowed neighbours.

    Args:
        x_BLD: Values, any float dtype, finite.
        allowed_BL1: bool, True for tokens that enter windows. The others neither enter nor get
            anything.
        window: Odd width in tokens, centred on the token.

    Returns:
        (B, L, D), dtype of x_BLD; 0 at tokens that are not allowed.

    Source:
        PoNet (arXiv 2110.02442), local max-pooling: MaxPool1d(3, stride 1, padding 1). The
        gradient goes to the first maximum of the window, as in MaxPool1d.
    """
    reach, num_tokens = window // 2, x_BLD.shape[1]
    padded = F.pad(x_BLD.masked_fill(~allowed_BL1, float("-inf")), (0, 0, reach, reach),
                   value=float("-inf"))  # fmt: skip
    best_BLD = padded[:, :num_tokens]
    for shift in range(1, window):
        rival_BLD = padded[:, shift : shift + num_tokens]
        best_BLD = torch.where(rival_BLD > best_BLD, rival_BLD, best_BLD)
    return best_BLD.masked_fill(~allowed_BL1, 0.0)
