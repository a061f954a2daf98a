"""What is frozen of an encoder is left out of the backward pass; the rest learns as before."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch
from torch.nn import functional as F

from ponet import (
    BertConfig,
    FNetConfig,
    HyperMixerConfig,
    LSTMConfig,
    PoNetConfig,
    SequenceClassifier,
)

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 3, "ffn_size": 32,
         "max_positions": 24, "init_range": 0.2, "dropout_prob": 0.0}  # fmt: skip
PONET = PoNetConfig(**SIZES)
CONFIGS = [
    PONET,
    dataclasses.replace(PONET, norm_position="pre", final_norm=True),
    BertConfig(**SIZES, attention_dropout_prob=0.0),
    FNetConfig(**SIZES),
    HyperMixerConfig(**SIZES),
    LSTMConfig(**SIZES),
]
DEPTHS = [0, 1, 3, None]


def classifier_of(config, *depth) -> SequenceClassifier:
    """A new model in training mode; all of it is trained, or what lies above a depth."""
    torch.manual_seed(0)
    model = SequenceClassifier(config, num_labels=3, dropout_prob=0.0)
    if depth:
        model.encoder.freeze(*depth)
    return model


def frozen_names(model, depth) -> set[str]:
    starts = ["encoder.embeddings."]
    starts += [f"encoder.layers.{n}." for n in range(3 if depth is None else depth)]
    starts += ["encoder.final_norm."] if depth is None else []
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(starts))}


def gradients(model, *, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits_BC = model(make_batch())
    F.cross_entropy(logits_BC.float(), torch.tensor([0, 2, 1])).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def numbers_kept(model) -> int:
    """How many numbers a forward pass keeps for the backward pass."""
    sizes = []
    pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(make_batch())
    return sum(sizes)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{c.norm_position}")
def test_what_is_not_frozen_gets_the_gradients_it_had(config, depth, autocast):
    whole, model = classifier_of(config), classifier_of(config, depth)
    expected, found = (gradients(m, autocast=autocast) for m in (whole, model))
    frozen = frozen_names(model, depth)
    assert frozen and found.keys() == expected.keys() - frozen
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen
    known = {name: expected[name] for name in found}
    torch.testing.assert_close(found, known, atol=3e-2 if autocast else 1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-{c.norm_position}")
def test_frozen_parts_keep_nothing_for_the_backward_pass(config, checkpointing):
    kept = []
    for depth in DEPTHS:
        model = classifier_of(config, depth)
        model.encoder.gradient_checkpointing = checkpointing
        kept.append(numbers_kept(model))
        is_trained = frozen_names(model, None) != frozen_names(model, depth)
        assert model.encoder(make_batch()).requires_grad == is_trained
    assert kept[0] > kept[1] > kept[2] >= kept[3]


def test_frozen_blocks_are_not_computed_again():
    model, calls = classifier_of(PONET, 2), []
    model.encoder.gradient_checkpointing = True
    for number, layer in enumerate(model.encoder.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    gradients(model)
    assert calls == [0, 1, 2, 2]


@pytest.mark.parametrize(("depth", "modes"), [(1, [False, True, True]), (None, [False] * 3)])
def test_frozen_parts_have_no_dropout_in_training(depth, modes):
    model = classifier_of(dataclasses.replace(PONET, dropout_prob=0.5), depth)
    assert [layer.training for layer in model.encoder.layers] == modes
    model.eval().train()
    assert [layer.training for layer in model.encoder.layers] == modes
    assert model.encoder.training and model.pooler.training
    states = []
    last_frozen = model.encoder.layers[0 if depth == 1 else 2]
    last_frozen.register_forward_hook(lambda *args: states.append(args[-1]))
    for mode in (True, True, False):
        model.train(mode)(make_batch())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_longer_positions_of_frozen_embeddings_are_frozen_too():
    model = classifier_of(PONET, 0)
    model.encoder.extend_positions(30)
    assert not model.encoder.embeddings.position.weight.requires_grad
    model = classifier_of(PONET)
    model.encoder.extend_positions(30)
    assert model.encoder.embeddings.position.weight.requires_grad


@pytest.mark.parametrize("depth", [-1, 4])
def test_more_blocks_than_there_are_cannot_be_frozen(depth):
    with pytest.raises(ValueError, match=f"num_blocks is {depth}, but the encoder has 3 layers"):
        classifier_of(PONET, depth)
