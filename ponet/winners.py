"""What PoNet's pools took from which token, and what that gave to an output.

B batch, L tokens, D width, H heads, K head width. A maximum has a winner: that, and the weights of
the global pool, are read off, not estimated. Maxima that are tied are shared as the pools share
their gradient: evenly in a segment, all to the first one in a window.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ponet.batch import EncoderBatch
from ponet.encoders.backbone import Encoder
from ponet.encoders.ponet import PoNetMixer
from ponet.pooling.global_pool import attend
from ponet.pooling.plan import PoolInputs, PoolPlan
from ponet.pooling.reference import local_max, mix_reference, segment_max


class Pooled(NamedTuple):
    """A figure of every token for each of the pools, (B, L); 0 where a pool is switched off."""

    segment: Tensor
    local: Tensor
    whole: Tensor
    """Of the global pool."""


class LayerWinners(NamedTuple):
    """What the pools of one layer took."""

    taken: Pooled
    """segment: channels of its segment's maximum that the token won, of D; in segments that no
    token reads ([CLS] and [SEP], where they are guarded) 0. local: pairs of window and channel that
    it won, of D windows each. whole: its share of the global pool, the mean over heads; all tokens
    together have 1."""
    given: Pooled
    """What these values give to the output: value times the output's gradient, summed over
    channels. Over all tokens that is the sum over a pool of its value times its gradient."""


def pool_winners(
    model: nn.Module,
    batch: EncoderBatch,
    score: Callable[[Tensor], Tensor],
) -> tuple[Tensor, list[LayerWinners]]:
    """Return what the model gives for a batch, and the winners of each layer from the first one.

    Args:
        model: Holds an encoder of PoNet's as `encoder`; in evaluation mode.
        batch: Texts, one in every row.
        score: Makes (B,) of the model's output: what is to be explained of every text.

    Raises:
        ValueError: The encoder has no pools, or rows hold several texts.

    Source:
        PoNet (arXiv 2110.02442), its three poolings; value times gradient is the first-order part
        of taking the value away ("input times gradient", arXiv 1605.01713).
    """
    mixers = [module for module in model.modules() if isinstance(module, PoNetMixer)]
    if not mixers:
        raise ValueError("an encoder without pools was given; only PoNet's have winners")
    if batch.text_places is not None:
        raise ValueError("rows of several texts were given; winners need a text in every row")
    with _whole_layers(model), _watched(mixers) as seen, torch.enable_grad():
        output = model(batch)
        updates = [update for _, _, update in seen]
        grads = torch.autograd.grad(score(output).sum(), updates, allow_unused=True)
    layers = []
    for mixer, (x_BLD, plan, update), grad in zip(mixers, seen, grads, strict=True):
        grad_BLD = torch.zeros_like(update) if grad is None else grad
        layers.append(_layer(mixer, x_BLD.detach(), plan, grad_BLD))
    return output.detach(), layers


@contextmanager
def _whole_layers(model: nn.Module) -> Iterator[None]:
    """Let the last block be computed for every token, and frozen parts leave a graph too."""
    encoders = [module for module in model.modules() if isinstance(module, Encoder)]
    with ExitStack() as stack:
        for encoder in encoders:
            for name, value in (("sparse_last_block", False), ("num_frozen", 0)):
                stack.callback(setattr, encoder, name, getattr(encoder, name))
                setattr(encoder, name, value)
        yield


@contextmanager
def _watched(mixers: list[PoNetMixer]) -> Iterator[list[tuple[Tensor, PoolPlan, Tensor]]]:
    """Collect the input, the plan and the update of every mixer of a forward pass, in order."""
    seen: list[tuple[Tensor, PoolPlan, Tensor]] = []

    def note(_: nn.Module, given: tuple[Tensor, PoolPlan], update: Tensor) -> None:
        if not update.requires_grad:  # frozen weights, and nothing below that is watched
            update.requires_grad_()
        seen.append((*given, update))

    with ExitStack() as stack:
        for mixer in mixers:
            stack.callback(mixer.register_forward_hook(note).remove)
        yield seen


def _layer(mixer: PoNetMixer, x_BLD: Tensor, plan: PoolPlan, grad_BLD: Tensor) -> LayerWinners:
    """Return a layer's winners, from its input and the output's gradient to its update."""
    with torch.no_grad():
        values = mixer.project(x_BLD, plan)
        grad_BLD = grad_BLD @ mixer.output.weight
    leaves = PoolInputs(*(None if v is None else v.detach().requires_grad_() for v in values))
    window, nothing_BL = mixer.config.local_window, x_BLD.new_zeros(x_BLD.shape[:2])
    with torch.enable_grad():
        mixed_BLD = mix_reference(leaves, plan, window)
        pools = [leaf for leaf in leaves[:3] if leaf is not None]
        found = iter(torch.autograd.grad(mixed_BLD, pools, grad_BLD))
    global_BD, segment_BLD, local_BLD = (
        leaf if leaf is None else next(found) for leaf in leaves[:3]
    )
    grads = PoolInputs(global_BD, segment_BLD, local_BLD, None)
    taken, given = Pooled(*[nothing_BL] * 3), Pooled(*[nothing_BL] * 3)
    if leaves.segment_BLD is not None:
        won_BL = _segment_wins(leaves.segment_BLD, plan)
        taken = taken._replace(segment=won_BL)
        given = given._replace(segment=_given(leaves.segment_BLD, grads.segment_BLD))
    if leaves.local_BLD is not None:
        taken = taken._replace(local=_local_wins(leaves.local_BLD, plan, window))
        given = given._replace(local=_given(leaves.local_BLD, grads.local_BLD))
    if grads.global_BD is not None:
        share_BL, given_BL = _global(mixer, x_BLD, plan, grads.global_BD)
        taken, given = taken._replace(whole=share_BL), given._replace(whole=given_BL)
    return LayerWinners(taken, given)


def _given(value_BLD: Tensor, grad_BLD: Tensor | None) -> Tensor:
    assert grad_BLD is not None
    return (value_BLD.detach() * grad_BLD).sum(-1)


def _segment_wins(value_BLD: Tensor, plan: PoolPlan) -> Tensor:
    """Return how many channels of its segment's maximum each token won, (B, L)."""
    with torch.enable_grad():
        rows = plan.write_rows_N, plan.read_rows_N
        pooled_ND = segment_max(value_BLD.flatten(0, 1), *rows)
        (counted_BLD,) = torch.autograd.grad(pooled_ND.sum(), value_BLD)
    readers_R = torch.bincount(plan.read_rows_N, minlength=len(plan.read_rows_N) + 1)
    readers_N = readers_R[plan.write_rows_N].clamp(min=1)
    return counted_BLD.sum(-1) / readers_N.view(value_BLD.shape[:2])


def _local_wins(value_BLD: Tensor, plan: PoolPlan, window: int) -> Tensor:
    """Return how many pairs of window and channel each token won, (B, L)."""
    with torch.enable_grad():
        pooled_BLD = local_max(value_BLD, plan.window_BL1, window=window)
        (counted_BLD,) = torch.autograd.grad(pooled_BLD.sum(), value_BLD)
    return counted_BLD.sum(-1)


@torch.no_grad()
def _global(
    mixer: PoNetMixer, x_BLD: Tensor, plan: PoolPlan, grad_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each token's share of the global pool and what its part of the value gives."""
    mask_BL = plan.mask_BL1[..., 0]
    if mixer.config.global_pool == "mean":
        share_BL = mask_BL / mask_BL.sum(1, keepdim=True).clamp(min=1)
        return share_BL, share_BL * (mixer.query(x_BLD) * grad_BD[:, None]).sum(-1)
    probs_BHL = attend(x_BLD, mixer.weights(), plan, mixer.config.num_heads)[1].probs_BHL
    num_heads = mixer.config.num_heads
    value_BLHK = mixer.key(x_BLD).view(*x_BLD.shape[:2], num_heads, -1)
    grad_BHK = grad_BD.view(len(grad_BD), num_heads, -1)
    given_BHL = probs_BHL * torch.einsum("blhk,bhk->bhl", value_BLHK, grad_BHK)
    return probs_BHL.mean(1), given_BHL.sum(1)
