"""Texts one after the other in a row give what texts in rows of their own give."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch
from torch import Tensor

from ponet import (
    BertConfig,
    EncoderBatch,
    EncoderConfig,
    FNetConfig,
    HybridConfig,
    HyperMixerConfig,
    LocalGlobalConfig,
    LSTMConfig,
    PoNetConfig,
    PretrainingModel,
    SequenceClassifier,
    build_encoder,
)
from ponet.batch import join_texts
from ponet.encoders.backbone import at_positions
from ponet.heads import MeanClassifier
from ponet.poolers import ChannelAttentionPooler, pool
from ponet.tagger import SentenceTagger, Tagger

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 32,
         "max_positions": 12, "init_range": 0.2, "dropout_prob": 0.0}  # fmt: skip
PONET = PoNetConfig(**SIZES)
BERT = BertConfig(**SIZES, attention_dropout_prob=0.0)
CONFIGS = [
    PONET,
    *(dataclasses.replace(PONET, **changes) for changes in (
        {"kernels": "reference"},
        {"local_window": 5},
        {"guard_special_tokens": False, "local_window": 1},
        {"global_pool": "none"},
        {"global_pool": "mean", "use_local_pool": False},
        {"fusion_product": False, "use_segment_pool": False},
        {"norm_position": "pre", "final_norm": True},
    )),
    BERT,
]  # fmt: skip
WITH_WINDOWS = [
    LocalGlobalConfig(**SIZES, attention_dropout_prob=0.0, window=4, global_every=1),
    HybridConfig(**SIZES, attention_dropout_prob=0.0, attention="global", attention_every=1),
    HybridConfig(**SIZES, attention_dropout_prob=0.0, window=4, attention_every=1),
]
LENGTHS = (12, 9, 4)
POSITIONS = torch.tensor([[1, 4, 10], [7, 2, 0], [2, 0, 0]])
LABELS = torch.tensor([[7, 8, 9], [5, 6, -100], [11, -100, -100]])


def joined(batch: EncoderBatch, *, num_tokens: int = 0) -> tuple[EncoderBatch, Tensor, Tensor]:
    """The batch in one row, with the masked positions in it and their labels."""
    used = LABELS != -100
    starts = torch.tensor([0, *LENGTHS[:-1]]).cumsum(0)[:, None]
    places, labels = (POSITIONS + starts)[used][None], LABELS[used][None]
    unused = torch.tensor([[0, 0]])
    row = join_texts(batch, num_tokens=num_tokens)
    return row, torch.cat([places, unused], 1), torch.cat([labels, unused - 100], 1)


def results(model: PretrainingModel, *inputs, sparse: bool = True) -> list[Tensor]:
    model.encoder.sparse_last_block = sparse
    model.zero_grad()
    output = model.masked_loss(*inputs)
    assert output.pair_logits is not None
    (output.mlm.loss - output.pair_logits.log_softmax(-1)[:, 1].sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [output.mlm.loss, output.pair_logits, *gradients]


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "whole"])
@pytest.mark.parametrize("num_tokens", [0, 32])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_losses_and_gradients_are_those_of_padded_rows(
    config: EncoderConfig, num_tokens: int, sparse: bool
) -> None:
    torch.manual_seed(0)
    model, batch = PretrainingModel(config), make_batch(LENGTHS)
    padded = results(model, batch, POSITIONS, LABELS, sparse=sparse)
    found = results(model, *joined(batch, num_tokens=num_tokens), sparse=sparse)
    assert len(found) == len(padded) > 10
    torch.testing.assert_close(found[:2], padded[:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS[:2] + [BERT], ids=lambda config: config.kind)
def test_no_text_has_a_gradient_to_another(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model, batch = PretrainingModel(config), join_texts(make_batch(LENGTHS), num_tokens=27)
    inputs: list[Tensor] = []
    model.encoder.embeddings.register_forward_hook(
        lambda _, __, x: inputs.append(x.detach().requires_grad_()) or inputs[-1]
    )
    output = model(batch)
    bounds = [0, 12, 21, 25]
    for text, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        logits = output.mlm_logits[0, start:stop]
        (gradient,) = torch.autograd.grad(
            logits.square().sum() + output.pair_logits[text].square().sum(),
            inputs[0], retain_graph=True,
        )  # fmt: skip
        reached = gradient[0].abs().sum(1) > 0
        own = torch.zeros(27, dtype=torch.bool)
        own[start:stop] = True
        assert torch.equal(reached, own)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_classifier_says_the_same(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model, batch = SequenceClassifier(config, num_labels=3).eval(), make_batch(LENGTHS)
    torch.testing.assert_close(model(join_texts(batch)), model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Tagger, SentenceTagger])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_tagger_says_the_same_of_tokens_and_texts(
    config: EncoderConfig, kind: type[Tagger]
) -> None:
    torch.manual_seed(0)
    model, batch = kind(config, num_tags=4, num_labels=3).eval(), make_batch(LENGTHS)
    row = join_texts(batch, num_tokens=30)
    expected, found = model(batch), model(row)
    assert found.label_logits.shape == (3, 3)
    torch.testing.assert_close(found.label_logits, expected.label_logits, rtol=1e-5, atol=1e-5)
    tags = found.tag_logits[row.mask], expected.tag_logits[batch.mask]
    torch.testing.assert_close(*tags, rtol=1e-5, atol=1e-5)


def test_pools_over_whole_rows_refuse_joined_texts() -> None:
    row = join_texts(make_batch(LENGTHS))
    mean = MeanClassifier(PONET, num_labels=2, hidden_size=8)
    for pooled in (mean, lambda batch: pool(ChannelAttentionPooler(PONET), torch.ones(1, 25, 16),
                                            batch)):  # fmt: skip
        with pytest.raises(ValueError, match=r"several texts \(3, of join_texts\) were given to a"):
            pooled(row)


@pytest.mark.parametrize("places", [[], [13], [3, 22, 0]], ids=str)
@pytest.mark.parametrize("config", [PONET, BERT, *WITH_WINDOWS], ids=lambda config: config.kind)
def test_texts_of_which_no_token_is_read_do_not_matter(
    config: EncoderConfig, places: list[int]
) -> None:
    torch.manual_seed(0)
    encoder, row = build_encoder(config), join_texts(make_batch(LENGTHS), num_tokens=30)
    read_BR = torch.tensor([places], dtype=torch.int64)
    found, whole = encoder(row, read_BR), at_positions(encoder(row), read_BR)
    assert found.shape == (1, len(places), 16)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    weights = list(encoder.parameters())
    gradients = (torch.autograd.grad(x.sum(), weights, allow_unused=True, materialize_grads=True)
                 for x in (found.square(), whole.square()))  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_attention_over_padded_texts_is_that_of_text_by_text(monkeypatch) -> None:
    torch.manual_seed(0)
    model, inputs = PretrainingModel(BERT), joined(make_batch(LENGTHS), num_tokens=30)
    by_text = results(model, *inputs)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU
    torch.testing.assert_close(results(model, *inputs), by_text, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS[:1] + [BERT], ids=lambda config: config.kind)
def test_autocast_differs_by_the_low_precision_alone(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model, batch = PretrainingModel(config), make_batch(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        padded = results(model, batch, POSITIONS, LABELS)
        found = results(model, *joined(batch))
    for one, other in zip(found, padded, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-4


@pytest.mark.parametrize(
    "config",
    [FNetConfig(**SIZES), HyperMixerConfig(**SIZES), LSTMConfig(**SIZES),
     dataclasses.replace(PONET, guard_special_tokens=False),
     dataclasses.replace(PONET, local_window=7)],
    ids=lambda config: config.kind,
)  # fmt: skip
def test_encoders_in_which_texts_would_meet_refuse_joined_texts(config: EncoderConfig) -> None:
    model = PretrainingModel(config)
    assert not model.encoder.keeps_texts_apart
    with pytest.raises(ValueError, match=f"given to {config.kind}, in which they would see"):
        model(join_texts(make_batch(LENGTHS)))


def test_a_joined_batch_holds_every_token_once_and_segments_stay_apart() -> None:
    batch = make_batch(LENGTHS)
    row = join_texts(batch, num_tokens=30)
    assert row.input_ids.shape == (1, 30) and row.mask.sum() == 25
    for name in ("input_ids", "token_type_ids", "special_mask"):
        assert torch.equal(getattr(row, name)[row.mask], getattr(batch, name)[batch.mask])
    texts = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).nonzero()
    pairs = {(int(t), int(batch.segment_ids[t, p])) for t, p in texts}
    assert row.segment_ids[row.mask].unique().tolist() == list(range(len(pairs)))
    assert torch.equal(row.text_slots[:25], texts[:, 0] * 12 + texts[:, 1])
    moved = row.to("cpu")
    assert moved.text_places is row.text_places
    with pytest.raises(ValueError, match="a row of 24 tokens was asked for 25 real ones"):
        join_texts(batch, num_tokens=24)
    with pytest.raises(ValueError, match="joined rows"):
        join_texts(row)


def test_a_text_beyond_the_positions_is_refused_however_long_the_row_may_be() -> None:
    model = PretrainingModel(dataclasses.replace(PONET, max_positions=11))
    with pytest.raises(ValueError, match="a batch of 12 tokens"):
        model(join_texts(make_batch(LENGTHS)))
