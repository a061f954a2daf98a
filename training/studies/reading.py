"""A sweep file in W&B's own format: every key is checked, and none is ignored without a word.

The keys and their meaning are those of docs.wandb.ai/models/sweeps/sweep-config-keys, so that
`wandb sweep` takes the same file as it is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.yaml_files import read_yaml

KEYS = (
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "name",
    "description",
    "project",
    "entity",
    "run_cap",
    "early_terminate",
)
_SERVER_KEYS = ("apiVersion", "controller", "image_uri", "job", "kind", "metrics", "scheduler")
_METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
_STOPPING_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
_PARAMETER_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
_RANGE, _NORMAL, _BETA = ("min", "max"), {"mu": 0.0, "sigma": 1.0}, {"a": 1.0, "b": 1.0}
_STEP = {"q": 1.0}
# Distribution -> keys that must stand there, keys that may with their defaults.
DISTRIBUTIONS: Mapping[str, tuple[tuple[str, ...], Mapping[str, float]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (_RANGE, {}),
    "uniform": (_RANGE, {}),
    "q_uniform": (_RANGE, _STEP),
    "log_uniform": (_RANGE, {}),
    "log_uniform_values": (_RANGE, {}),
    "q_log_uniform": (_RANGE, _STEP),
    "q_log_uniform_values": (_RANGE, _STEP),
    "inv_log_uniform": (_RANGE, {}),
    "inv_log_uniform_values": (_RANGE, {}),
    "normal": ((), _NORMAL),
    "q_normal": ((), {**_NORMAL, **_STEP}),
    "log_normal": ((), _NORMAL),
    "q_log_normal": ((), {**_NORMAL, **_STEP}),
    "beta": ((), _BETA),
    "q_beta": ((), {**_BETA, **_STEP}),
}
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a sweep, and where its values come from."""

    path: tuple[str, ...]
    """Its name; more than one part where the file nests `parameters:`."""
    distribution: str
    """A key of DISTRIBUTIONS."""
    settings: Mapping[str, Any]
    """The keys of that distribution, with W&B's defaults."""

    @property
    def name(self) -> str:
        """The parts with dots between them."""
        return ".".join(self.path)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file."""

    path: Path
    """Where it was read from."""
    content: Mapping[str, Any]
    """All of it."""
    name: str
    """Its `name`, or what the file is called."""
    method: Literal["grid", "random"]
    """Every combination, or some that are drawn."""
    program: str
    """What stands for ${program}."""
    command: tuple[str, ...]
    """The command of a trial, with W&B's macros."""
    parameters: tuple[Parameter, ...]
    """In the order of the file."""
    metric: str
    """The metric that counts; empty: none is named."""
    goal: Literal["minimize", "maximize"]
    """Which values of it are better."""
    run_cap: int
    """At most so many trials; 0: no limit."""
    notes: tuple[str, ...]
    """What W&B's server would do and this program does not."""


def read_sweep(path: str | Path) -> Sweep:
    """The checked content of a sweep file.

    Raises:
        ValueError: It is missing, is no sweep, has an unknown key or a wrong value, or asks for a
            search that only W&B's server can do.
    """
    path = Path(path)
    content = _read_yaml(path)
    _check_keys(content, path)
    method = _method(content, path)
    metric = _mapping(content.get("metric", {}), _METRIC_KEYS, f"{path}: metric")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"{path}: metric.goal is {goal!r}; allowed are minimize and maximize")
    parameters = tuple(_parameters(content["parameters"], (), path))
    if method == "grid":
        _check_grid(parameters, path)
    return Sweep(
        path=path,
        content=content,
        name=str(content.get("name") or path.stem),
        method=method,
        program=str(content["program"]),
        command=_command(content.get("command"), path),
        parameters=parameters,
        metric=str(metric.get("name", "")),
        goal=goal,
        run_cap=_run_cap(content.get("run_cap", 0), path),
        notes=tuple(_notes(content, metric, path)),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"{path}: no such sweep file; configs/sweeps/ has examples")
    content = read_yaml(path, yaml_1_1=True)
    if not isinstance(content, dict) or "method" not in content:
        raise ValueError(f"{path}: is no sweep, it has no `method:`; configs/sweeps/ has examples")
    return content


def _check_keys(content: Mapping[str, Any], path: Path) -> None:
    for key in content:
        if key in _SERVER_KEYS:
            raise ValueError(
                f"{path}: {key} is for W&B's own launchers and optimizers; take it out, or run the "
                "file with `wandb sweep` and `wandb agent`"
            )
        if key not in KEYS:
            raise ValueError(f"{path}: unknown key {key!r}; W&B's keys are {', '.join(KEYS)}")
    for key in ("program", "parameters"):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing, and W&B needs it")


def _method(content: Mapping[str, Any], path: Path) -> Literal["grid", "random"]:
    method = content["method"]
    if method in ("grid", "random"):
        return "grid" if method == "grid" else "random"
    if method in ("bayes", "custom"):
        raise ValueError(
            f"{path}: method {method} chooses a trial from the results of earlier ones, which "
            "W&B's server does: run `wandb sweep` and `wandb agent` on this file, or give method "
            "grid or random"
        )
    raise ValueError(f"{path}: method is {method!r}; allowed are grid and random")


def _mapping(value: Any, allowed: tuple[str, ...], place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {value!r}; give a mapping with {', '.join(allowed)}")
    for key in value:
        if key not in allowed:
            raise ValueError(f"{place} has the unknown key {key!r}; allowed: {', '.join(allowed)}")
    return value


def _run_cap(value: Any, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{path}: run_cap is {value!r}; give a whole number above 0")
    return value


def _command(value: Any, path: Path) -> tuple[str, ...]:
    if value is None:
        return DEFAULT_COMMAND
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path}: command is {value!r}; give a list, for instance of ${{args}}")
    return tuple(str(chunk) for chunk in value)


def _notes(content: Mapping[str, Any], metric: Mapping[str, Any], path: Path) -> Iterator[str]:
    if "early_terminate" in content:
        _mapping(content["early_terminate"], _STOPPING_KEYS, f"{path}: early_terminate")
        yield "early_terminate is done by W&B's server only: every trial runs to its end here"
    if "target" in metric:
        yield "metric.target is watched by W&B's server only: all trials are run here"


def _parameters(value: Any, prefix: tuple[str, ...], path: Path) -> Iterator[Parameter]:
    place = f"{path}: {'.'.join(('parameters', *prefix))}"
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{place} is {value!r}; give a mapping of names to values")
    for name, given in value.items():
        if not isinstance(name, str) or not re.fullmatch(_PARAMETER_NAME, name):
            raise ValueError(
                f"{place} has {name!r}; a name is made of letters, digits, '_', '.' and '-' and "
                "begins with a letter or '_'"
            )
        if isinstance(given, Mapping) and "parameters" in given:
            _mapping(given, ("parameters",), f"{place}.{name}")
            yield from _parameters(given["parameters"], (*prefix, name), path)
        else:
            yield _parameter((*prefix, name), given, f"{place}.{name}")


def _parameter(parts: tuple[str, ...], given: Any, place: str) -> Parameter:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{place} is {given!r}; write `value: {given}`, or `values:` with a list, or min and "
            "max"
        )
    distribution = given.get("distribution", _implied_distribution(given))
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"{place}: distribution is {distribution!r}; allowed are {', '.join(DISTRIBUTIONS)}"
        )
    required, optional = DISTRIBUTIONS[distribution]
    allowed = (*required, *optional)
    settings = {key: value for key, value in given.items() if key != "distribution"}
    _mapping(settings, allowed, f"{place} ({distribution})")
    for key in required:
        if key not in settings:
            raise ValueError(f"{place} ({distribution}) lacks {key}; it needs {', '.join(allowed)}")
    settings = {**optional, **settings}
    _check_settings(distribution, settings, place)
    return Parameter(path=parts, distribution=distribution, settings=settings)


def _implied_distribution(given: Mapping[str, Any]) -> str:
    """What W&B takes where `distribution` is not given."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    limits = [given.get(name) for name in _RANGE]
    are_whole = all(isinstance(limit, int) for limit in limits)
    return "int_uniform" if are_whole else "uniform"


def _check_settings(distribution: str, settings: Mapping[str, Any], place: str) -> None:
    if "values" in settings:
        _check_values(settings, place)
        return
    numbers = {key: value for key, value in settings.items() if key != "value"}
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            hint = " (YAML reads 1e-4 as a word: write 1.0e-4)" if isinstance(number, str) else ""
            raise ValueError(f"{place}: {key} is {number!r}; give a number{hint}")
        if distribution == "int_uniform" and not isinstance(number, int):
            raise ValueError(f"{place}: {key} is {number!r}; int_uniform needs whole numbers")
    if "min" in numbers and not numbers["min"] <= numbers["max"]:
        raise ValueError(f"{place}: min {numbers['min']} is above max {numbers['max']}")
    if distribution.endswith("_values") and not numbers["min"] > 0:
        raise ValueError(f"{place}: min is {numbers['min']}; {distribution} needs numbers > 0")
    for key in {"q", "a", "b"} & set(numbers):
        if not numbers[key] > 0:
            raise ValueError(f"{place}: {key} is {numbers[key]}; it must be > 0")
    if numbers.get("sigma", 0.0) < 0:
        raise ValueError(f"{place}: sigma is {numbers['sigma']}; it must be 0 or more")


def _check_values(settings: Mapping[str, Any], place: str) -> None:
    values = settings["values"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{place}: values is {values!r}; give a list of one or more")
    for value in values:
        if sum(type(value) is type(other) and value == other for other in values) > 1:
            raise ValueError(f"{place}: values has {value!r} twice")
    if "probabilities" not in settings:
        return
    shares = settings["probabilities"]
    if (
        not isinstance(shares, list)
        or len(shares) != len(values)
        or not all(isinstance(share, int | float) and share >= 0 for share in shares)
        or not sum(shares) > 0
    ):
        raise ValueError(
            f"{place}: probabilities is {shares!r}; give {len(values)} numbers, 0 or more, one "
            "for each of the values"
        )


def _check_grid(parameters: tuple[Parameter, ...], path: Path) -> None:
    allowed = ("constant", "categorical", "int_uniform", "q_uniform")
    for parameter in parameters:
        if parameter.distribution not in allowed:
            raise ValueError(
                f"{path}: parameters.{parameter.name} is {parameter.distribution}; a grid takes "
                f"only {', '.join(allowed)} (method random takes all)"
            )
