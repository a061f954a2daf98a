"""Gradient checkpointing changes what is kept for the backward pass, and nothing else."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch
from torch.nn import functional as F

from ponet import BertConfig, FNetConfig, PoNetConfig, SequenceClassifier

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 4, "num_layers": 3, "ffn_size": 32,
         "max_positions": 24, "init_range": 0.2}  # fmt: skip
CONFIGS = [PoNetConfig(**SIZES), BertConfig(**SIZES), FNetConfig(**SIZES)]


def classifier_of(config, *, checkpointing) -> SequenceClassifier:
    torch.manual_seed(0)
    model = SequenceClassifier(config, num_labels=3)
    model.encoder.gradient_checkpointing = checkpointing
    return model


def loss_and_gradients(config, *, checkpointing, autocast=False):
    model, targets_B = classifier_of(config, checkpointing=checkpointing), torch.tensor([0, 2, 1])
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits_BC = model(make_batch())
    loss = F.cross_entropy(logits_BC.float(), targets_B)
    loss.backward()
    following = torch.rand(1)
    return loss.detach(), {n: p.grad for n, p in model.named_parameters()}, following


def count_block_runs(model, run) -> int:
    calls = []
    hooks = [layer.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in
             model.encoder.layers]  # fmt: skip
    run()
    for hook in hooks:
        hook.remove()
    return len(calls)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout_prob", [0.0, 0.3])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_recomputed_blocks_give_the_same_loss_and_gradients(config, dropout_prob, autocast):
    changes = {"dropout_prob": dropout_prob}
    if config.kind == "bert":
        changes["attention_dropout_prob"] = dropout_prob
    config = dataclasses.replace(config, **changes)
    kept = loss_and_gradients(config, checkpointing=False, autocast=autocast)
    recomputed = loss_and_gradients(config, checkpointing=True, autocast=autocast)
    torch.testing.assert_close(recomputed, kept, atol=0, rtol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
def test_blocks_run_twice_in_training_steps_and_once_elsewhere(config):
    model, batch = classifier_of(config, checkpointing=True), make_batch()
    num_layers = SIZES["num_layers"]
    assert count_block_runs(model, lambda: model(batch).sum().backward()) == 2 * num_layers
    with torch.no_grad():
        assert count_block_runs(model, lambda: model(batch)) == num_layers
    model.eval()
    assert count_block_runs(model, lambda: model(batch).sum().backward()) == num_layers


@pytest.mark.parametrize(("every", "again"), [(1, 3), (2, 2), (3, 1), (9, 1)])
def test_one_of_every_k_blocks_runs_again_with_the_same_gradients(every, again):
    kept = loss_and_gradients(CONFIGS[0], checkpointing=False)
    model = classifier_of(CONFIGS[0], checkpointing=True)
    model.encoder.checkpoint_every = every
    torch.manual_seed(1)
    step = lambda: F.cross_entropy(model(make_batch()), torch.tensor([0, 2, 1])).backward()  # noqa: E731
    assert count_block_runs(model, step) == SIZES["num_layers"] + again
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, kept[1], atol=0, rtol=0)


def test_checkpointing_keeps_fewer_numbers_for_the_backward_pass():
    def kept_numbers(checkpointing):
        sizes = []
        model = classifier_of(PoNetConfig(**SIZES), checkpointing=checkpointing)
        pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(make_batch())
        return sum(sizes)

    assert kept_numbers(True) < kept_numbers(False) / 2


def test_checkpointing_is_no_part_of_the_configuration_or_the_weights():
    plain, model = (classifier_of(PoNetConfig(**SIZES), checkpointing=c) for c in (False, True))
    assert model.encoder.config == plain.encoder.config
    assert model.state_dict().keys() == plain.state_dict().keys()
