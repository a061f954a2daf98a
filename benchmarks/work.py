"""How much each part of an encoder computes, and the least time a machine would need for it.

D width, F width of the feed-forward layer, L tokens of a text.
"""

from ponet import EncoderConfig
from ponet.flops import FORWARD_AND_BACKWARD, mixer_products, transform_flops

POOLING_PASSES = 16
"""Reads and writes of a (tokens, D) array by PoNet's pooling, forward and backward, if each large
array is read and written once per kernel; the count is explained in docs/performance.md."""
OTHER_PASSES = 34
"""The same for the rest of a training layer: norms, residuals, GELU, with compiled pointwise code
and products that do nothing else."""


def step_flops(
    kind: str, part: str, config: EncoderConfig, num_tokens: int, *, training: bool
) -> float:
    """Return the operations per token of one step on a mixer, a layer or a model.

    Args:
        kind: ponet (folded), official (five projections), bert or fnet.
        part: mixer (without output projection), layer or model (all layers).
        config: Sizes.
        num_tokens: L; only attention and the Fourier transform depend on it.
        training: Whether there is a backward pass.
    """
    width = config.hidden_size
    products = mixer_products(config, num_tokens) / num_tokens
    if kind == "official":
        products = 6 * width**2 + 2 * width
    if part == "mixer":
        products -= 0 if kind == "fnet" else width**2
    else:
        products += 2 * width * config.ffn_size
    # The Fourier transform has no weights, so its backward pass is one transform and not two.
    transform = transform_flops(config, num_tokens) / num_tokens
    once = 2 * products * (FORWARD_AND_BACKWARD if training else 1)
    once += transform * (2 if training else 1)
    return once * (config.num_layers if part == "model" else 1)


def least_layer_seconds(
    config: EncoderConfig,
    *,
    tokens: int,
    flops_per_s: float,
    bytes_per_s: float,
    bytes_per_value: int,
) -> float:
    """Return the bound of PoNet's training layer on a machine with these two rates.

    Args:
        config: Sizes.
        tokens: In the batch.
        flops_per_s: Of the best matrix product measured.
        bytes_per_s: Read plus written, by the copy measured.
        bytes_per_value: Of an activation.
    """
    flops = tokens * step_flops("ponet", "layer", config, tokens, training=True)
    moved = (POOLING_PASSES + OTHER_PASSES) * tokens * config.hidden_size * bytes_per_value
    return flops / flops_per_s + moved / bytes_per_s
