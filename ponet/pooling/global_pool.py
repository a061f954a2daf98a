"""Global pool, folded: no (B, L, D) query, key or value exists.

B batch, L tokens, D width, H heads, K head width (D = H * K).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged if it is float32 or float64 already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def score_bias(mask_BL: Tensor) -> Tensor:
    """Return float32 (B, L): 0 at real tokens, -inf at padding.

    A row without a real token gets 0 everywhere, which keeps its softmax finite.
    """
    allowed_BL = mask_BL | ~mask_BL.any(1, keepdim=True)
    return torch.zeros_like(mask_BL, dtype=torch.float32).masked_fill_(~allowed_BL, float("-inf"))


def masked_mean(x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the (B, D) mean over real tokens; 0 for a row without any.

    Args:
        x_BLD: Hidden states, float32 or float64.
        mask_BL: bool, True = real token.
    """
    real_BL = mask_BL.to(x_BLD.dtype)
    total_BD = torch.bmm(real_BL[:, None], x_BLD)[:, 0]
    return total_BD / real_BL.sum(1, keepdim=True).clamp_(min=1.0)


class GlobalPool(NamedTuple):
    """The global pool and how it came about, all in the dtype of the hidden states."""

    pooled_BD: Tensor
    """What every token of a row gets."""
    query_BHK: Tensor
    """Projected mean, divided by the square root of K."""
    probs_BHL: Tensor
    """Weight of every token."""


def global_attention(
    x_BLD: Tensor, query_BD: Tensor, key_weight_DD: Tensor, key_bias_D: Tensor, *, bias_BL: Tensor,
    num_heads: int,
) -> GlobalPool:  # fmt: skip
    """Return the attention of one query per row and head over all tokens, value = key.

    With u = Wk_h^T q_h / sqrt(K) per head: scores are x . u (the key bias adds a constant that
    the softmax drops) and the pooled value is Wk_h (sum a x) + bk_h, because sum a = 1. This is
    the published function with two D x D products per token less.

    Args:
        x_BLD: Hidden states, float32 or float64.
        query_BD: Projected mean of the hidden states.
        key_weight_DD: Weight of the key projection, rows are outputs.
        key_bias_D: Its bias.
        bias_BL: Added to the scores, see score_bias.
        num_heads: H; divides D.

    Source:
        PoNet (arXiv 2110.02442), global aggregation, both stages; the released code uses one
        projection for key and value.
    """
    query_BHK = query_BD.reshape(query_BD.shape[0], num_heads, -1)  # no len(): it may be traced
    query_BHK = query_BHK * query_BHK.shape[-1] ** -0.5
    key_weight_HKD = key_weight_DD.reshape(num_heads, -1, x_BLD.shape[-1])
    probe_BHD = torch.einsum("bhk,hkd->bhd", query_BHK, key_weight_HKD)
    scores_BHL = torch.bmm(probe_BHD, x_BLD.transpose(1, 2))
    probs_BHL = F.softmax(scores_BHL.add_(bias_BL.to(x_BLD.dtype)[:, None]), dim=-1)
    value_BHK = torch.einsum("bhd,hkd->bhk", torch.bmm(probs_BHL, x_BLD), key_weight_HKD)
    return GlobalPool(value_BHK.flatten(1) + key_bias_D, query_BHK, probs_BHL)
