"""Whole models: invariances, sizes, heads, low precision."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch

from ponet import (
    BertConfig,
    EncoderBatch,
    EncoderConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    PoNetConfig,
    PretrainingModel,
    SequenceClassifier,
    TokenClassifier,
    build_encoder,
)

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 32,
         "max_positions": 24, "init_range": 0.2}  # fmt: skip
NEW = [HyperMixerConfig(**SIZES), LSTMConfig(**SIZES)]
CONFIGS = [PoNetConfig(**SIZES), BertConfig(**SIZES), FNetConfig(**SIZES), *NEW]
MASKING = [
    PoNetConfig(**SIZES),
    PoNetConfig(**SIZES, guard_special_tokens=False),
    PoNetConfig(**SIZES, global_pool="mean", fusion_product=False),
    BertConfig(**SIZES),
    *NEW,
    HyperMixerConfig(**SIZES, tie_weights=True),
    LSTMConfig(**SIZES, bidirectional=False),
]


def make_model(config, **options) -> PretrainingModel:
    torch.manual_seed(0)
    return PretrainingModel(config, **options).eval()


def select(batch, index) -> EncoderBatch:
    return EncoderBatch(**{name: tensor[index] for name, tensor in batch.tensors().items()})


def widen(batch, num_tokens, seed=1) -> EncoderBatch:
    """Append padding filled with arbitrary ids in every field but the mask."""
    generator = torch.Generator().manual_seed(seed)
    rows, old = batch.mask.shape
    new = {}
    for name, value in batch.tensors().items():
        more = torch.randint(0, 2, (rows, num_tokens - old), generator=generator)
        more = torch.zeros_like(more) if name == "mask" else more
        new[name] = torch.cat([value, more.to(value.dtype)], 1)
    return EncoderBatch(**new)


def real(output, batch):
    return [output.last_hidden_state[batch.mask], output.pair_logits]


@pytest.mark.parametrize("config", MASKING, ids=lambda c: c.kind)
@torch.no_grad()
def test_padding_never_changes_other_tokens(config):
    model, batch = make_model(config), make_batch()
    expected = real(model(batch), batch)
    for num_tokens in (13, 24):
        wide = widen(batch, num_tokens)
        for ours, theirs in zip(real(model(wide), wide), expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@torch.no_grad()
def test_a_config_says_whether_padding_changes_outputs(config):
    model, batch = make_model(config), make_batch((5, 9, 12))
    wide = widen(batch, 24)
    changed = [
        not torch.allclose(ours, theirs, atol=1e-4)
        for ours, theirs in zip(real(model(wide), wide), real(model(batch), batch), strict=True)
    ]
    assert changed == [config.sees_padding] * 2


@pytest.mark.parametrize("config", MASKING, ids=lambda c: c.kind)
@torch.no_grad()
def test_ids_at_padding_never_matter(config):
    model, batch = make_model(config), make_batch()
    noise = make_batch((12, 12, 12), seed=5)
    changed = EncoderBatch(mask=batch.mask, **{
        name: torch.where(batch.mask, tensor, noise.tensors()[name])
        for name, tensor in batch.tensors().items() if name != "mask"
    })  # fmt: skip
    for ours, theirs in zip(
        real(model(changed), batch), real(model(batch), batch), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@torch.no_grad()
def test_batch_mates_and_their_order_never_matter(config):
    model, batch = make_model(config), make_batch()
    together = model(batch).last_hidden_state
    order = torch.tensor([2, 0, 1])
    shuffled = model(select(batch, order)).last_hidden_state
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=0)
    for row in range(3):
        alone = model(select(batch, slice(row, row + 1))).last_hidden_state
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", MASKING, ids=lambda c: c.kind)
def test_a_row_of_padding_alone_gives_finite_numbers_and_gradients(config):
    model, batch = make_model(config), make_batch((12, 5))
    batch = dataclasses.replace(batch, mask=batch.mask & torch.tensor([[True], [False]]))
    output = model(batch)
    assert output.last_hidden_state.isfinite().all()
    (output.mlm_logits.sum() + output.pair_logits.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
@torch.no_grad()
def test_logits_at_masked_positions_equal_those_of_the_full_forward(config):
    model, batch = make_model(config), make_batch()
    positions = torch.tensor([[3, 7, 0], [1, 5, 8], [2, 0, 0]])
    full, masked = model(batch), model.forward_masked(batch, positions)
    expected = full.mlm_logits[torch.arange(3)[:, None], positions]
    torch.testing.assert_close(masked.mlm_logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked.pair_logits, full.pair_logits)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_bfloat16_autocast_stays_near_float64(config):
    model, batch = make_model(dataclasses.replace(config, init_range=0.05)), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    output.mlm_logits.float().square().mean().backward()
    low = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    assert output.last_hidden_state.dtype == torch.float32
    model = model.double()
    model.zero_grad()
    expected = model(batch)
    expected.mlm_logits.square().mean().backward()
    for name in ("last_hidden_state", "mlm_logits", "pair_logits"):
        ours, theirs = getattr(output, name).double(), getattr(expected, name)
        assert ((ours - theirs).norm() / theirs.norm()).item() < 2e-2, name
    decoder = low["encoder.embeddings.word.weight"]
    theirs = model.decoder_weight.grad
    assert ((decoder - theirs).norm() / theirs.norm()).item() < 5e-2


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config_class", "with_pooler", "with_heads"),
    [
        (PoNetConfig, 123_656_448, 124_281_405),
        (BertConfig, 109_482_240, 110_107_197),
        (FNetConfig, 81_133_824, 81_758_781),
    ],
)
def test_base_models_have_the_published_number_of_parameters(config_class, with_pooler, with_heads):
    with torch.device("meta"):
        model = PretrainingModel(config_class())
    assert count(model.encoder) + count(model.pooler) == with_pooler
    assert count(model) == with_heads


def test_the_decoder_is_the_word_embedding_itself():
    model = make_model(PoNetConfig(**SIZES))
    assert model.decoder_weight is model.encoder.embeddings.word.weight
    assert not any("decoder" in name for name in model.state_dict())


def test_without_pair_classes_there_is_no_pooler():
    model = make_model(PoNetConfig(**SIZES), num_pair_classes=0)
    assert model(make_batch()).pair_logits is None
    assert not any(name.startswith(("pool", "pair")) for name in model.state_dict())
    with pytest.raises(ValueError, match="num_pair_classes=-1"):
        PretrainingModel(PoNetConfig(**SIZES), num_pair_classes=-1)


def test_comparisons_change_the_mixer_and_nothing_else():
    names = [
        {name for name in make_model(c).state_dict() if ".mixer." not in name}
        for c in CONFIGS
        if not isinstance(c, LSTMConfig)
    ]
    assert all(other == names[0] for other in names)


def test_weights_start_as_published():
    model = make_model(PoNetConfig(**{**SIZES, "vocab_size": 4000, "init_range": 0.02}))
    assert abs(model.decoder_weight.std().item() - 0.02) < 1e-3
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


def test_classifiers_start_from_copies_of_pretrained_weights():
    model, batch = make_model(PoNetConfig(**SIZES)), make_batch()
    classifier = SequenceClassifier.from_pretrained(model, num_labels=5).eval()
    tagger = TokenClassifier.from_pretrained(model, num_labels=7).eval()
    assert classifier(batch).shape == (3, 5)
    assert tagger(batch).shape == (3, 12, 7)
    with torch.no_grad():
        hidden = model.encoder(batch)
        torch.testing.assert_close(classifier.encoder(batch), hidden)
        torch.testing.assert_close(classifier.pooler(hidden), model.pooler(hidden))
        classifier.encoder.embeddings.word.weight.zero_()
    assert model.decoder_weight.any()
    with pytest.raises(ValueError, match="num_labels=0"):
        SequenceClassifier(PoNetConfig(**SIZES), num_labels=0)


def test_dropout_is_active_in_training_only():
    model, batch = make_model(PoNetConfig(**SIZES)), make_batch()
    assert torch.equal(model(batch).mlm_logits, model(batch).mlm_logits)
    model.train()
    assert not torch.equal(model(batch).mlm_logits, model(batch).mlm_logits)


def test_a_batch_longer_than_the_position_table_is_refused():
    model, batch = make_model(PoNetConfig(**SIZES)), widen(make_batch(), 25)
    with pytest.raises(ValueError, match="25 tokens .* 24 positions"):
        model(batch)


def test_the_bare_config_builds_nothing():
    with pytest.raises(ValueError, match="EncoderConfig names no encoder"):
        build_encoder(EncoderConfig())


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if not isinstance(c, LSTMConfig)], ids=lambda c: c.kind
)  # PyTorch compiles around an LSTM, which is no whole graph
def test_compiled_models_equal_eager_ones(config):
    model, batch = make_model(config), make_batch()
    compiled = torch.compile(model, fullgraph=True)
    grads = []
    for run in (compiled, model):
        model.zero_grad()
        output = run(batch)
        (output.mlm_logits.square().sum() + output.pair_logits.sum()).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(compiled(batch).mlm_logits, model(batch).mlm_logits)
    torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_cuda_equals_the_cpu_and_never_waits_for_the_device(config):
    model, batch = make_model(config), make_batch()
    expected = model(batch).mlm_logits
    expected.square().sum().backward()
    expected_grad = model.decoder_weight.grad.clone()
    model, batch = model.cuda(), batch.to("cuda")
    model.zero_grad()
    model(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits = model(batch).mlm_logits
        logits.square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(logits.cpu(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.decoder_weight.grad.cpu(), expected_grad, atol=1e-2, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if not isinstance(c, LSTMConfig)], ids=lambda c: c.kind
)
def test_compiled_blocks_equal_plain_ones_on_cuda(config):
    model, batch = make_model(config).cuda(), make_batch().to("cuda")
    found = []
    for compiles in (False, True):
        model.zero_grad()
        if compiles:
            model.encoder.compile_blocks()
        output = model(batch)
        (output.mlm_logits.square().sum() + output.pair_logits.sum()).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        found.append([output.mlm_logits.detach(), *gradients])
    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-3)
