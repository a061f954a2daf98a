"""Frozen encoders: the same function, the given encoder as it was, batches without padding."""

import copy
import random

import pytest
import torch
from ponet_bundles import make_model
from ponet_reference import make_batch
from torch import nn

from ponet import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    LocalGlobalConfig,
    LSTMConfig,
    PoNetConfig,
    SequenceClassifier,
    build_encoder,
)
from ponet.batch import join_texts
from ponet.frozen import FrozenFeedForward, FrozenLinear, freeze
from ponet.inference import encoder_batch, groups, pooled
from ponet.text_format import Window

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 32,
         "max_positions": 12, "init_range": 0.2}  # fmt: skip
CONFIGS = [
    PoNetConfig(**SIZES),
    PoNetConfig(**SIZES, activation="gelu_tanh", norm_position="pre", final_norm=True),
    PoNetConfig(**SIZES, global_pool="mean", use_segment_pool=False),
    PoNetConfig(**SIZES, kernels="reference"),
    BertConfig(**SIZES),
    LocalGlobalConfig(**SIZES),
    FNetConfig(**SIZES),
    HybridConfig(**SIZES),
    LSTMConfig(**SIZES),
]
ONE_WAY = LSTMConfig(**SIZES, bidirectional=False)
LENGTHS = (12, 9, 4)


def states(encoder, batch):
    with torch.no_grad():
        return encoder(batch)[batch.mask]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_frozen_encoder_gives_the_same_states(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, batch = build_encoder(config).eval(), make_batch(LENGTHS)
    packed = freeze(encoder, is_packed=True)
    torch.testing.assert_close(states(packed, batch), states(encoder, batch), atol=1e-5, rtol=0)
    frozen = freeze(encoder)
    torch.testing.assert_close(states(frozen, batch), states(encoder, batch), atol=1e-5, rtol=0)
    if frozen.keeps_texts_apart:
        row = join_texts(batch)
        torch.testing.assert_close(states(frozen, row), states(encoder, batch), atol=1e-5, rtol=0)


def test_the_given_encoder_stays_as_it_is_and_shares_its_weights() -> None:
    encoder = build_encoder(CONFIGS[0]).train()
    before = copy.deepcopy(encoder.state_dict())
    frozen = freeze(encoder)
    assert encoder.training and all(weight.requires_grad for weight in encoder.parameters())
    assert not any(isinstance(part, FrozenLinear) for part in encoder.modules())
    assert not frozen.training and not any(w.requires_grad for w in frozen.parameters())
    places = {weight.data_ptr() for weight in encoder.parameters()}
    assert {weight.data_ptr() for weight in frozen.parameters()} == places
    half = freeze(encoder, "bf16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    for name, weight in encoder.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, before[name])


def test_compiled_blocks_are_not_taken_over() -> None:
    encoder, batch = build_encoder(CONFIGS[0]).eval(), make_batch(LENGTHS)
    encoder.compile_blocks()  # nothing is compiled before the first call
    found = states(freeze(encoder), batch)
    plain = build_encoder(CONFIGS[0]).eval()
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(found, states(plain, batch), atol=1e-5, rtol=0)
    assert freeze(encoder).layers[0]._compiled_call_impl is None


def test_a_cpu_computes_linear_layers_and_their_gelu_in_one_pass() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    frozen = freeze(build_encoder(CONFIGS[0]))
    assert all(isinstance(block.feed_forward, FrozenFeedForward) for block in frozen.layers)
    left = [name for name, part in frozen.named_modules() if type(part) is nn.Linear]
    assert left and all(name.endswith((".query", ".key")) for name in left)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]], ids=lambda config: config.kind)
def test_bf16_keeps_about_two_digits(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, batch = build_encoder(config).eval(), make_batch(LENGTHS)
    exact, found = states(encoder, batch), states(freeze(encoder, "bf16"), batch).float()
    assert 0 < (found - exact).abs().max() < 0.1
    assert torch.cosine_similarity(found, exact).min() > 0.999


@pytest.mark.parametrize("kernels", ["eager", "reference"])
@pytest.mark.parametrize("global_pool", ["attention", "mean"])
def test_the_global_pool_alone_can_be_bf16(global_pool: str, kernels: str) -> None:
    config = PoNetConfig(**SIZES, global_pool=global_pool, kernels=kernels, fusion_product=False,
                         use_segment_pool=False, use_local_pool=False)  # fmt: skip
    torch.manual_seed(0)
    encoder, batch = build_encoder(config).eval(), make_batch(LENGTHS)
    exact = states(encoder, batch)
    for half in (freeze(encoder, "bf16"), copy.deepcopy(encoder).bfloat16()):
        found = states(half, batch)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("config", [CONFIGS[8], ONE_WAY], ids=["both_ways", "one_way"])
def test_classifiers_pool_in_bf16(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model, batch = SequenceClassifier(config, num_labels=3).eval(), make_batch(LENGTHS)
    found = freeze(model, "bf16")(batch)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), model(batch), atol=0.02, rtol=0)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="precision='16' given; allowed are 32, bf16"):
        freeze(build_encoder(CONFIGS[0]), "16")


def rows_of(lengths):
    return [Window(n, [2, *[7] * (size - 2), 3], [0] * size) for n, size in enumerate(lengths)]


def test_a_batch_has_a_budget_of_tokens_whatever_the_lengths() -> None:
    numbers = random.Random(0)
    lengths = [min(900, 2 + int(numbers.expovariate(0.02))) for _ in range(3000)] + [5000]
    found = list(groups(rows_of(lengths), 1000, is_exact=False))
    assert sorted(row.text for group in found for row in group) == list(range(len(lengths)))
    for group in found:
        sizes = [len(row.ids) for row in group]
        assert len(group) == 1 or sum(sizes) <= 1000
        assert len(group) == 1 or max(sizes) * len(group) <= 2000
    assert len(found) <= 1.2 * sum(lengths) / 1000
    exact = groups(rows_of(lengths), 1000, is_exact=True)
    assert all(len({len(row.ids) for row in group}) == 1 for group in exact)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]], ids=lambda config: config.kind)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_no_padding_is_computed_and_texts_keep_their_places(config, pooling) -> None:
    torch.manual_seed(0)
    frozen = freeze(build_encoder(config))
    rows = rows_of((12, 9, 4, 2))
    batch = encoder_batch(frozen, rows)
    assert batch.input_ids.shape == (1, 27) and not batch.has_padding
    with torch.no_grad():
        sums, weights = pooled(frozen, batch, pooling)
        alone = [pooled(frozen, encoder_batch(frozen, [row]), pooling) for row in rows]
    torch.testing.assert_close(sums, torch.cat([one for one, _ in alone]), atol=1e-5, rtol=1e-5)
    assert torch.equal(weights, torch.cat([weight for _, weight in alone]))


def test_one_model_serves_training_between_two_calls(tmp_path) -> None:
    from ponet_bundles import TEXTS, write_tokenizer

    from ponet import load_bundle, save_bundle

    tokenizer = write_tokenizer(tmp_path)
    bundle = load_bundle(save_bundle(tmp_path / "b", make_model(), tokenizer_json=tokenizer))
    before = bundle.encode(TEXTS)
    with torch.no_grad():
        bundle.model.encoder.layers[0].feed_forward.expand.weight.mul_(2.0)
    assert not torch.allclose(bundle.encode(TEXTS), before, atol=1e-3)
    vectors = bundle.encode(TEXTS, precision="bf16")
    assert vectors.dtype == torch.float32 and not vectors.requires_grad
