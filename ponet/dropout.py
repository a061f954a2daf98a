"""Dropout whose random numbers cost a CPU less than those of PyTorch's.

`torch.nn.functional.dropout` draws a number of a Bernoulli distribution for every element, which on
a CPU takes longer than the norm, GELU or sum beside it. Here four elements share one draw of 64
bits. Measured by `python -m benchmarks.lra_table2` (encoders 64 wide, where it shows most) and
`python -m benchmarks.pretraining --dropout_draws`.
"""

import torch
from torch import Tensor, nn

_LEVELS = 2**16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`; in training on a CPU with cheaper bits, from the same generator.

    There `p` is rounded to a multiple of 2^-16 below one, and what is kept is divided by the share
    that is really kept, so that the expected value is the input.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name in torch)
        """Return the input with a share of its elements 0 and the others scaled, in training."""
        is_ours = self.training and input.is_cpu and 0 < self.p < 1
        if not is_ours or torch.compiler.is_compiling():
            return super().forward(input)
        return input * _scaled_mask(input, self.p)


def _scaled_mask(like: Tensor, dropped: float) -> Tensor:
    """Return 0 for the dropped elements and the inverse of the kept share for all others."""
    size, cut = like.numel(), min(round(dropped * _LEVELS), _LEVELS - 1)
    draws = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[:size].view(like.shape)
    mask = torch.empty(like.shape, dtype=like.dtype)
    torch.ge(levels, cut - _LEVELS // 2, out=mask)
    return mask.mul_(_LEVELS / (_LEVELS - cut))
