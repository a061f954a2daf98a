"""Local pool. B batch, L tokens, D width."""

from typing import Any

import torch
from torch import Tensor

from ponet.pooling.masks import compare


class _LocalMax(torch.autograd.Function):
    """Windowed maximum by repeated comparison of neighbours; the leftmost maximum wins."""

    @staticmethod
    def forward(ctx: Any, x_BLD: Tensor, allowed_BL1: Tensor, window: int) -> Tensor:
        reach = window // 2
        num_rows, num_tokens, width = x_BLD.shape
        keep_BL1 = allowed_BL1.to(x_BLD.dtype)
        bias_BL1 = torch.zeros_like(keep_BL1).masked_fill_(~allowed_BL1, float("-inf"))
        best = x_BLD.new_empty((num_rows, num_tokens + 2 * reach, width))
        best[:, :reach].fill_(float("-inf"))
        best[:, reach + num_tokens :].fill_(float("-inf"))
        best[:, reach : reach + num_tokens].copy_(x_BLD).add_(bias_BL1)
        keeps_left = []
        for _ in range(window - 1):
            left, right = best[:, :-1], best[:, 1:]
            keeps_left.append(compare(torch.ge, left, right))
            best = torch.maximum(left, right)
        ctx.save_for_backward(keep_BL1, *keeps_left)
        ctx.reach = reach
        # -inf is left only where the token itself is not allowed; a finite value lets 0 win.
        return best.clamp_(min=torch.finfo(best.dtype).min).mul_(keep_BL1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        keep_BL1, *keeps_left = ctx.saved_tensors
        grad = grad_outputs[0] * keep_BL1
        for keep_left in reversed(keeps_left):
            num_rows, num_windows, width = grad.shape
            wider = grad.new_empty((num_rows, num_windows + 1, width))
            wider[:, -1:].zero_()
            to_left = wider[:, :-1].copy_(grad).mul_(keep_left)
            to_right = grad.sub_(to_left)
            wider[:, 1:].add_(to_right)
            grad = wider
        num_tokens = keep_BL1.shape[1]
        return grad[:, ctx.reach : ctx.reach + num_tokens], None, None


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
    result: Tensor = _LocalMax.apply(  # type: ignore[no-untyped-call]
        x_BLD, allowed_BL1, window
    )
    return result
