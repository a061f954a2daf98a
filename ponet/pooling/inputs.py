"""What goes into the fusion of the pools, and what every set of kernels offers.

B batch, L tokens, D width.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ponet.pooling.plan import PoolPlan


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
