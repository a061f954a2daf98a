"""Which trials a sweep has: every combination once, draws that repeat, commands as W&B's."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_files import write_sweep

from training.studies.sweep_file import (
    DISTRIBUTIONS,
    Sweep,
    command_of,
    expand,
    read_sweep,
    trial_names,
)


def sweep_of(folder: Path, parameters: dict[str, Any], **keys: Any) -> Sweep:
    return read_sweep(write_sweep(folder, parameters, **keys))


def test_a_grid_is_every_combination_once_and_seeds_vary_slowest(tmp_path: Path) -> None:
    parameters = {
        "seed_everything": {"values": [1, 2]},
        "a": {"values": [1, 2, 3]},
        "b": {"values": [0.1, 0.2, 0.3]},
        "c": {"value": "x"},
    }
    trials = expand(sweep_of(tmp_path, parameters))
    assert len(trials) == 2 * 3 * 3
    assert len({tuple(trial.values()) for trial in trials}) == len(trials)
    assert [trial["seed_everything"] for trial in trials] == [1] * 9 + [2] * 9
    assert [trial["b"] for trial in trials[:3]] == [0.1, 0.2, 0.3]
    assert list(trials[0]) == list(parameters)


def test_a_count_or_a_run_cap_takes_the_first_trials(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"x": {"values": [1, 2, 3]}}, run_cap=2)
    assert expand(sweep) == [{"x": 1}, {"x": 2}]
    assert expand(sweep, count=1) == [{"x": 1}] and len(expand(sweep, count=9)) == 2


def test_random_draws_depend_on_the_seed_alone_and_a_larger_count_adds_to_them(
    tmp_path: Path,
) -> None:
    parameters = {"lr": {"min": 0.0, "max": 1.0}, "n": {"min": 1, "max": 9}}
    sweep = sweep_of(tmp_path, parameters, method="random")
    ten = expand(sweep, seed=3, count=10)
    assert expand(sweep, seed=3, count=4) == ten[:4]
    assert expand(sweep, seed=4, count=10) != ten
    more = sweep_of(tmp_path, {"new": {"values": [1, 2]}, **parameters}, method="random")
    assert [{**t, "new": 0} for t in expand(more, seed=3, count=10)] == [
        {**t, "new": 0} for t in ten
    ]
    with pytest.raises(ValueError, match="--count N"):
        expand(sweep)


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if "uniform" in name])
def test_a_draw_stays_within_its_limits_and_fills_them(tmp_path: Path, name: str) -> None:
    low, high = 1, 9
    given: dict[str, Any] = {"distribution": name, "min": low, "max": high}
    if name.startswith("q_"):
        given["q"] = 0.25
    sweep = sweep_of(tmp_path, {"x": given}, method="random")
    values = [trial["x"] for trial in expand(sweep, count=600)]
    slack = 0.125 if name.startswith("q_") else 0.0
    assert low - slack <= min(values) < low + (high - low) / 10
    assert high - (high - low) / 10 < max(values) <= high + slack
    if "log" in name:
        below = sum(value < math.sqrt(low * high) for value in values)
        assert abs(below / 600 - 0.5) < 0.1
    if name.startswith("q_"):
        assert all((value / 0.25).is_integer() for value in values)


def test_draws_without_limits_have_their_mean_and_spread(tmp_path: Path) -> None:
    parameters = {
        "n": {"distribution": "normal", "mu": 5, "sigma": 2},
        "q": {"distribution": "q_uniform", "min": 5, "max": 9, "q": 4},
        "w": {"values": ["a", "b"], "probabilities": [1, 3]},
    }
    trials = expand(sweep_of(tmp_path, parameters, method="random"), count=1000)
    mean = sum(t["n"] for t in trials) / 1000
    sd = math.sqrt(sum((t["n"] - mean) ** 2 for t in trials) / 999)
    assert abs(mean - 5) < 0.3 and abs(sd - 2) < 0.2
    assert {type(t["q"]) for t in trials} == {int} and {4, 8} == {t["q"] for t in trials}
    assert abs(sum(t["w"] == "b" for t in trials) / 1000 - 0.75) < 0.06


def test_the_arguments_are_those_of_wandbs_agent(tmp_path: Path) -> None:
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="wandb is not installed")
    parameters = {"a.b": 1.0e-05, "on": True, "off": False, "text": "x y", "m": {"k": 1}}
    expected = agent.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in parameters.items()}}
    )
    sweep = sweep_of(tmp_path, {"x": {"value": 1}}, command=["go", "${args}"])
    assert command_of(sweep, parameters) == ["go", *expected["args"]]


def test_a_command_has_its_macros_filled_in(tmp_path: Path) -> None:
    command = ["${interpreter}", "-m", "${program}", "at=here", "${args}", "--last"]
    sweep = sweep_of(tmp_path, {"x": {"value": 1}}, command=command, program="pretrain")
    words = command_of(sweep, {"x": 1})
    assert words == [sys.executable, "-m", "pretrain", "at=here", "--x=1", "--last"]


def test_what_the_sweep_varies_stands_behind_the_additions_to_a_command(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, {"x": {"value": 1}}, command=["go", "${args}", "--fixed"])
    words = command_of(sweep, {"x": 1}, ["--config", "small.yaml"])
    assert words == ["go", "--x=1", "--fixed", "--config", "small.yaml", "--x=1"]
    with pytest.raises(ValueError, match="--x=2: .* varies it"):
        command_of(sweep, {"x": 1}, ["--x=2"])


def test_names_say_what_varies_and_are_names_of_runs(tmp_path: Path) -> None:
    from pretrain.run_config import RunConfig

    parameters = {
        "model.objective": {"values": ["mlm", "mlm_sso"]},
        "config": {"values": ["configs/encoder/a.yaml", "configs/encoder/b.yaml"]},
        "data.segments": {"values": ["{rule: fixed, tokens_per_segment: 8}"]},
        "model.lr": {"values": [1.0e-5, -2.0]},
        "x": {"values": ["a..b/c", "ä"]},
        "seed_everything": {"values": [42, 43]},
        "same": {"value": 5},
    }
    sweep = sweep_of(tmp_path, parameters)
    names = trial_names(sweep, expand(sweep))
    assert names[0] == "objective-mlm--a--lr-1e-05--x-a.b_c--seed-42"
    assert len(set(names)) == len(names) == 32
    assert all(RunConfig(name=name).name == name for name in names)


def test_names_never_clash_and_never_grow_too_long(tmp_path: Path) -> None:
    parameters = {"a.x": {"values": ["a b", "a_b", "c" * 300]}, "b.x": {"values": [1, 2]}}
    sweep = sweep_of(tmp_path, parameters)
    names = trial_names(sweep, expand(sweep))
    assert len(set(names)) == 6 and max(map(len, names)) <= 96


def test_a_trial_is_called_alike_however_many_others_are_run(tmp_path: Path) -> None:
    parameters = {"x": {"values": ["a b", "a_b"]}, "seed": {"values": [1, 2]}}
    for method in ("grid", "random"):
        sweep = sweep_of(tmp_path, parameters, method=method)
        four = trial_names(sweep, expand(sweep, count=4))
        assert len(set(four)) == 4
        assert trial_names(sweep, expand(sweep, count=1)) == four[:1]
