"""What every set of kernels gets and offers: the plan of a batch, made once, and the values.

B batch, L tokens, D width, N = B * L; T texts, P tokens of the longest. Where every row is a text,
T = B and P = L.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ponet.batch import EncoderBatch


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
    text_mask_TP1: Tensor
    """bool, True at real tokens of the texts."""
    score_bias_TP: Tensor
    """float32, see score_bias; of the texts."""
    text_rows_N: Tensor
    """int64, the text of every token: its row of the global pool; 0 at padding of joined texts."""
    segments_are_runs: bool
    """The tokens of each segment are adjacent, without padding between them."""
    text_places: Tensor | None = None
    """int64 (T * P,), the token at every place of a text, any token behind its end; None: the rows
    are the texts."""
    text_slots_N: Tensor | None = None
    """int64, the place of every token in text_places; any at padding."""
    forms: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Other forms of the same, which kernels make at their first layer and find at the next."""
    tiles: Any = None
    """The RunTiles of the batch, made with the plan where Triton computes the pools: a
    layer that is compiled by itself then gets them instead of making them."""


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
    return PoolPlan(
        **_plan_texts(batch),
        mask_BL1=mask_BL[..., None],
        window_BL1=pooled_BL[..., None],
        write_rows_N=write_rows_N,
        read_rows_N=write_rows_N.masked_fill(~pooled_BL.reshape(-1), mask_BL.numel()),
        segments_are_runs=batch.segments_are_runs,
    )


def _plan_texts(batch: EncoderBatch) -> dict[str, Any]:
    """Return the fields of a plan that say which tokens a text has."""
    places_TP, (num_rows, num_tokens) = batch.text_places, batch.mask.shape
    if places_TP is None:
        row_B1 = torch.arange(num_rows, device=batch.mask.device)[:, None]
        return {
            "text_mask_TP1": batch.mask[..., None],
            "score_bias_TP": score_bias(batch.mask),
            "text_rows_N": row_B1.expand(-1, num_tokens).reshape(-1),
        }
    mask_TP = places_TP < num_rows * num_tokens
    return {
        "text_mask_TP1": mask_TP[..., None],
        "score_bias_TP": score_bias(mask_TP),
        "text_rows_N": batch.text_slots // places_TP.shape[1],
        "text_places": places_TP.flatten().clamp(max=num_rows * num_tokens - 1),
        "text_slots_N": batch.text_slots,
    }


def by_text(x_BLD: Tensor, plan: PoolPlan) -> Tensor:
    """Return the values (T, P, D) text by text; anything finite behind the end of one."""
    if plan.text_places is None:
        return x_BLD
    texts_ND = x_BLD.flatten(0, 1).index_select(0, plan.text_places)
    return texts_ND.view(*plan.text_mask_TP1.shape[:2], -1)


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


def score_bias(mask_BL: Tensor) -> Tensor:
    """Return float32 (B, L): 0 at real tokens, -inf at padding.

    A row without a real token gets 0 everywhere, which keeps its softmax finite.
    """
    allowed_BL = mask_BL | ~mask_BL.any(1, keepdim=True)
    return torch.zeros_like(mask_BL, dtype=torch.float32).masked_fill_(~allowed_BL, float("-inf"))


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or unchanged if it is float32 or float64 already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class PoolInputs(NamedTuple):
    """Projected, not yet pooled values; None = the configuration does without this part.

    As the result of a backward pass: the gradients of these, in the same dtypes.
    """

    global_BD: Tensor | None
    """Global pool, the same for all tokens of a text; float32 or wider."""
    segment_BLD: Tensor | None
    """What the segments take the maximum of."""
    local_BLD: Tensor | None
    """What the local windows take the maximum of."""
    gate_BLD: Tensor | None
    """Factor of the sum of global and segment pool; None = no product."""


class Kernels(Protocol):
    """A set of kernels: two pure functions. A module that has both is one.

    Forward gives `(global + max of segment over the token's segment) * gate + max of local over
    the token's window`, 0 at padding. Tokens whose `plan.read_rows_N` is N get segment maximum 0;
    tokens outside `plan.window_BL1` get local maximum 0 and enter no window. A part that is None
    is left out. Backward: tied segment maxima share the gradient evenly, the first maximum of a
    window gets it all, sums over tokens are made in float32 or wider.
    """

    def forward(
        self, inputs: PoolInputs, plan: PoolPlan, window: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the fused pools (B, L, D) and what the backward pass needs beside the inputs."""

    def backward(
        self,
        grad_BLD: Tensor,
        inputs: PoolInputs,
        saved: tuple[Tensor, ...],
        plan: PoolPlan,
        window: int,
    ) -> PoolInputs:
        """Return the gradients of the inputs, None where the input is None."""


def mixed_dtype(inputs: PoolInputs) -> torch.dtype:
    """Return the dtype of the fused pools: that of the values per token, where there are any."""
    return next(tensor.dtype for tensor in reversed(inputs) if tensor is not None)
