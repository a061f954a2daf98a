"""The last block computed where it is read gives what the whole block gives there."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch
from torch import Tensor

from ponet import (
    BertConfig,
    EncoderConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    PoNetConfig,
    PretrainingModel,
    SequenceClassifier,
)

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 2, "ffn_size": 32,
         "max_positions": 24, "init_range": 0.2, "dropout_prob": 0.0}  # fmt: skip
PONET = PoNetConfig(**SIZES)
CONFIGS = [
    PONET,
    *(dataclasses.replace(PONET, **changes) for changes in (
        {"kernels": "reference"},
        {"guard_special_tokens": False, "local_window": 5},
        {"global_pool": "none"},
        {"global_pool": "mean", "use_segment_pool": False},
        {"fusion_product": False, "use_local_pool": False},
        {"global_pool": "none", "use_segment_pool": False},
        {"norm_position": "pre", "final_norm": True},
    )),
    BertConfig(**SIZES, attention_dropout_prob=0.0),
    FNetConfig(**SIZES),
    HyperMixerConfig(**SIZES),
    LSTMConfig(**SIZES),
]  # fmt: skip
POSITIONS = torch.tensor([[1, 4, 10, 3], [8, 2, 0, 0], [2, 1, 0, 0]])
LABELS = torch.tensor([[7, 8, 9, 30], [5, 6, -100, -100], [11, 12, -100, -100]])


def losses_and_gradients(model: PretrainingModel, *, sparse: bool) -> tuple[Tensor, ...]:
    model.encoder.sparse_last_block = sparse
    model.zero_grad()
    output = model.masked_loss(make_batch(), POSITIONS, LABELS)
    assert output.pair_logits is not None
    pairs = output.pair_logits.log_softmax(-1)[:, 1].sum()
    (output.mlm.loss - pairs).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return (output.mlm.loss, output.pair_logits, *gradients)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_losses_and_gradients_are_those_of_the_whole_block(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model = PretrainingModel(config)
    whole = losses_and_gradients(model, sparse=False)
    sparse = losses_and_gradients(model, sparse=True)
    assert len(sparse) == len(whole) > 10
    torch.testing.assert_close(sparse[:2], whole[:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sparse, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [PONET, *CONFIGS[-4:-2]], ids=lambda config: config.kind)
def test_it_is_exact_under_autocast_up_to_the_low_precision(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model = PretrainingModel(config)
    with torch.autocast("cpu", torch.bfloat16):
        whole = losses_and_gradients(model, sparse=False)
        sparse = losses_and_gradients(model, sparse=True)
    for one, other in zip(sparse, whole, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-4


@pytest.mark.parametrize("config", CONFIGS[:1] + CONFIGS[-4:-2], ids=lambda config: config.kind)
def test_the_feed_forward_of_the_last_block_sees_what_is_read_alone(config: EncoderConfig) -> None:
    model = PretrainingModel(config)
    seen: list[int] = []
    for block in model.encoder.layers:
        block.feed_forward.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].shape[1])
        )
    model.masked_loss(make_batch(), POSITIONS, LABELS)
    assert seen == [12, 5]
    seen.clear()
    model(make_batch())
    SequenceClassifier.from_pretrained(model, num_labels=2).encoder(make_batch())
    assert seen == [12, 12]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_classifier_of_the_first_token_says_the_same(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    model, found = SequenceClassifier(config, num_labels=3).eval(), []
    for sparse in (True, False):
        model.encoder.sparse_last_block = sparse
        found.append(model(make_batch()))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [PONET, CONFIGS[-4]], ids=lambda config: config.kind)
def test_recomputed_blocks_draw_the_same_dropout(config: EncoderConfig) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = PretrainingModel(dataclasses.replace(config, dropout_prob=0.3))
        model.encoder.gradient_checkpointing = checkpointing
        torch.manual_seed(1)
        found.append(losses_and_gradients(model, sparse=True))
    torch.testing.assert_close(*found, rtol=0, atol=0)
