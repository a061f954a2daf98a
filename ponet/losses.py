"""Cross-entropy of a linear layer over a vocabulary that never holds all logits at once.

N positions, C positions of a chunk, D width, V vocabulary. Invariant: the gradients are made in the
forward pass, chunk after chunk in a fixed order; the backward pass only scales them, and every
result repeats to the bit.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED_LABEL = -100
"""Label of a position that counts for nothing."""
CHUNK_BYTES_CPU = 64 * 2**20
"""Logits held at once on a CPU: they stay near the caches, and the products stay large."""
CHUNK_BYTES_DEVICE = 512 * 2**20
"""Logits held at once elsewhere: 4,400 positions of 30,522 words keep a large GPU busy."""


class TokenLoss(NamedTuple):
    """Sums over the positions with a label; each is a scalar on the device."""

    loss: Tensor
    """Summed cross-entropy in nats, float32 or wider."""
    hits: Tensor
    """int64, positions whose most likely word is the label."""
    num_positions: Tensor
    """int64, positions with a label."""


class _Gradients(NamedTuple):
    """Gradients of the summed loss; None where nobody asks."""

    x_ND: Tensor | None
    weight_VD: Tensor | None
    bias_V: Tensor | None


def linear_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_N: Tensor,
    *,
    rows_per_chunk: int = 0,
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
    """
    rows = rows_per_chunk or balanced_rows(len(x_ND), len(weight_VD), x_ND.device.type)
    wanted = [part.requires_grad for part in (x_ND, weight_VD, bias_V)]
    if torch.is_grad_enabled() and any(wanted):
        inputs = (x_ND, weight_VD, bias_V, labels_N, rows)
        return TokenLoss(*_LinearCrossEntropy.apply(*inputs))  # type: ignore[no-untyped-call]
    return _all_chunks(x_ND, weight_VD, bias_V, labels_N, rows=rows, wanted=[False] * 3)[0]


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
        """Return the sums; labels and chunk size are the last two inputs."""
        x_ND, weight_VD, bias_V, labels_N, rows = inputs
        wanted = list(ctx.needs_input_grad[:3])
        sums, gradients = _all_chunks(x_ND, weight_VD, bias_V, labels_N, rows=rows, wanted=wanted)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(sums.hits, sums.num_positions)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass left."""
        scaled = [None if g is None else g.mul_(grad_loss) for g in ctx.saved_tensors]
        return (*scaled, None, None)


def _all_chunks(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    labels_N: Tensor,
    *,
    rows: int,
    wanted: list[bool],
) -> tuple[TokenLoss, _Gradients]:
    """Return the sums over all positions and the gradients of the loss sum."""
    device = x_ND.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else x_ND.dtype
    with torch.autocast(device, enabled=False):
        chunks = _Chunks(weight_VD.to(dtype), bias_V.to(dtype), rows=min(rows, max(1, len(x_ND))))
        sums = _Gradients(
            torch.empty_like(x_ND) if wanted[0] else None,
            weight_VD.new_zeros(weight_VD.shape, dtype=chunks.wide) if wanted[1] else None,
            bias_V.new_zeros(bias_V.shape, dtype=chunks.wide) if wanted[2] else None,
        )
        loss = x_ND.new_zeros((), dtype=chunks.wide)
        hits = labels_N.new_zeros(())
        for start in range(0, len(x_ND), rows):
            part = slice(start, start + rows)
            x_CD, labels_C = x_ND[part].to(dtype), labels_N[part]
            chunk_loss, chunk_hits, gradient_CV = chunks.losses(x_CD, labels_C)
            loss, hits = loss + chunk_loss, hits + chunk_hits
            if any(wanted):
                chunks.add_gradients(gradient_CV, x_CD, sums, part)
        num_positions = (labels_N != IGNORED_LABEL).sum()
    weight_gradient, bias_gradient = (
        None if total is None else total.to(like.dtype)
        for total, like in ((sums.weight_VD, weight_VD), (sums.bias_V, bias_V))
    )
    gradients = _Gradients(sums.x_ND, weight_gradient, bias_gradient)
    return TokenLoss(loss, hits, num_positions), gradients


class _Chunks:
    """The output layer with room for the logits of one chunk, used again for each.

    Args:
        weight_VD: Output weights in the precision of the products.
        bias_V: Output bias in the same.
        rows: Positions of the largest chunk.
    """

    def __init__(self, weight_VD: Tensor, bias_V: Tensor, *, rows: int) -> None:
        self.weight_VD, self.bias_V = weight_VD, bias_V
        self.dtype = weight_VD.dtype
        self.wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        shape = (rows, len(weight_VD))
        self._low_CV = weight_VD.new_empty(shape)
        is_wide = self.dtype == self.wide
        self._wide_CV = self._low_CV if is_wide else weight_VD.new_empty(shape, dtype=self.wide)

    def losses(self, x_CD: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss sum, the hits, and the gradient (C, V) to the logits.

        The gradient's memory is that of the next chunk. The logits are rounded to the precision of
        the products before they are taken to float32.
        """
        low_CV, wide_CV = self._low_CV[: len(x_CD)], self._wide_CV[: len(x_CD)]
        torch.addmm(self.bias_V, x_CD, self.weight_VD.t(), out=low_CV)
        if wide_CV.dtype != low_CV.dtype:
            wide_CV.copy_(low_CV)
        valid_C = labels_C != IGNORED_LABEL
        target_C1 = labels_C.clamp(min=0)[:, None]
        largest_C1, best_C1 = wide_CV.max(-1, keepdim=True)
        hits = (best_C1[:, 0] == labels_C).sum()
        target_logit_C1 = wide_CV.gather(1, target_C1)
        weights_CV = wide_CV.sub_(largest_C1).exp_()
        total_C1 = weights_CV.sum(-1, keepdim=True)
        loss_C = (total_C1.log() + largest_C1 - target_logit_C1)[:, 0]
        loss = loss_C.masked_fill(~valid_C, 0.0).sum()
        valid_C1 = valid_C[:, None].to(self.wide)
        gradient_CV = weights_CV.mul_(valid_C1 / total_C1)
        # A plain write per row, not an atomic addition.
        gradient_CV.scatter_(1, target_C1, gradient_CV.gather(1, target_C1) - valid_C1)
        return loss, hits, gradient_CV

    def add_gradients(
        self, gradient_CV: Tensor, x_CD: Tensor, sums: _Gradients, part: slice
    ) -> None:
        """Add what one chunk contributes; weights and bias are summed in float32."""
        if sums.bias_V is not None:
            sums.bias_V.add_(gradient_CV.sum(0))
        low_CV = gradient_CV
        if gradient_CV.dtype != self.dtype:
            low_CV = self._low_CV[: len(x_CD)].copy_(gradient_CV)
        if sums.x_ND is not None:
            sums.x_ND[part] = low_CV @ self.weight_VD
        if sums.weight_VD is None:
            return
        if self.dtype == self.wide:
            sums.weight_VD.addmm_(low_CV.t(), x_CD)
        else:
            sums.weight_VD.add_(low_CV.t() @ x_CD)
