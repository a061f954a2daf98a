"""Learning-rate schedules by hand, and which parameters decay."""

from typing import Any

import pytest
import torch
from torch import nn

from training.optim import (
    FinetuneOptimizer,
    PretrainOptimizer,
    build_optimizer,
)


def factors(schedule: str, steps: list[int], **options: object) -> list[float]:
    config = PretrainOptimizer(schedule=schedule, warmup_steps=10, **options)  # type: ignore[arg-type]
    return [config.schedule_factor(step, total_steps=110) for step in steps]


def test_warm_up_rises_linearly_from_one_step_to_the_peak() -> None:
    assert factors("linear", [0, 4, 9]) == pytest.approx([0.1, 0.5, 1.0])


def test_linear_decay_is_a_straight_line_to_the_floor() -> None:
    assert factors("linear", [10, 60, 110]) == pytest.approx([1.0, 0.5, 0.0])
    assert factors("linear", [60, 110], final_lr_ratio=0.2) == pytest.approx([0.6, 0.2])


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    assert factors("cosine", [10, 35, 60, 110]) == pytest.approx([1.0, 0.8535534, 0.5, 0.0])


def test_warmup_stable_decay_holds_the_peak_until_the_last_share() -> None:
    values = factors("warmup_stable_decay", [10, 87, 88, 99, 110], decay_share=0.2)
    assert values == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0])


def test_constant_never_decays() -> None:
    assert factors("constant", [9, 10, 5000]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ({"warmup_share": 0.5}, [0.5, 1.0, 1.0, 0.5, 0.0]),
        ({"warmup_share": 0.5, "schedule": "constant"}, [0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_schedule_of_a_fit_by_hand(options: Any, wanted: list[float]) -> None:
    config = FinetuneOptimizer(**options)
    assert [config.schedule_factor(s, total_steps=4) for s in range(5)] == wanted


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    decayed, kept = build_optimizer(model, PretrainOptimizer(weight_decay=0.1)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4), (3, 4)]
    assert [tuple(p.shape) for p in kept["params"]] == [(3,), (3,), (3,)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_a_parameter_without_gradient_is_left_out() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    groups = build_optimizer(model, PretrainOptimizer()).param_groups
    assert [len(group["params"]) for group in groups] == [0, 1]
    assert torch.is_tensor(groups[1]["params"][0])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"lr": 0.0}, {"lr": float("nan")}, {"eps": 0.0}, {"weight_decay": -1.0}),
        *({"warmup_steps": -1}, {"beta2": 1.0}, {"decay_share": 0.0}),
    ],
)
def test_impossible_settings_are_refused_with_their_value(wrong: dict[str, float]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be.*{value}"):
        PretrainOptimizer(**wrong)  # type: ignore[arg-type]


def test_a_fit_that_only_warms_up_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_share must be"):
        FinetuneOptimizer(warmup_share=1.0)
