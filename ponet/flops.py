"""Floating-point operations of a training step, from sizes alone.

B rows, L tokens of a row, D width, F inner width of the feed-forward layer, h heads, M masked
positions of a row, R tokens of a row that the last block is computed for, V vocabulary, P pair
classes. A multiplication and an addition count as two operations, and every position that is
computed counts, padding included.

What is counted: matrix products and Fourier transforms. Norms, activations, maxima and embeddings
are not; nor is what gradient checkpointing computes again, or what the last block leaves out. So a
rate divided by the device's peak is the model FLOP utilisation (MFU).

Source: PaLM (arXiv 2204.02311), appendix B, for the definition of MFU; a matrix product's backward
pass is two products of its size. An FFT of n complex values takes 5 n log2(n) operations, one of
real values half of that (the convention of the FFTW benchmarks, fftw.org/speed).
"""

import math

from ponet.config import (
    EncoderConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoolingConfig,
    projections_in_use,
)

FORWARD_AND_BACKWARD = 3
"""Products of a linear layer's size in a training step: the output and both gradients."""


def training_flops(
    config: EncoderConfig,
    *,
    num_rows: int,
    num_tokens: float,
    num_masked: float = 0,
    num_pair_classes: int = 0,
    num_read: float | None = None,
) -> float:
    """Return the operations of one forward and backward pass, the optimiser left out.

    With F = 4 D and many tokens that is, per token and layer: 72 D^2 for PoNet (of which the global
    pool's 12 h D are a small part more), 72 D^2 + 12 L D for BERT, and 48 D^2 + 5 D log2(L D) for
    FNet. Each masked position takes 6 D (D + V) more. A local layer of local/global attention has
    the 2 W keys around a block of W tokens where BERT has L, as far as it computes blocks.

    Args:
        config: Encoder.
        num_rows: B.
        num_tokens: L, padding included; the mean where rows differ.
        num_masked: M, slots of the masked-LM head in each row, or their mean.
        num_pair_classes: P; 0: no pair head and no pooler.
        num_read: R; None: all L.
    """
    width = config.hidden_size
    reading = [num_tokens] * config.num_layers
    if num_read is not None:
        reading[-1:] = [num_read] * len(reading[-1:])
    products = num_masked * width * (width + config.vocab_size)
    for number, read in enumerate(reading):
        products += mixer_products(config, num_tokens, num_read=read, layer=number)
        if not isinstance(config, LSTMConfig):
            products += 2 * read * width * config.ffn_size
    if num_pair_classes:
        pooler = 1 if config.first_sees_all else 2 * num_tokens
        products += width * (pooler * width + num_pair_classes)
    if isinstance(config, FNetConfig) and config.embedding_projection:
        products += num_tokens * width**2
    transforms = 2 * config.num_layers * transform_flops(config, num_tokens)
    return num_rows * (FORWARD_AND_BACKWARD * 2 * products + transforms)


def mixer_products(
    config: EncoderConfig, num_tokens: float, *, num_read: float | None = None, layer: int = 0
) -> float:
    """Return the multiplications of one mixer's forward pass over one row.

    PoNet's query and key are applied to pooled vectors only: three D x D products per row, and two
    of h x D per token. For the tokens that are read alone it computes gate and output, BERT its
    queries and output.

    Args:
        config: Encoder.
        num_tokens: L.
        num_read: R; None: all L.
        layer: Its number from 0; layers of local/global attention and of hybrids differ.

    Raises:
        TypeError: If the encoder is of a kind without a formula here.
    """
    width, num_read = config.hidden_size, num_tokens if num_read is None else num_read
    if isinstance(config, FNetConfig):
        return 0
    if (attended := config.attended(layer)) is not None:
        return _attention_products(width, num_tokens, num_read, attended)
    if isinstance(config, MLPMixerConfig):
        return 2 * num_tokens * width * config.ffn_size
    if isinstance(config, HyperMixerConfig):
        makers = (1 if config.tie_weights else 2) * (width + config.mixing_size)
        return num_tokens * width * (makers + 2 * config.mixing_size)
    if isinstance(config, LSTMConfig):
        return num_tokens * width**2 * (6 if config.bidirectional else 8)
    if not isinstance(config, PoolingConfig):
        raise TypeError(f"no operation count for {type(config).__name__}; add its mixer here")
    in_use = projections_in_use(config)
    pooled = ("segment" in in_use) + ("local" in in_use)
    products = (pooled * num_tokens + (1 + ("gate" in in_use)) * num_read) * width**2
    if "key" in in_use:
        products += 2 * (width**2 + num_tokens * config.num_heads * width)
    return products + (width**2 if "query" in in_use else 0)


def _attention_products(width: int, num_tokens: float, num_read: float, attended: float) -> float:
    """Return the multiplications of an attention mixer; a local layer computes all its tokens."""
    if attended < math.inf:
        seen = min(num_tokens, 2 * attended)
        return (3 * num_tokens + num_read) * width**2 + 2 * num_tokens * seen * width
    return 2 * (num_tokens + num_read) * width**2 + 2 * num_tokens * num_read * width


def transform_flops(config: EncoderConfig, num_tokens: float) -> float:
    """Return the operations of one mixer's Fourier transform of one row of real values."""
    if not isinstance(config, FNetConfig):
        return 0.0
    size = num_tokens * config.hidden_size
    return 2.5 * size * math.log2(size)
