"""Longer tables of learned positions. P positions, D width."""

from typing import Literal

import torch
from torch import Tensor

PositionMethod = Literal["tile", "interpolate"]


def extend_positions(
    weight_PD: Tensor, max_positions: int, *, method: PositionMethod = "tile"
) -> Tensor:
    """Return a position table of max_positions rows made from a shorter one.

    Args:
        weight_PD: Learned table, any float dtype.
        max_positions: Rows of the result, >= P; need not be a multiple of P.
        method: "tile" repeats the rows in order; "interpolate" stretches them linearly with the
            first and last row fixed.

    Raises:
        ValueError: If max_positions is below P or the method is unknown.

    Source:
        PoNet's long-text runs repeat the 512 rows eight times; interpolation is a common
        alternative.
    """
    num_positions = weight_PD.shape[0]
    if max_positions < num_positions:
        raise ValueError(
            f"max_positions={max_positions} is below the present {num_positions}; positions can "
            "only be extended"
        )
    if method == "tile":
        rows = torch.arange(max_positions, device=weight_PD.device) % num_positions
        return weight_PD[rows]
    if method == "interpolate":
        where = torch.linspace(0, num_positions - 1, max_positions, dtype=torch.float64)
        lower = where.floor().long().clamp_(max=max(num_positions - 2, 0))
        upper = (lower + 1).clamp_(max=num_positions - 1)
        share = (where - lower).to(weight_PD)[:, None]
        lower, upper = lower.to(weight_PD.device), upper.to(weight_PD.device)
        return weight_PD[lower] * (1 - share) + weight_PD[upper] * share
    raise ValueError(f"method {method!r} given; allowed are tile, interpolate")
