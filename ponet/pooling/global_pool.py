"""Global pool, and everything in PoNet's mixer before its output layer as one step of autograd.

B batch, L tokens, D width, H heads, K head width (D = H * K), N = B * L. The global pool is folded:
no (B, L, D) query, key or value exists. Kept for the backward pass are the hidden states, the
projections per token and the attention (B, H, L) of the global pool. The three projections'
gradients to the hidden states are added up in one buffer, and the whole global branch adds its own
as one product of rank 2H + 1 per row of the batch. Kernels that read slices of one wide tensor, as
Triton's do, make the M projections per token one product in every direction: it reads the hidden
states once, and compiled, no sum of gradients is copied on its way.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.pooling.plan import Kernels, PoolInputs, PoolPlan, at_least_float32, by_text

Parameter = Tensor | None


class Weights(NamedTuple):
    """Weights (D, D), rows are outputs, and biases (D,); None = without this part."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    segment: Parameter
    segment_bias: Parameter
    local: Parameter
    local_bias: Parameter
    gate: Parameter
    gate_bias: Parameter

    def per_token(self) -> tuple[tuple[Any, Any], ...]:
        """Return weight and bias of the projections per token, in the order of PoolInputs."""
        return tuple(zip(self[4::2], self[5::2], strict=True))


class Attention(NamedTuple):
    """State of the global pool, all in float32 or wider."""

    mean_BD: Tensor
    """Mean of the hidden states."""
    query_BHK: Tensor
    """Projected mean, divided by the square root of K."""
    probs_BHL: Tensor
    """Weight of every token."""


def masked_mean(x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the (B, D) mean over real tokens; 0 for a row without any.

    Args:
        x_BLD: Hidden states, bfloat16 or wider; the mean is float32 or wider.
        mask_BL: bool, True = real token.
    """
    total_BD = wide_bmm(mask_BL[:, None].to(x_BLD.dtype), x_BLD)[:, 0]
    return total_BD / mask_BL.sum(1, keepdim=True).clamp_(min=1)


def wide_bmm(left: Tensor, right: Tensor) -> Tensor:
    """Return the batched product, summed and given in float32 or wider whatever it multiplies."""
    left = left.to(right.dtype)
    if right.dtype in (torch.float32, torch.float64):
        return torch.bmm(left, right)
    if right.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def mean_query(x_BLD: Tensor, weights: Weights, plan: PoolPlan) -> tuple[Tensor, Tensor]:
    """Return the mean of the hidden states (B, D), float32 or wider, and its projection."""
    mean_BD = masked_mean(x_BLD, plan.text_mask_TP1[..., 0])
    like = mean_BD.dtype
    return mean_BD, torch.addmm(weights.query_bias.to(like), mean_BD, weights.query.to(like).t())


def attend(
    x_BLD: Tensor, weights: Weights, plan: PoolPlan, num_heads: int
) -> tuple[Tensor, Attention]:
    """Return the attention of the mean query over all tokens, value = key, and how it came about.

    With u = Wk_h^T q_h / sqrt(K) per head: scores are x . u (the key bias adds a constant that
    the softmax drops) and the pooled value is Wk_h (sum a x) + bk_h, because sum a = 1. This is
    the published function with two D x D products per token less.

    Args:
        x_BLD: Hidden states, bfloat16 or wider; all sums are float32 or wider.
        weights: Of query and key.
        plan: Of the batch.
        num_heads: H; divides D.

    Source:
        PoNet (arXiv 2110.02442), global aggregation, both stages; the released code uses one
        projection for key and value.
    """
    mean_BD, query_BD = mean_query(x_BLD, weights, plan)
    like = mean_BD.dtype
    query_BHK = query_BD.reshape(query_BD.shape[0], num_heads, -1)  # no len(): it may be traced
    query_BHK = query_BHK * query_BHK.shape[-1] ** -0.5
    key_HKD = weights.key.to(like).reshape(num_heads, -1, x_BLD.shape[-1])
    probe_BHD = torch.einsum("bhk,hkd->bhd", query_BHK, key_HKD)
    scores_BHL = wide_bmm(probe_BHD, x_BLD.transpose(1, 2))
    probs_BHL = F.softmax(scores_BHL.add_(plan.score_bias_TP.to(like)[:, None]), dim=-1)
    value_BHK = torch.einsum("bhd,hkd->bhk", wide_bmm(probs_BHL, x_BLD), key_HKD)
    pooled_BD = value_BHK.flatten(1) + weights.key_bias.to(like)
    return pooled_BD, Attention(mean_BD, query_BHK, probs_BHL)


def attend_backward(
    grad_BD: Tensor, x_BLD: Tensor, attention: Attention, weights: Weights, *, plan: PoolPlan,
    grad_x_BLD: Tensor | None,
) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor, Tensor]]:  # fmt: skip
    """Add the global pool's gradient to that of the hidden states, in place if that is wide.

    Two passes over the hidden states: one for the gradient of the attention, one for the pooled
    states (which cost less to make again than to keep) together with the gradient of the probe.

    Returns:
        Gradient of the hidden states, float32 or wider; of query weight and bias, key weight and
        bias.
    """
    x_BLD, (mean_BD, query_BHK, probs_BHL) = by_text(x_BLD, plan), attention
    like = mean_BD.dtype
    num_heads, head_size = query_BHK.shape[1:]
    key_HKD = weights.key.to(like).view(num_heads, -1, x_BLD.shape[-1])
    grad_value_BHK = grad_BD.view(query_BHK.shape)
    grad_pooled_BHD = torch.einsum("bhk,hkd->bhd", grad_value_BHK, key_HKD)
    grad_scores_BHL = wide_bmm(grad_pooled_BHD, x_BLD.transpose(1, 2))
    grad_scores_BHL -= (grad_scores_BHL * probs_BHL).sum(-1, keepdim=True)
    grad_scores_BHL *= probs_BHL
    factors_BGL = torch.cat([probs_BHL, grad_scores_BHL], 1)
    pooled_BHD, grad_probe_BHD = wide_bmm(factors_BGL, x_BLD).chunk(2, 1)
    grad_query_BHK = torch.einsum("bhd,hkd->bhk", grad_probe_BHD, key_HKD)
    grad_query_BD = grad_query_BHK.flatten(1) * head_size**-0.5
    grad_key_HKD = torch.einsum("bhk,bhd->hkd", grad_value_BHK, pooled_BHD)
    grad_key_HKD += torch.einsum("bhk,bhd->hkd", query_BHK, grad_probe_BHD)
    if grad_x_BLD is not None:
        grad_mean_BD = grad_query_BD @ weights.query.to(like)
        probe_BHD = torch.einsum("bhk,hkd->bhd", query_BHK, key_HKD)
        share_B1L = plan.text_mask_TP1.transpose(1, 2).to(like)
        share_B1L = share_B1L / share_B1L.sum(-1, keepdim=True).clamp_(min=1.0)
        left_BGL = torch.cat([factors_BGL, share_B1L], 1)
        right_BGD = torch.cat([grad_pooled_BHD, probe_BHD, grad_mean_BD[:, None]], 1)
        grad_x_BLD = _add_ranks(grad_x_BLD, left_BGL, right_BGD, plan)
    return grad_x_BLD, (
        (grad_query_BD.t() @ mean_BD).to(weights.query.dtype),
        grad_query_BD.sum(0).to(weights.query.dtype),
        grad_key_HKD.flatten(0, 1).to(weights.query.dtype),
        grad_BD.sum(0).to(weights.query.dtype),
    )


def _add_ranks(grad_BLD: Tensor, left_TGP: Tensor, right_TGD: Tensor, plan: PoolPlan) -> Tensor:
    """Return the sum of a gradient and of a product of rank G per text, float32 or wider.

    A gradient in low precision gets a product in low precision: both are read once, and summed in
    float32.
    """
    low, is_wide = grad_BLD.dtype, grad_BLD.dtype == left_TGP.dtype
    if is_wide and plan.text_slots_N is None:
        return grad_BLD.baddbmm_(left_TGP.transpose(1, 2), right_TGD)
    product_TPD = torch.bmm(left_TGP.transpose(1, 2).to(low), right_TGD.to(low))
    if plan.text_slots_N is None:
        return at_least_float32(grad_BLD) + product_TPD
    found_ND = product_TPD.flatten(0, 1).index_select(0, plan.text_slots_N)
    found_BLD = found_ND.view_as(grad_BLD)
    if is_wide:
        return grad_BLD.addcmul_(found_BLD, plan.mask_BL1.to(low))
    return at_least_float32(grad_BLD) + torch.where(plan.mask_BL1, found_BLD, 0)


def pool_projected(
    x_BLD: Tensor, weights: Weights, *, plan: PoolPlan, num_heads: int, window: int,
    kernels: Kernels, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Return PoNet's fused pools (B, L, D) with the attentive global pool.

    The global pool sums in float32 or wider, because it sums over the whole sequence. What it
    multiplies is float32 as well, but bfloat16 for kernels that join the projections, so on GPUs:
    there its products wait for memory alone.

    Args:
        x_BLD: Hidden states.
        weights: Of the projections.
        plan: Of the batch.
        num_heads: H; divides D.
        window: Odd width of the local windows in tokens.
        kernels: What fuses the pools.
        dtype: Of the projections per token, the pools, and the result.

    Source:
        PoNet (arXiv 2110.02442); the folded form of the global pool is explained in attend.
    """
    with torch.autocast(x_BLD.device.type, enabled=False):
        mixed_BLD: Tensor = _Pooled.apply(  # type: ignore[no-untyped-call]
            x_BLD, plan, num_heads, window, kernels, dtype, *weights
        )
    return mixed_BLD


class _Pooled(torch.autograd.Function):
    """See pool_projected; its backward pass computes what is asked for and nothing else."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, x_BLD: Tensor, plan: PoolPlan, num_heads: int, window: int, kernels: Kernels,
        dtype: torch.dtype, *parameters: Any,
    ) -> Tensor:  # fmt: skip
        weights = Weights(*parameters)
        low_BLD = x_BLD.to(dtype)
        seen_BLD = _seen_globally(x_BLD, low_BLD, kernels)
        global_BD, attention = attend(by_text(seen_BLD, plan), weights, plan, num_heads)
        inputs = PoolInputs(global_BD, *_project(low_BLD, weights, _joins(kernels)))
        mixed_BLD, saved = kernels.forward(inputs, plan, window)
        ctx.save_for_backward(x_BLD, *weights, *inputs, *attention, *saved)
        ctx.plan, ctx.kernels, ctx.window = plan, kernels, window
        return mixed_BLD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        x_BLD, *rest = ctx.saved_tensors
        weights, inputs = Weights(*rest[:10]), PoolInputs(*rest[10:14])
        attention, saved = Attention(*rest[14:17]), tuple(rest[17:])
        with torch.autocast(x_BLD.device.type, enabled=False):
            grad_BLD, needs_x = grad_outputs[0].contiguous(), ctx.needs_input_grad[0]
            given, needs = (grad_BLD, inputs, saved), Weights(*ctx.needs_input_grad[6:])
            if _joins(ctx.kernels):
                of_global, of_tokens = ctx.kernels.joint_backward(*given, ctx.plan, ctx.window)
                found = _joint_backward(x_BLD, weights, of_tokens, needs_x, needs)
            else:
                of_global, *of_each = ctx.kernels.backward(*given, ctx.plan, ctx.window)
                found = _tokens_backward(x_BLD, weights, of_each, needs_x, needs)
            grad_x_BLD, token_grads = found
            seen_BLD = _seen_globally(x_BLD, x_BLD.to(grad_BLD.dtype), ctx.kernels)
            grad_x_BLD, global_grads = attend_backward(
                of_global, seen_BLD, attention, weights, plan=ctx.plan, grad_x_BLD=grad_x_BLD
            )
        if grad_x_BLD is not None:
            grad_x_BLD = grad_x_BLD.to(x_BLD.dtype)
        return (grad_x_BLD, None, None, None, None, None, *global_grads, *token_grads)


def _joins(kernels: Kernels) -> bool:
    """Return whether kernels read and write slices of one tensor of all values per token."""
    return hasattr(kernels, "joint_backward")


def _seen_globally(x_BLD: Tensor, low_BLD: Tensor, kernels: Kernels) -> Tensor:
    """Return the hidden states as the global pool reads them; float16 is too narrow for it."""
    is_low = _joins(kernels) and low_BLD.dtype == torch.bfloat16
    return low_BLD if is_low else at_least_float32(x_BLD)


def _project(x_BLD: Tensor, weights: Weights, joins: bool) -> list[Tensor | None]:
    """Return the projections per token (B, L, D), of one product if asked for."""
    dtype, x_ND = x_BLD.dtype, x_BLD.flatten(0, 1)
    given = [(w.to(dtype), b.to(dtype)) for w, b in weights.per_token() if w is not None]
    if joins and given:
        weight_ED, bias_E = (torch.cat(tensors) for tensors in zip(*given, strict=True))
        joint_NE = torch.addmm(bias_E, x_ND, weight_ED.t())
        joint_BLE = joint_NE.view(*x_BLD.shape[:2], -1)
        found = list(torch.split(joint_BLE, x_BLD.shape[-1], -1))
    else:
        found = [torch.addmm(b, x_ND, w.t()).view(x_BLD.shape) for w, b in given]
    parts = iter(found)
    return [None if w is None else next(parts) for w, _ in weights.per_token()]


def _joint_backward(
    x_BLD: Tensor, weights: Weights, of_tokens_BLMD: Tensor, needs_x: bool, needs: Weights
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return what _tokens_backward does, from the gradients of all projections in one tensor.

    The gradient of the hidden states is in the precision of those of the projections.
    """
    grad_NE = of_tokens_BLMD.flatten(0, 1).flatten(1)
    low_ND, width = x_BLD.flatten(0, 1).to(grad_NE.dtype), x_BLD.shape[-1]
    grad_x_BLD: Tensor | None = None
    given = [weight.to(grad_NE.dtype) for weight, _ in weights.per_token() if weight is not None]
    if needs_x:
        grad_x_BLD = (grad_NE @ torch.cat(given)).view_as(x_BLD)
    of_weights = iter(torch.split(grad_NE.t() @ low_ND, width))
    of_biases = iter(torch.split(_bias_gradient(grad_NE), width))
    results: list[Tensor | None] = []
    for (weight, _), (needs_weight, needs_bias) in zip(
        weights.per_token(), needs.per_token(), strict=True
    ):
        if weight is None:
            results += [None, None]
            continue
        of_weight, of_bias = next(of_weights), next(of_biases)
        results.append(of_weight.to(weight.dtype) if needs_weight else None)
        results.append(of_bias.to(weight.dtype) if needs_bias else None)
    return grad_x_BLD, results


def _tokens_backward(
    x_BLD: Tensor, weights: Weights, grads: list[Tensor | None], needs_x: bool, needs: Weights
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradient of the hidden states, in float32 or wider, and of the projections."""
    grad_x_ND: Tensor | None = None
    results: list[Tensor | None] = []
    x_ND = x_BLD.flatten(0, 1).to(next(grad.dtype for grad in grads if grad is not None))
    for grad_BLD, (weight, _), (needs_weight, needs_bias) in zip(
        grads, weights.per_token(), needs.per_token(), strict=True
    ):
        if grad_BLD is None:
            results += [None, None]
            continue
        grad_ND = grad_BLD.flatten(0, 1)
        if needs_x:
            low = weight.to(grad_ND.dtype)
            grad_x_ND = grad_ND @ low if grad_x_ND is None else grad_x_ND.addmm_(grad_ND, low)
        results.append((grad_ND.t() @ x_ND).to(weight.dtype) if needs_weight else None)
        results.append(_bias_gradient(grad_ND).to(weight.dtype) if needs_bias else None)
    return None if grad_x_ND is None else at_least_float32(grad_x_ND).view_as(x_BLD), results


def _bias_gradient(grad_ND: Tensor) -> Tensor:
    wide = torch.promote_types(grad_ND.dtype, torch.float32)
    if grad_ND.device.type == "cpu" and grad_ND.dtype == wide:  # half the time of a sum
        return torch.mv(grad_ND.t(), grad_ND.new_ones(len(grad_ND)))
    return grad_ND.sum(0, dtype=wide)
