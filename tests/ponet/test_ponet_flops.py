"""Operation counts: by hand for the published sizes, and against PyTorch's own counter."""

import dataclasses
import math

import pytest
import torch
from ponet_reference import make_batch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ponet import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
    PretrainingModel,
)
from ponet.flops import training_flops, transform_flops

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_heads": 4, "num_layers": 2, "ffn_size": 64,
         "max_positions": 24, "dropout_prob": 0.0}  # fmt: skip
PLAIN = {**SIZES, "kernels": "reference"}
D, VOCAB = 768, 30522


def per_token_and_layer(config: EncoderConfig, num_tokens: int) -> float:
    flops = training_flops(config, num_rows=1, num_tokens=num_tokens)
    return flops / num_tokens / config.num_layers


@pytest.mark.parametrize("num_tokens", [512, 16384])
def test_base_models_take_the_operations_of_the_published_arithmetic(num_tokens: int) -> None:
    longest = {"max_positions": num_tokens}
    ponet = per_token_and_layer(PoNetConfig(**longest), num_tokens)
    assert 72 * D**2 < ponet < 72.5 * D**2
    bert = per_token_and_layer(BertConfig(**longest), num_tokens)
    assert bert == 72 * D**2 + 12 * num_tokens * D
    fnet = per_token_and_layer(FNetConfig(**longest), num_tokens)
    assert fnet == pytest.approx(48 * D**2 + 5 * D * math.log2(num_tokens * D), rel=1e-12)


def test_masked_positions_and_pairs_add_their_heads() -> None:
    sizes = {"num_rows": 8, "num_tokens": 512}
    alone = training_flops(BertConfig(), **sizes)
    heads = training_flops(BertConfig(), **sizes, num_masked=77, num_pair_classes=3) - alone
    assert heads == 8 * (6 * 77 * D * (D + VOCAB) + 6 * D * (D + 3))


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (BertConfig(**SIZES, attention_dropout_prob=0.0), 1e-9),
        (FNetConfig(**SIZES), 1e-9),
        (FNetConfig(**SIZES, embedding_projection=True), 1e-9),
        (MLPMixerConfig(**{**SIZES, "max_positions": 12}, projection=None), 1e-9),
        (HyperMixerConfig(**SIZES), 1e-9),
        (HyperMixerConfig(**SIZES, tie_weights=True), 1e-9),
        (LSTMConfig(**SIZES), 0.02),
        (LSTMConfig(**SIZES, bidirectional=False), 0.02),
        (PoNetConfig(**PLAIN), 0.02),
        (PoNetConfig(**PLAIN, global_pool="none"), 1e-9),
        (PoNetConfig(**PLAIN, global_pool="mean", use_local_pool=False), 0.02),
        (PoNetConfig(**PLAIN, fusion_product=False, use_segment_pool=False), 0.02),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_matrix_products_agree_with_pytorch_s_counter(config: EncoderConfig, share: float) -> None:
    # The counter sees neither Fourier transforms nor products into given memory, so the plain forms
    # run here. Of PoNet's global pool it may count other small products; an
    # LSTM's first step has no state before it that needs a gradient.
    model = PretrainingModel(dataclasses.replace(config, init_range=0.2))
    batch = make_batch((12, 9, 12))
    plain = (sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False))
    with FlopCounterMode(display=False) as counter, plain[0], plain[1]:
        output = model.forward_masked(batch, torch.zeros(3, 2).long())
        assert output.pair_logits is not None
        (output.mlm_logits.sum() + output.pair_logits.sum()).backward()
    sizes = {"num_rows": 3, "num_tokens": 12, "num_masked": 2, "num_pair_classes": 3}
    expected = training_flops(config, **sizes, num_read=1 + 2 if config.first_sees_all else None)
    expected -= 3 * 2 * config.num_layers * transform_flops(config, 12)
    assert counter.get_total_flops() == pytest.approx(expected, rel=share, abs=0)


def test_an_encoder_without_a_formula_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="no operation count for EncoderConfig"):
        training_flops(EncoderConfig(), num_rows=1, num_tokens=4)
