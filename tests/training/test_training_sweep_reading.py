"""A sweep file is W&B's: what it may hold is understood, anything else is one clear message."""

import re
from pathlib import Path

import pytest
from sweep_files import write_sweep

from training.studies.sweep_file import read_sweep


def test_a_file_is_read_with_what_wandb_takes_where_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "lr.yaml"
    path.write_text(
        "program: train.py\nmethod: random\nrun_cap: 5\nparameters:\n"
        "  lr: {min: 0.1, max: 1}\n  layers: {min: 2, max: 4}\n  x: {value: 3}\n"
        "  y: {values: [a, b]}\n  z: {values: [a, b], probabilities: [1, 3]}\n"
        "  model.width: {distribution: normal}\n"
    )
    sweep = read_sweep(path)
    found = {name: given["distribution"] for name, given in sweep.parameters.items()}
    assert found == {
        "lr": "uniform",
        "layers": "int_uniform",
        "x": "constant",
        "y": "categorical",
        "z": "categorical_w_probabilities",
        "model.width": "normal",
    }
    assert sweep.parameters["model.width"] == {"distribution": "normal", "mu": 0.0, "sigma": 1.0}
    assert (sweep.name, sweep.run_cap) == ("lr", 5)
    assert sweep.command == ("${env}", "${interpreter}", "${program}", "${args}")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"value": 1, "values": [1]}, "unknown key 'values'"),
        ({"valeus": [1]}, "unknown key 'valeus'"),
        ({"min": 1}, "lacks max"),
        ({"min": 3, "max": 2}, "is {'min': 3, 'max': 2}; give numbers"),
        ({"min": "1e-4", "max": 0.1}, "write 1.0e-4"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "int_uniform: whole ones"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "log_uniform_values: > 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q > 0"),
        ({"distribution": "normal", "sigma": -1}, "sigma >= 0"),
        ({"distribution": "lognormal"}, "allowed here are constant"),
        ({"values": []}, "give a list of one or more"),
        ({"values": [1, 1]}, "each once"),
        ({"values": [1, 2], "probabilities": [1]}, "give 2 numbers, 0 or more"),
        ({"values": [1, 2], "probabilities": [1, -1]}, "give 2 numbers, 0 or more"),
        ({"values": [1, 2], "probabilities": [0, 0]}, "give 2 numbers, 0 or more"),
        ({"distribution": "categorical", "values": [1], "probabilities": [1]}, "probabilities"),
        (5, "write `value: 5`"),
        ({"parameters": {"x": {"value": 1}}}, "nested parameters are for `wandb sweep`"),
        ({"distribution": "beta"}, "(`wandb sweep` knows more)"),
    ],
)
def test_a_wrong_parameter_is_one_clear_message(
    tmp_path: Path, parameter: object, message: str
) -> None:
    path = write_sweep(tmp_path, {"lr": parameter}, method="random")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_sweep(path)
    assert "parameters.lr" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "bayes"}, "wandb sweep"),
        ({"method": "greedy"}, "allowed here are grid and random"),
        ({"methods": "grid"}, "unknown key 'methods'"),
        ({"scheduler": {"engine": "optuna"}}, "unknown key 'scheduler'"),
        ({"metric": {"name": "x", "gaol": "minimize"}}, "unknown key 'gaol'"),
        ({"metric": {"name": "x", "goal": "most"}}, "minimize and maximize"),
        ({"run_cap": 2.5}, "run_cap is 2.5"),
        ({"command": "python x"}, "give a list"),
        ({"command": ["go", "${arg}"]}, "the macros here are ${env}"),
        ({"command": ["${args_json}"]}, "(`wandb agent` knows more)"),
        ({"command": ["at=${envvar:PLACE}"]}, "command has at=${envvar:PLACE}"),
        ({"parameters": {"a b": {"value": 1}}}, "begins with a letter"),
        ({"parameters": {}}, "parameters is missing"),
        ({"program": ""}, "program is missing"),
    ],
)
def test_a_wrong_key_is_one_clear_message(tmp_path: Path, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sweep(write_sweep(tmp_path, **{"parameters": {"x": {"value": 1}}, **keys}))


def test_a_grid_takes_listed_values_alone(tmp_path: Path) -> None:
    for parameter in ({"min": 1, "max": 3}, {"distribution": "normal"}):
        with pytest.raises(ValueError, match="a grid takes only value and values"):
            read_sweep(write_sweep(tmp_path, {"lr": parameter}))


def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("program: x\nmethod: grid\nparameters:\n  a: {value: 1}\n  a: {value: 2}\n")
    with pytest.raises(ValueError, match="'a' stands there twice"):
        read_sweep(path)


def test_what_only_the_server_does_is_said(tmp_path: Path) -> None:
    path = write_sweep(
        tmp_path,
        {"x": {"value": 1}},
        early_terminate={"type": "hyperband", "min_iter": 3},
        metric={"name": "x", "target": 0.5},
    )
    early, target = read_sweep(path).notes
    assert early.startswith("early_terminate") and target.startswith("metric.target")
