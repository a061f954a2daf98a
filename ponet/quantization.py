"""Weights in 8 bits: whole numbers from -127 to 127 with a scale for every row or column.

Invariant: what comes back differs from what was given by at most half a scale, and giving it again
returns the same numbers.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

WeightForm = Literal["float32", "int8-v1"]
"""How the matrices of a bundle lie on disk."""
_LARGEST = 127
_LEAST_NUMBERS = 256
_SCALE = ".scale"


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 numbers and the float32 scales that they are to be multiplied by.

    What stands at one place of the first axis shares a scale, or all along it, whichever loses
    less: rows of hashed features differ in size by how often they were seen, columns of other
    layers may. A scale for fewer than two numbers would save nothing. So a tensor and its flattened
    form get the same numbers.

    Args:
        weight: Of two axes or more.

    Returns:
        The numbers, and scales of a shape that spreads over theirs.
    """
    weight = weight.float()
    pairs = []
    for axes in (tuple(range(1, weight.dim())), (0,)):
        largest = weight.abs().amax(axes, keepdim=True)
        if largest.numel() * 2 > weight.numel():
            continue
        scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
        pairs.append(((weight / scale).round().to(torch.int8), scale))
    lost = [(number * scale - weight).square().sum().item() for number, scale in pairs]
    return pairs[lost.index(min(lost))]


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict whose matrices are int8, each with its scales beside it.

    Vectors and what is small stay as they are.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if is_packable(value):
            packed[name], packed[name + _SCALE] = to_int8(value)
        else:
            packed[name] = value
    return packed


def is_packable(value: Tensor) -> bool:
    """Return whether a tensor is large enough, and of two axes or more."""
    return value.is_floating_point() and value.dim() > 1 and value.numel() >= _LEAST_NUMBERS


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict in floats that `pack` was given, but for what was lost."""
    numbers = {name for name, value in packed.items() if value.dtype == torch.int8}
    scales = {name + _SCALE for name in numbers}
    return {
        name: value * packed[name + _SCALE] if name in numbers else value
        for name, value in packed.items()
        if name not in scales
    }
