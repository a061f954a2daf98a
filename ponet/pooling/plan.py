"""What every set of kernels gets and offers: the plan of a batch, made once, and the values.

B batch, L tokens, D width, N = B * L.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

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


class PoolInputs(NamedTuple):
    """Projected, not yet pooled values; None = the configuration does without this part.

    As the result of a backward pass: the gradients of these, in the same dtypes.
    """

    global_BD: Tensor | None
    """Global pool, the same for all tokens of a row; float32 or wider."""
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
    for tensor in (inputs.gate_BLD, inputs.segment_BLD, inputs.local_BLD, inputs.global_BD):
        if tensor is not None:
            return tensor.dtype
    raise ValueError("no pool given; give a global, segment or local one")


def check_inputs(inputs: PoolInputs, plan: PoolPlan) -> None:
    """Refuse inputs that do not belong together.

    Raises:
        ValueError: If nothing can be pooled, or shapes or dtypes of the inputs disagree.
    """
    mixed_dtype(inputs)
    if inputs.gate_BLD is not None and inputs.global_BD is None and inputs.segment_BLD is None:
        raise ValueError(
            "a gate was given without global or segment pool; it would multiply nothing: leave "
            "it out, or give one of them"
        )
    shape_BL = tuple(plan.mask_BL1.shape[:2])
    tokens = [tensor for tensor in inputs[1:] if tensor is not None]
    for tensor in tokens:
        if tensor.shape[:-1] != shape_BL or tensor.dtype != tokens[0].dtype:
            raise ValueError(
                f"values per token of shape {tuple(tensor.shape)} and {tensor.dtype} were given; "
                f"all must be {(*shape_BL, 'width')} as the plan and {tokens[0].dtype} as the first"
            )
    if inputs.global_BD is not None and inputs.global_BD.shape[0] != shape_BL[0]:
        raise ValueError(
            f"{inputs.global_BD.shape[0]} global pools given for {shape_BL[0]} rows; "
            "one per row is needed"
        )
