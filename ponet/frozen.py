"""Encoders that are used and no longer trained: the same function, with fewer passes over memory.

B batch, L tokens, D width, N = B * L. Invariant: the given encoder stays as it is, and what comes
out differs from its own result by rounding alone.
"""

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ponet.encoders import Encoder
from ponet.encoders.backbone import FeedForward

Precision = Literal["32", "bf16"]
_DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
_RAW = ("query", "key")
"""Layers of PoNet's mixer whose weights are used without the layer."""
CPU_BLOCK = 1024
"""Tokens and thread whose inner values of a feed-forward layer a CPU keeps in its cache."""


class FrozenLinear(nn.Module):
    """A linear layer and the activation behind it, in one pass of oneDNN; a CPU only.

    The product is as fast as that of `nn.Linear` or faster, bias and GELU cost nothing beside it;
    alone they are two more passes over the result.
    """

    def __init__(self, layer: nn.Linear, activation: nn.GELU | None = None) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._after = ("none", "") if activation is None else ("gelu", activation.approximate)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last axis of x mapped, in the dtype of the weights."""
        name, kind = self._after
        found: Tensor = torch.ops.mkldnn._linear_pointwise(  # what torch.compile calls, too
            x, self.weight, self.bias, name, [], kind
        )
        return found


class FrozenFeedForward(nn.Module):
    """A feed-forward layer, some tokens at a time: its wide inner values stay in the cache."""

    def __init__(self, layer: FeedForward) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.expand = FrozenLinear(layer.expand, layer.activation)
        self.contract = FrozenLinear(layer.contract)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, D)."""
        blocks = torch.split(x_BLD.flatten(0, 1), CPU_BLOCK * torch.get_num_threads())
        found = [self.contract(self.expand(block_ND)) for block_ND in blocks]
        return (torch.cat(found) if len(found) > 1 else found[0]).view_as(x_BLD)


def freeze(encoder: Encoder, precision: Precision = "32") -> Encoder:
    """Return an encoder for inference alone, which shares the weights of this one.

    Args:
        encoder: On any device; stays as it is.
        precision: "32" leaves weights and hidden states as they are; "bf16" makes both bfloat16
            (half the memory; faster on a GPU, and on a CPU with AMX or AVX512-BF16). PoNet's global
            pool is computed in float32 all the same.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in get_args(Precision):
        allowed = ", ".join(get_args(Precision))
        raise ValueError(f"precision={precision!r} given; allowed are {allowed}")
    own: dict[int, nn.Parameter] = {}
    for weight in encoder.parameters():
        value = weight.detach() if precision == "32" else weight.detach().to(_DTYPES[precision])
        own[id(weight)] = nn.Parameter(value, requires_grad=False)
    is_fused = all(_is_fused(weight) for weight in own.values())
    frozen = copy.deepcopy(encoder, dict(own)).eval()
    if is_fused:
        _fuse(frozen)
    return frozen


def _is_fused(weight: Tensor) -> bool:
    """Return whether oneDNN computes linear layers with such weights here."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # built without oneDNN
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _fuse(module: nn.Module) -> None:
    """Put frozen layers in the place of linear and feed-forward ones."""
    for name, part in module.named_children():
        if isinstance(part, FeedForward):
            module.add_module(name, FrozenFeedForward(part))
        elif type(part) is nn.Linear and name not in _RAW:
            module.add_module(name, FrozenLinear(part))
        else:
            _fuse(part)
