"""Encoders that are used and no longer trained: the same function, with fewer passes over memory.

B batch, L tokens, D width, N = B * L. Invariant: the given encoder stays as it is, and what comes
out differs from its own result by rounding alone.
"""

import copy
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ponet.encoders.backbone import FeedForward

ModelT = TypeVar("ModelT", bound=nn.Module)
Precision = Literal["32", "bf16"]
_DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}
_RAW = ("query", "key")
"""Layers of PoNet's mixer whose weights are used without the layer."""
CPU_BLOCK = 1024
"""Tokens and thread whose inner values of a feed-forward layer a CPU keeps in its cache."""


class FrozenLinear(nn.Module):
    """A linear layer and the activation behind it, in one pass of oneDNN; a CPU only.

    The product is as fast as that of `nn.Linear` or faster, bias and GELU cost nothing beside it;
    alone they are two more passes over the result. Packed: from a copy of the weights in oneDNN's
    own order, which saves it from ordering them in every call.
    """

    def __init__(
        self, layer: nn.Linear, activation: nn.GELU | None = None, *, is_packed: bool = False
    ) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._after = ("none", "") if activation is None else ("gelu", activation.approximate)
        self._ordered = layer.weight.detach()
        if is_packed:
            order = torch.ops.mkldnn._reorder_linear_weight
            self._ordered = order(self._ordered, CPU_BLOCK)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last axis of x mapped, in the dtype of the weights."""
        name, kind = self._after
        found: Tensor = torch.ops.mkldnn._linear_pointwise(  # what torch.compile calls, too
            x, self._ordered, self.bias, name, [], kind
        )
        return found


class FrozenFeedForward(nn.Module):
    """A feed-forward layer, some tokens at a time: its wide inner values stay in the cache."""

    def __init__(self, layer: FeedForward, *, is_packed: bool = False) -> None:
        """Share the weights of a layer."""
        super().__init__()
        self.expand = FrozenLinear(layer.expand, layer.activation, is_packed=is_packed)
        self.contract = FrozenLinear(layer.contract, is_packed=is_packed)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return (B, L, D)."""
        blocks = torch.split(x_BLD.flatten(0, 1), CPU_BLOCK * torch.get_num_threads())
        found = [self.contract(self.expand(block_ND)) for block_ND in blocks]
        return (torch.cat(found) if len(found) > 1 else found[0]).view_as(x_BLD)


def freeze(model: ModelT, precision: Precision = "32", *, is_packed: bool = False) -> ModelT:
    """Return an encoder, or a model with one, for inference alone; it shares these weights.

    Args:
        model: On any device; stays as it is.
        precision: "32" leaves weights and hidden states as they are; "bf16" makes both bfloat16
            (half the memory; faster on a GPU, and on a CPU with AMX or AVX512-BF16). PoNet's global
            pool is computed in float32 all the same.
        is_packed: Linear layers get a copy of their weights where that makes a CPU faster: a few
            per cent, for the time of some hundred tokens and the memory of the weights.

    Raises:
        ValueError: If the precision is unknown.
    """
    if precision not in get_args(Precision):
        allowed = ", ".join(get_args(Precision))
        raise ValueError(f"precision={precision!r} given; allowed are {allowed}")
    own: dict[int, Any] = {}
    for weight in model.parameters():
        value = weight.detach() if precision == "32" else weight.detach().to(_DTYPES[precision])
        own[id(weight)] = nn.Parameter(value, requires_grad=False)
    is_fused = all(_is_fused(weight) for weight in own.values())
    frozen = _twin(model, own)
    if is_fused:
        _fuse(frozen, is_packed=is_packed)
    return frozen


def _twin(module: ModelT, known: dict[int, Any]) -> ModelT:
    """Return new modules that share all but their parts.

    Args:
        module: Stays as it is.
        known: What takes the place of a parameter or a module, by the id of that.
    """
    if id(module) in known:
        found: ModelT = known[id(module)]
        return found
    if isinstance(module, nn.RNNBase):  # it has its weights in a second list
        return copy.deepcopy(module, known).eval()
    twin = known[id(module)] = type(module).__new__(type(module))
    # What was compiled is the given module; copy.copy takes five times as long for the same.
    shared = {k: v for k, v in vars(module).items() if k != "_compiled_call_impl"}
    twin.__dict__.update({**shared, "training": False})
    own = module._parameters.items()
    twin._parameters = {name: None if w is None else known[id(w)] for name, w in own}
    parts = module._modules.items()
    twin._modules = {name: None if part is None else _twin(part, known) for name, part in parts}
    return twin


def _is_fused(weight: Tensor) -> bool:
    """Return whether oneDNN computes linear layers with such weights here."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # built without oneDNN
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _fuse(module: nn.Module, *, is_packed: bool) -> None:
    """Put frozen layers in the place of linear and feed-forward ones."""
    for name, part in module.named_children():
        if isinstance(part, FeedForward):
            module.add_module(name, FrozenFeedForward(part, is_packed=is_packed))
        elif type(part) is nn.Linear and name not in _RAW:
            module.add_module(name, FrozenLinear(part, is_packed=is_packed))
        else:
            _fuse(part, is_packed=is_packed)
