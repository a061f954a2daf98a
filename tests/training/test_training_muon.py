"""Muon beside AdamW: equal to PyTorch's own two optimisers, and restored to the bit."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from training.muon import orthogonal
from training.optim import PretrainOptimizer, apply_settings, build_optimizer, scheduled_optimizer

CONFIG = PretrainOptimizer(lr=0.01, weight_decay=0.1, matrices="muon", warmup_steps=2)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.Linear(8, 8))
    return nn.Sequential(nn.Embedding(9, 8), hidden, nn.LayerNorm(8), nn.Linear(8, 3))


def give_gradients(model: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def test_muon_steps_hidden_matrices_and_nothing_else() -> None:
    model = small_model()
    decayed, kept, hidden = build_optimizer(model, CONFIG, layers=model[1]).param_groups
    assert [tuple(p.shape) for p in hidden["params"]] == [(16, 8), (8, 16), (8, 8)]
    assert [tuple(p.shape) for p in decayed["params"]] == [(9, 8), (3, 8)]  # embedding, head
    assert all(p.ndim == 1 for p in kept["params"])
    assert sum(len(g["params"]) for g in (decayed, kept, hidden)) == len([*model.parameters()])


def test_a_frozen_matrix_is_left_out() -> None:
    model = small_model()
    model[1][0].weight.requires_grad_(False)
    groups = build_optimizer(model, CONFIG, layers=model[1]).param_groups
    assert len(groups[2]["params"]) == 2


def test_layers_without_a_matrix_are_refused() -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"matrices is muon, but .*give .*adamw"):
        build_optimizer(model, CONFIG, layers=model[2])


def test_steps_are_those_of_the_two_optimisers_of_pytorch() -> None:
    model, twin = small_model(), small_model()
    optimizer = build_optimizer(model, CONFIG, layers=model[1])
    matrices = [twin[1][number].weight for number in (0, 2, 3)]
    others = [p for p in twin.parameters() if all(p is not m for m in matrices)]
    rivals: list[Any] = [
        torch.optim.Muon(
            matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW([p for p in others if p.ndim > 1], lr=0.01, weight_decay=0.1),
        torch.optim.AdamW([p for p in others if p.ndim == 1], lr=0.01, weight_decay=0.0),
    ]
    for step in range(4):
        for each in (model, twin):
            give_gradients(each, step)
        optimizer.step()
        for rival in rivals:
            rival.step()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_matrices_move_in_every_third_step_by_three_times_the_rate() -> None:
    model = small_model()
    lazy = dataclasses.replace(CONFIG, muon_every_n_steps=3)
    optimizer = build_optimizer(model, lazy, layers=model[1])
    matrix, head = model[1][2].weight, model[3].weight
    mean = torch.zeros_like(matrix)
    for step in range(1, 8):
        give_gradients(model, step)
        gradient = matrix.grad
        assert gradient is not None
        mean = mean.lerp(gradient, 0.05)
        before, head_before = matrix.detach().clone(), head.detach().clone()
        optimizer.step()
        assert not torch.equal(head, head_before)
        if step % 3:
            assert torch.equal(matrix, before)
        else:
            update = orthogonal(gradient.lerp(mean, 0.95)[None])[0].float()
            expected = before * (1 - 0.03 * 0.1) - 0.03 * 0.2 * 16**0.5 * update
            torch.testing.assert_close(matrix.detach(), expected, rtol=1e-5, atol=1e-6)


def test_steps_between_are_refused_without_muon_and_below_one() -> None:
    with pytest.raises(ValueError, match=r"muon_every_n_steps=2 given, but matrices is adamw"):
        PretrainOptimizer(muon_every_n_steps=2)
    with pytest.raises(ValueError, match=r"muon_every_n_steps must be >= 1, got 0"):
        dataclasses.replace(CONFIG, muon_every_n_steps=0)


@pytest.mark.parametrize("every", [1, 2])
def test_a_restored_optimiser_goes_on_to_the_bit(every: int) -> None:
    model, config = small_model(), dataclasses.replace(CONFIG, muon_every_n_steps=every)
    made: Any = scheduled_optimizer(model, config, total_steps=9, fusable=True, layers=model[1])
    for step in range(3):
        give_gradients(model, step)
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    other = copy.deepcopy(model)
    again: Any = scheduled_optimizer(other, config, total_steps=9, fusable=True, layers=other[1])
    again["optimizer"].load_state_dict(copy.deepcopy(made["optimizer"].state_dict()))
    scheduler = again["lr_scheduler"]["scheduler"]
    scheduler.load_state_dict(made["lr_scheduler"]["scheduler"].state_dict())
    apply_settings(again["optimizer"], scheduler, config)
    for each, optimizer in ((model, made["optimizer"]), (other, again["optimizer"])):
        for step in (3, 4):
            give_gradients(each, step)
            optimizer.step()
    for own, restored in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, restored)


def test_a_closure_runs_once_before_the_step_and_zeroes_every_gradient() -> None:
    model = small_model()
    optimizer = build_optimizer(model, CONFIG, layers=model[1])
    give_gradients(model, 0)
    calls = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        loss = model(torch.arange(9)).square().sum()
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    assert float(optimizer.step(closure).detach()) == calls[0]
    assert len(calls) == 1
