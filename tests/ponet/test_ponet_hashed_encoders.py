"""Encoders of hashed words: padding, independence of texts, plain references, sizes."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ponet import (
    BertConfig,
    EncoderBatch,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
    ProjectionConfig,
    SequenceClassifier,
    build_encoder,
)
from ponet.frozen import freeze
from ponet.poolers import ChannelAttentionPooler
from ponet.tagger import Tagger

WORDS = 17
SIZES = {"hidden_size": 8, "num_heads": 2, "num_layers": 2, "ffn_size": 12, "init": "torch",
         "norm_position": "pre", "use_positions": False, "type_vocab_size": 0, "max_positions": 9,
         "projection": ProjectionConfig(feature_size=20, num_hashes=4)}  # fmt: skip
EXACT = [
    PoNetConfig(**SIZES),
    BertConfig(**SIZES),
    HyperMixerConfig(**SIZES, mixing_size=6),
    HyperMixerConfig(**SIZES, tie_weights=True),
    LSTMConfig(**SIZES),
    LSTMConfig(**SIZES, bidirectional=False),
    MLPMixerConfig(**{**SIZES, "num_layers": 0}),
]
ALL = [*EXACT, FNetConfig(**SIZES), MLPMixerConfig(**SIZES)]


def make_batch(lengths=(9, 4, 1), num_words=9, *, noise=0) -> EncoderBatch:
    """The same words whatever the noise, which fills the padding; two segments, no delimiter."""
    generator = torch.Generator().manual_seed(noise)
    mask = torch.arange(num_words) < torch.tensor(lengths)[:, None]
    places = torch.arange(num_words).expand(mask.shape)
    ids = (places * 5 + torch.arange(len(lengths))[:, None]) % WORDS
    filler = torch.randint(WORDS, mask.shape, generator=generator)
    return EncoderBatch(
        input_ids=torch.where(mask, ids, filler),
        mask=mask,
        token_type_ids=torch.zeros_like(ids),
        segment_ids=torch.where(mask, (places >= 3).long(), filler % num_words),
        special_mask=torch.zeros_like(mask),
        word_features=torch.randint(20, (WORDS, 4), generator=torch.Generator().manual_seed(1)),
    )


def select(batch, index) -> EncoderBatch:
    rows = {name: tensor[index] for name, tensor in batch.tensors().items()}
    return EncoderBatch(**rows, word_features=batch.word_features)


def make_tagger(config, **options) -> Tagger:
    torch.manual_seed(0)
    return Tagger(config, num_tags=5, num_labels=3, **options).double().eval()


def real(output, batch):
    return [output.tag_logits[batch.mask], output.label_logits]


@pytest.mark.parametrize("config", EXACT, ids=lambda c: c.kind)
@torch.no_grad()
def test_neither_padding_nor_what_stands_there_changes_tags_or_label(config):
    model, batch = make_tagger(config), make_batch()
    for other in (make_batch(noise=1), make_batch(num_words=14, noise=2)):
        for ours, theirs in zip(
            real(model(other), other), real(model(batch), batch), strict=True
        ):  # fmt: skip
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
@torch.no_grad()
def test_a_text_is_answered_the_same_whatever_stands_beside_it(config):
    model, batch = make_tagger(config), make_batch()
    together = model(batch)
    for row in range(3):
        alone = select(batch, slice(row, row + 1))
        if not (config.sees_padding or config.fixed_places):
            length = int(alone.mask.sum())
            columns = {name: tensor[:, :length] for name, tensor in alone.tensors().items()}
            columns["segment_ids"] = columns["segment_ids"].clamp(max=length - 1)
            alone = EncoderBatch(**columns, word_features=batch.word_features)
        for ours, theirs in zip(model(alone), together, strict=True):
            found, expected = ours[0], theirs[row]
            if ours.dim() == 3:
                found, expected = found[alone.mask[0]], expected[batch.mask[row]]
            torch.testing.assert_close(found, expected)


def test_segments_pool_words_without_any_delimiter():
    batch = make_batch((9,))
    encoder = build_encoder(PoNetConfig(**SIZES, global_pool="none", use_local_pool=False))
    encoder.embeddings.word.register_forward_hook(lambda m, a, out: out.requires_grad_())
    whole = dataclasses.replace(batch, segment_ids=torch.zeros_like(batch.segment_ids))
    reached = []
    for one in (batch, whole):
        kept = []
        hook = encoder.embeddings.register_forward_hook(
            lambda m, a, out, kept=kept: kept.append(out)
        )
        states = encoder(one)
        hook.remove()
        gradient = torch.autograd.grad(states[0, 0].square().sum(), kept[0])[0]
        reached.append((gradient[0].abs().sum(-1) > 0).tolist())
    assert not any(reached[0][3:]) and any(reached[0][1:3])
    assert any(reached[1][3:])


@torch.no_grad()
def test_empty_places_are_pooled_in_encoders_of_fixed_places_alone():
    batch, states = make_batch(), torch.randn(3, 9, 8)
    changed = torch.where(batch.mask[..., None], states, states + 1)
    for config, takes_part in ((MLPMixerConfig(**SIZES), True), (EXACT[-1], False)):
        pooler = ChannelAttentionPooler(config)
        same = torch.allclose(pooler(states, batch.mask), pooler(changed, batch.mask))
        assert same != takes_part


@pytest.mark.parametrize("config", EXACT, ids=lambda c: c.kind)
def test_a_text_without_words_gives_finite_numbers_and_gradients(config):
    model, batch = make_tagger(config), make_batch()
    batch = dataclasses.replace(batch, mask=batch.mask & torch.tensor([[1], [0], [1]]).bool())
    output = model(batch)
    (output.tag_logits.sum() + output.label_logits.sum()).backward()
    assert output.label_logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_layers_equal_pytorch_s_on_each_text_alone(bidirectional):
    config = LSTMConfig(**SIZES, bidirectional=bidirectional)
    encoder = build_encoder(config).double().eval()
    theirs = nn.LSTM(
        8, 4 if bidirectional else 8, num_layers=2, bidirectional=bidirectional, batch_first=True
    ).double()
    state = {}
    for number, block in enumerate(encoder.layers):
        for name, tensor in block.mixer.state_dict().items():
            direction, _, weight = name.partition(".")
            suffix = "_reverse" if direction == "right_to_left" else ""
            state[weight.replace("l0", f"l{number}") + suffix] = tensor
    theirs.load_state_dict(state)
    batch = make_batch()
    holes = batch.mask & (torch.arange(9) != 2)  # the order is kept across padding in the middle
    for one in (batch, dataclasses.replace(batch, mask=holes)):
        embedded, states = encoder.embeddings(one), encoder(one)
        for row, mask in enumerate(one.mask):
            expected = theirs(embedded[row][mask][None])[0][0]
            torch.testing.assert_close(states[row][mask], expected)
            assert not states[row][~mask].any()


@pytest.mark.parametrize("tied", [False, True])
def test_hyper_mixing_equals_a_loop_over_tokens(tied):
    encoder = (
        build_encoder(HyperMixerConfig(**SIZES, mixing_size=12, tie_weights=tied)).double().eval()
    )
    mixer = encoder.layers[0].mixer
    batch, x = make_batch(), torch.randn(3, 9, 8, dtype=torch.float64)
    mixed = mixer(x, mixer.prepare(batch))
    writing = mixer.reading if tied else mixer.writing
    for row, mask in enumerate(batch.mask):
        hidden = torch.zeros(12, 8, dtype=torch.float64)
        for token in x[row][mask]:
            hidden += torch.outer(mixer.reading(token), token)
        for place in mask.nonzero().flatten():
            update = F.gelu(hidden).T @ writing(x[row, place])
            expected = F.layer_norm(update, (8,), mixer.norm.weight, mixer.norm.bias, 1e-12)
            torch.testing.assert_close(mixed[row, place], expected)


@pytest.mark.parametrize("config", [HyperMixerConfig(**SIZES, mixing_size=5), LSTMConfig(**SIZES)])
def test_gradients_of_the_mixers_equal_differences(config):
    torch.manual_seed(1)
    mixer = build_encoder(config).double().eval().layers[0].mixer
    plan = mixer.prepare(select(make_batch((4, 2), 4), slice(0, 2)))
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x_BLD: mixer(x_BLD, plan), x)


SHARED = {"hidden_size": 256, "num_heads": 4, "ffn_size": 256, "type_vocab_size": 0,
          "use_positions": False, "embedding_norm": False}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (MLPMixerConfig(), 1.156),
        (MLPMixerConfig(num_layers=0), 0.825),
        (MLPMixerConfig(num_layers=0, projection=ProjectionConfig(window=4)), 2.398),
        (BertConfig(**SHARED, num_layers=1, projection=ProjectionConfig()), 1.221),
        (LSTMConfig(**SHARED, num_layers=2, bidirectional=False, projection=ProjectionConfig()),
         1.878),
        (HyperMixerConfig(**SHARED, num_layers=1, projection=ProjectionConfig()), 1.221),
    ],
    ids=lambda value: getattr(value, "kind", value),
)  # fmt: skip
def test_table_2_has_the_published_sizes(config, millions):
    model = Tagger(config, num_tags=149)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == millions


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.kind)
def test_texts_are_classified_from_hashed_words(config):
    model, batch = SequenceClassifier(config, num_labels=4), make_batch()
    assert model(batch).shape == (3, 4)
    model(batch).sum().backward()
    assert model.encoder.embeddings.word.weight.grad.any()


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.kind)
def test_frozen_ones_give_the_same_states(config):
    torch.manual_seed(0)
    encoder, batch = build_encoder(config).eval(), make_batch()
    with torch.no_grad():
        found, expected = (model(batch)[batch.mask] for model in (freeze(encoder), encoder))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
