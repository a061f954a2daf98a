"""How much each part of an encoder computes, and the least time a machine would need for it.

D width, F width of the feed-forward layer, H heads, L tokens of a text.
"""

import math

from ponet import EncoderConfig

TRAINING_PASSES = 3
"""Forward, gradient of the inputs, gradient of the weights: each product once more."""
POOLING_PASSES = 16
"""Reads and writes of a (tokens, D) array by PoNet's pooling, forward and backward, if each large
array is read and written once per kernel; the count is explained in docs/performance.md."""
OTHER_PASSES = 34
"""The same for the rest of a training layer: norms, residuals, GELU, with compiled pointwise code
and products that do nothing else."""


def forward_flops(kind: str, part: str, config: EncoderConfig, num_tokens: int) -> float:
    """Return floating-point operations per token of one mixer, layer or model, forward only.

    Multiplications and additions of matrix products and of the Fourier transform (5 n log2 n / 2
    for a real result); what is done once per element is left out.

    Args:
        kind: ponet (folded), official (five projections), bert or fnet.
        part: mixer (without output projection), layer or model (all layers).
        config: Sizes.
        num_tokens: L; only attention and the Fourier transform depend on it.
    """
    width, heads = config.hidden_size, config.num_heads
    square = 2.0 * width**2
    mixer = {
        "ponet": 3 * square + (4 * heads + 2) * width,
        "official": 5 * square + 4 * width,
        "bert": 3 * square + 4 * num_tokens * width,
        "fnet": 2.5 * width * math.log2(num_tokens * width),
    }[kind]
    if part == "mixer":
        return mixer
    output = 0.0 if kind == "fnet" else square
    layer = mixer + output + 4 * width * config.ffn_size
    return layer if part == "layer" else config.num_layers * layer


def step_flops(
    kind: str, part: str, config: EncoderConfig, num_tokens: int, *, training: bool
) -> float:
    """Return operations per token of one step."""
    # The Fourier transform has no weights, so its backward pass is one transform and not two.
    forward = forward_flops(kind, part, config, num_tokens)
    if not training:
        return forward
    weightless = 0.0
    if kind == "fnet":
        weightless = forward_flops(kind, "mixer", config, num_tokens)
        weightless *= config.num_layers if part == "model" else 1
    return TRAINING_PASSES * forward - weightless


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
    flops = tokens * step_flops("ponet", "layer", config, 1, training=True)
    moved = (POOLING_PASSES + OTHER_PASSES) * tokens * config.hidden_size * bytes_per_value
    return flops / flops_per_s + moved / bytes_per_s
