"""A sweep file in W&B's own format: every key is checked, and none is ignored without a word.

The keys and their meaning are those of docs.wandb.ai/models/sweeps/sweep-config-keys, so that
`wandb sweep` takes the same file as it is. Not every file of W&B's is understood here.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.command import read_yaml

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project")
_NOT_USED = ("entity", "run_cap", "early_terminate")
_METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
_SERVER = "which W&B's server does: run `wandb sweep` and `wandb agent` on this file"
_RANGE = ("min", "max")
# Distribution -> keys that must stand there, keys that may with their defaults.
DISTRIBUTIONS: Mapping[str, tuple[tuple[str, ...], Mapping[str, float]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (_RANGE, {}),
    "uniform": (_RANGE, {}),
    "q_uniform": (_RANGE, {"q": 1.0}),
    "log_uniform_values": (_RANGE, {}),
    "normal": ((), {"mu": 0.0, "sigma": 1.0}),
}
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a sweep, and where its values come from."""

    name: str
    """The option that it sets, without dashes."""
    distribution: str
    """A key of DISTRIBUTIONS."""
    settings: Mapping[str, Any]
    """The keys of that distribution, with W&B's defaults."""

    @property
    def can_vary(self) -> bool:
        """Whether two trials may differ in it."""
        if "values" in self.settings:
            return len(self.settings["values"]) > 1
        if "min" in self.settings:
            return bool(self.settings["min"] < self.settings["max"])
        return self.distribution != "constant"

    def draw(self, generator: random.Random) -> Any:
        """Return a value for a trial of method random."""
        given = self.settings
        if "value" in given:
            return given["value"]
        if "values" in given:
            return generator.choices(given["values"], given.get("probabilities"))[0]
        return _DRAWS[self.distribution](given, generator)


def _draw_logarithmic(given: Mapping[str, Any], generator: random.Random) -> float:
    low, high = float(given["min"]), float(given["max"])
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)


def _draw_step(given: Mapping[str, Any], generator: random.Random) -> int | float:
    """A multiple of a step without the noise of its last digits; whole where the step is."""
    step = given["q"]
    value = round(_draw_uniform(given, generator) / step) * step
    return round(value) if isinstance(step, int) else float(f"{value:.12g}")


def _draw_uniform(given: Mapping[str, Any], generator: random.Random) -> float:
    return generator.uniform(float(given["min"]), float(given["max"]))


def _draw_normal(given: Mapping[str, Any], generator: random.Random) -> float:
    return generator.normalvariate(float(given["mu"]), float(given["sigma"]))


_DRAWS: Mapping[str, Callable[[Mapping[str, Any], random.Random], int | float]] = {
    "int_uniform": lambda given, generator: generator.randint(given["min"], given["max"]),
    "uniform": _draw_uniform,
    "q_uniform": _draw_step,
    "log_uniform_values": _draw_logarithmic,
    "normal": _draw_normal,
}


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
    run_cap: int
    """At most so many trials; 0: no limit."""
    notes: tuple[str, ...]
    """What W&B's server would do and this program does not."""


def read_sweep(path: str | Path) -> Sweep:
    """Return the checked content of a sweep file.

    Raises:
        ValueError: It is missing, is no sweep, has an unknown key or a wrong value, or asks for
            what only W&B's server can do.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such sweep file; configs/sweeps/ has examples")
    content = read_yaml(path, yaml_1_1=True)
    if not isinstance(content, dict) or "method" not in content:
        raise ValueError(f"{path}: is no sweep, it has no `method:`; configs/sweeps/ has examples")
    _check_mapping(content, (*KEYS, *_NOT_USED), f"{path}")
    for key in ("program", "parameters"):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing, and W&B needs it")
    method = content["method"]
    if method not in ("grid", "random"):
        raise ValueError(
            f"{path}: method is {method!r}; allowed here are grid and random (bayes chooses a "
            f"trial from the results of earlier ones, {_SERVER})"
        )
    run_cap = content.get("run_cap", 0)
    if type(run_cap) is not int or run_cap < 0:
        raise ValueError(f"{path}: run_cap is {run_cap!r}; give a whole number above 0")
    metric = _check_mapping(content.get("metric", {}), _METRIC_KEYS, f"{path}: metric")
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise ValueError(
            f"{path}: metric.goal is {metric['goal']!r}; allowed are minimize and maximize"
        )
    return Sweep(
        path=path,
        content=content,
        name=str(content.get("name") or path.stem),
        method=method,
        program=str(content["program"]),
        command=_command(content.get("command"), path),
        parameters=tuple(_parameters(content["parameters"], method, path)),
        metric=str(metric.get("name", "")),
        run_cap=run_cap,
        notes=tuple(_notes(content, metric)),
    )


def _check_mapping(value: Any, allowed: Sequence[str], place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {value!r}; give a mapping with {', '.join(allowed)}")
    for key in value:
        if key not in allowed:
            raise ValueError(
                f"{place} has the unknown key {key!r}; allowed here: {', '.join(allowed)} "
                "(`wandb sweep` knows more)"
            )
    return value


def _command(value: Any, path: Path) -> tuple[str, ...]:
    if value is None:
        return DEFAULT_COMMAND
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path}: command is {value!r}; give a list, for instance of ${{args}}")
    for word in map(str, value):
        if word not in DEFAULT_COMMAND and re.search(r"^\$\{.*\}$|\$\{envvar:", word):
            raise ValueError(
                f"{path}: command has {word}; the macros here are {', '.join(DEFAULT_COMMAND)} "
                "(`wandb agent` knows more)"
            )
    return tuple(map(str, value))


def _notes(content: Mapping[str, Any], metric: Mapping[str, Any]) -> Iterator[str]:
    if "early_terminate" in content:
        yield "early_terminate is done by W&B's server only: every trial runs to its end here"
    if "target" in metric:
        yield "metric.target is watched by W&B's server only: all trials are run here"


def _parameters(value: Any, method: str, path: Path) -> Iterator[Parameter]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: parameters is {value!r}; give a mapping of names to values")
    for name, given in value.items():
        place = f"{path}: parameters.{name}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(name)):
            raise ValueError(
                f"{place}: a name is made of letters, digits, '_', '.' and '-' and begins with a "
                "letter or '_'"
            )
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{place} is {given!r}; write `value: {given}`, or `values:` with a list, or min "
                "and max"
            )
        if "parameters" in given:
            raise ValueError(f"{place}: nested parameters are for `wandb sweep`; write {name}.NAME")
        if method == "grid" and not {"value", "values"} & set(given):
            raise ValueError(
                f"{place}: a grid takes only value and values here (method random takes ranges, "
                "and `wandb sweep` takes int_uniform and q_uniform in a grid)"
            )
        yield _parameter(str(name), given, place)


def _parameter(name: str, given: Mapping[str, Any], place: str) -> Parameter:
    distribution = given.get("distribution", _implied_distribution(given))
    if distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"{place}: distribution is {distribution!r}; allowed here are "
            f"{', '.join(DISTRIBUTIONS)} (`wandb sweep` knows more)"
        )
    required, optional = DISTRIBUTIONS[distribution]
    allowed = (*required, *optional)
    settings = {key: value for key, value in given.items() if key != "distribution"}
    _check_mapping(settings, allowed, f"{place} ({distribution})")
    for key in required:
        if key not in settings:
            raise ValueError(f"{place} ({distribution}) lacks {key}; it needs {', '.join(allowed)}")
    settings = {**optional, **settings}
    if "values" in settings:
        _check_values(settings, place)
    elif "value" not in settings:
        _check_numbers(distribution, settings, place)
    return Parameter(name=name, distribution=distribution, settings=settings)


def _implied_distribution(given: Mapping[str, Any]) -> str:
    """What W&B takes where `distribution` is not given."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    are_whole = all(isinstance(given.get(name), int) for name in _RANGE)
    return "int_uniform" if are_whole else "uniform"


def _check_numbers(distribution: str, given: Mapping[str, Any], place: str) -> None:
    kinds = (int,) if distribution == "int_uniform" else (int, float)
    for key, number in given.items():
        if type(number) not in kinds:
            what = "a number" if float in kinds else "a whole number"
            hint = " (YAML reads 1e-4 as a word: write 1.0e-4)" if isinstance(number, str) else ""
            raise ValueError(f"{place}: {key} is {number!r}; give {what}{hint}")
    low, high = given.get("min", 1), given.get("max", 1)
    if low > high:
        raise ValueError(f"{place}: min {low} is above max {high}")
    if distribution == "log_uniform_values" and low <= 0:
        raise ValueError(f"{place}: min is {low}; {distribution} needs numbers > 0")
    if given.get("q", 1.0) <= 0 or given.get("sigma", 0.0) < 0:
        raise ValueError(f"{place}: q must be > 0, and sigma 0 or more")


def _check_values(given: Mapping[str, Any], place: str) -> None:
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{place}: values is {values!r}; give a list of one or more")
    texts = [f"{type(value)} {value!r}" for value in values]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{place}: values is {values}; a value stands there twice")
    shares = given.get("probabilities", [1] * len(values))
    are_shares = isinstance(shares, list) and len(shares) == len(values)
    if (
        not are_shares
        or not all(type(s) in (int, float) and s >= 0 for s in shares)
        or not any(shares)
    ):
        raise ValueError(
            f"{place}: probabilities is {shares!r}; give {len(values)} numbers, 0 or more, one "
            "for each of the values"
        )
