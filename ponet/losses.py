"""Cross-entropy of a linear layer over a vocabulary that never holds all logits at once.

N positions, C positions of a chunk, D width, V vocabulary. Invariant: the gradients are made in the
forward pass, chunk after chunk in a fixed order; the backward pass only scales them, and every
result repeats to the bit.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ponet.pooling.mix import TRITON_DTYPES, triton_lacks

IGNORED_LABEL = -100
"""Label of a position that counts for nothing."""
CHUNK_BYTES_CPU = 64 * 2**20
"""Logits held at once on a CPU: they stay near the caches, and the products stay large."""
CHUNK_BYTES_DEVICE = 512 * 2**20
"""Logits held at once elsewhere: 4,400 positions of 30,522 words keep a large GPU busy."""

WORDS_PER_TILE = 64
"""On a device the vocabulary is filled up to a multiple of this many words."""


class TokenLoss(NamedTuple):
    """Sums over the positions with a label; each is a scalar on the device."""

    loss: Tensor
    """Summed cross-entropy in nats, float32 or wider."""
    hits: Tensor
    """int64, positions whose most likely word is the label."""
    num_positions: Tensor
    """int64, positions with a label."""


def linear_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_N: Tensor,
    *,
    rows_per_chunk: int = 0,
    plain: bool = False,
) -> TokenLoss:
    """Return the summed cross-entropy of `softmax(x W' + b)`, and how often its maximum is right.

    The products run in autocast's precision where it is on, everything else in float32 (or
    float64, where x is). One backward pass only: a second one through the same result is an error.

    Args:
        x_ND: Hidden states, any float dtype.
        weight_VD: Output weights.
        bias_V: Output bias.
        labels_N: int64 in [0, V), or -100 at positions that do not count.
        rows_per_chunk: Positions whose logits are held at once; 0: by the size of their logits,
            the same number (but for the last) in every chunk.
        plain: PyTorch's operators also where Triton's kernel would run.
    """
    rows = rows_per_chunk or balanced_rows(len(x_ND), len(weight_VD), x_ND.device.type)
    wanted = [part.requires_grad for part in (x_ND, weight_VD, bias_V)]
    if torch.is_grad_enabled() and any(wanted):
        inputs = (x_ND, weight_VD, bias_V, labels_N, rows, plain)
        return TokenLoss(*_LinearCrossEntropy.apply(*inputs))  # type: ignore[no-untyped-call]
    tensors = (x_ND, weight_VD, bias_V, labels_N)
    return _all_chunks(*tensors, rows=rows, plain=plain, wanted=[False] * 3)[0]


def balanced_rows(num_positions: int, vocab_size: int, device_type: str) -> int:
    """Return the positions per chunk: as few chunks as their logits allow, all of one size."""
    budget = CHUNK_BYTES_CPU if device_type == "cpu" else CHUNK_BYTES_DEVICE
    most = max(1, budget // (4 * vocab_size))
    num_chunks = max(1, -(-num_positions // most))
    return max(1, -(-num_positions // num_chunks))


class _LinearCrossEntropy(torch.autograd.Function):
    """Holds the gradients, already made, until the backward pass scales them in place."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> TokenLoss:
        """Compute the sums and the gradients of the loss."""
        *tensors, rows, plain = inputs
        wanted = ctx.needs_input_grad[:3]
        sums, gradients = _all_chunks(*tensors, rows=rows, plain=plain, wanted=wanted)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(sums.hits, sums.num_positions)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass left."""
        scaled = [None if g is None else g.mul_(grad_loss) for g in ctx.saved_tensors]
        return (*scaled, None, None, None)


def _all_chunks(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_N: Tensor,
    *,
    rows: int,
    plain: bool,
    wanted: Sequence[bool],
) -> tuple[TokenLoss, list[Tensor | None]]:
    """Return the sums over all positions and, where wanted, the gradients of the loss sum.

    The logits are rounded to the precision of the products before they are taken to float32; the
    gradients of weights and bias are summed in float32.
    """
    device, rows = x_ND.device.type, min(rows, max(1, len(x_ND)))
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x_ND.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        low_VD, low_V = _aligned(weight_VD, bias_V, dtype)
        all_low_CV = low_VD.new_empty((rows, len(low_VD)))
        make = _plain_gradient if plain or not uses_triton(all_low_CV) else _triton_gradient
        to_gradient = make(all_low_CV, wide, wanted)
        of_x = torch.empty_like(x_ND) if wanted[0] else None
        of_weight, of_bias = (
            torch.zeros_like(tensor, dtype=wide) if is_wanted else None
            for tensor, is_wanted in zip((low_VD, low_V), wanted[1:], strict=True)
        )
        loss, hits = x_ND.new_zeros((), dtype=wide), labels_N.new_zeros(())
        for start in range(0, len(x_ND), rows):
            part = slice(start, start + rows)
            x_CD, labels_C = x_ND[part].to(dtype), labels_N[part]
            low_CV = all_low_CV[: len(x_CD)]
            torch.addmm(low_V, x_CD, low_VD.t(), out=low_CV)
            chunk_loss, chunk_hits = to_gradient(low_CV, labels_C, of_bias)
            loss, hits = loss + chunk_loss, hits + chunk_hits
            if of_x is not None:
                of_x[part] = low_CV @ low_VD
            if of_weight is not None and dtype == wide:
                of_weight.addmm_(low_CV.t(), x_CD)
            elif of_weight is not None:
                of_weight.add_(low_CV.t() @ x_CD)
        num_positions = (labels_N != IGNORED_LABEL).sum()
    totals = ((of_weight, weight_VD), (of_bias, bias_V))
    rounded = (
        None if total is None else total[: len(like)].to(like.dtype) for total, like in totals
    )
    return TokenLoss(loss, hits, num_positions), [of_x, *rounded]


def _aligned(weight_VD: Tensor, bias_V: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return weights and bias in a dtype; on a device with words that never occur, to a multiple.

    With 30,522 words no row of logits begins where the fastest products ask for it; with 30,528
    the three products of a step take a third of the time on an H100 (docs/performance/gpu.md). A
    bias of -inf gives the added words a share of 0, so nothing else knows of them.
    """
    missing = added_words(len(weight_VD), weight_VD.device.type)
    if not missing:
        return weight_VD.to(dtype), bias_V.to(dtype)
    vocab_size, width = weight_VD.shape
    wide_VD = weight_VD.new_zeros((vocab_size + missing, width), dtype=dtype)
    wide_V = bias_V.new_full((vocab_size + missing,), float("-inf"), dtype=dtype)
    wide_VD[:vocab_size], wide_V[:vocab_size] = weight_VD, bias_V
    return wide_VD, wide_V


def added_words(vocab_size: int, device_type: str) -> int:
    """Return how many words the products of the loss have beside the vocabulary; on a CPU none."""
    return 0 if device_type == "cpu" else -vocab_size % WORDS_PER_TILE


ToGradient = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Makes of a chunk's logits, labels and, if wanted, the gradient of the bias, to which it adds, the
loss sum and the hits; the logits become the gradient of the loss to them."""


def _triton_gradient(all_low_CV: Tensor, wide: torch.dtype, wanted: Sequence[bool]) -> ToGradient:
    """Return Triton's kernel."""
    # By its name: see ponet.pooling.mix.kernel_set.
    loss_kernels = importlib.import_module("ponet.loss_kernels")

    def fused(low_CV: Tensor, labels_C: Tensor, of_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        sums: tuple[Tensor, Tensor] = loss_kernels.to_gradient(
            low_CV, labels_C, ignored=IGNORED_LABEL, is_wanted=any(wanted)
        )
        if of_bias is not None:
            of_bias.add_(low_CV.sum(0, dtype=wide))
        return sums

    return fused


def _plain_gradient(all_low_CV: Tensor, wide: torch.dtype, wanted: Sequence[bool]) -> ToGradient:
    """Return PyTorch's operators, in a table of float32 beside logits of low precision."""
    is_low = all_low_CV.dtype != wide
    all_wide_CV = torch.empty_like(all_low_CV, dtype=wide) if is_low else all_low_CV

    def plain(low_CV: Tensor, labels_C: Tensor, of_bias: Tensor | None) -> tuple[Tensor, Tensor]:
        wide_CV = all_wide_CV[: len(low_CV)]
        if is_low:
            wide_CV.copy_(low_CV)
        sums = _to_gradient(wide_CV, labels_C)
        if of_bias is not None:
            of_bias.add_(wide_CV.sum(0))
        if is_low and any(wanted):
            low_CV.copy_(wide_CV)
        return sums

    return plain


def uses_triton(logits_CV: Tensor) -> bool:
    """Return whether Triton's kernel computes the loss of these logits."""
    fits = logits_CV.device.type == "cuda" and logits_CV.dtype in TRITON_DTYPES
    return fits and not triton_lacks()


def _to_gradient(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss sum and the hits; the logits become the gradient of the loss to them."""
    valid_C, target_C1 = labels_C != IGNORED_LABEL, labels_C.clamp(min=0)[:, None]
    largest_C1, best_C1 = logits_CV.max(-1, keepdim=True)
    hits = (best_C1[:, 0] == labels_C).sum()
    target_logit_C1 = logits_CV.gather(1, target_C1)
    weights_CV = logits_CV.sub_(largest_C1).exp_()
    total_C1 = weights_CV.sum(-1, keepdim=True)
    loss_C = (total_C1.log() + largest_C1 - target_logit_C1)[:, 0]
    loss = loss_C.masked_fill(~valid_C, 0.0).sum()
    valid_C1 = valid_C[:, None].to(logits_CV.dtype)
    gradient_CV = weights_CV.mul_(valid_C1 / total_C1)
    # A plain write per row, not an atomic addition.
    gradient_CV.scatter_(1, target_C1, gradient_CV.gather(1, target_C1) - valid_C1)
    return loss, hits
