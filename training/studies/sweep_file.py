"""A sweep file in W&B's own format, and its trials: parameters, a readable name, a command each.

The keys and their meaning are those of docs.wandb.ai/models/sweeps/sweep-config-keys, so that
`wandb sweep` takes the same file as it is; what is not understood here is refused by name.
Invariant: pure. The trials follow from the file, the seed and the count alone, and a larger count
adds trials without changing those before.
"""

import hashlib
import itertools
import json
import math
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from data_prep.command import read_yaml

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project")
_OF_THE_SERVER = ("entity", "run_cap", "early_terminate")
_METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
MAX_NAME_CHARS = 96
Settings = Mapping[str, Any]
"""The keys of a parameter, with W&B's defaults; `distribution` is one of DISTRIBUTIONS."""


class Distribution(NamedTuple):
    """Where the values of a parameter come from."""

    required: tuple[str, ...]
    draw: Callable[[Settings, random.Random], Any]
    defaults: Mapping[str, float] = {}


def _uniform(given: Settings, generator: random.Random) -> float:
    return generator.uniform(float(given["min"]), float(given["max"]))


def _steps(given: Settings, generator: random.Random) -> int | float:
    """A multiple of a step without the noise of its last digits; whole where the step is."""
    step = given["q"]
    value = round(_uniform(given, generator) / step) * step
    return round(value) if isinstance(step, int) else float(f"{value:.12g}")


def _logarithmic(given: Settings, generator: random.Random) -> float:
    low, high = float(given["min"]), float(given["max"])
    return min(max(math.exp(generator.uniform(math.log(low), math.log(high))), low), high)


def _one_of(given: Settings, generator: random.Random) -> Any:
    return generator.choices(given["values"], given.get("probabilities"))[0]


_RANGE = ("min", "max")
DISTRIBUTIONS: Mapping[str, Distribution] = {
    "constant": Distribution(("value",), lambda given, _: given["value"]),
    "categorical": Distribution(("values",), _one_of),
    "categorical_w_probabilities": Distribution(("values", "probabilities"), _one_of),
    "int_uniform": Distribution(_RANGE, lambda given, g: g.randint(given["min"], given["max"])),
    "uniform": Distribution(_RANGE, _uniform),
    "q_uniform": Distribution(_RANGE, _steps, {"q": 1.0}),
    "log_uniform_values": Distribution(_RANGE, _logarithmic),
    "normal": Distribution(
        (),
        lambda given, g: g.normalvariate(float(given["mu"]), float(given["sigma"])),
        {"mu": 0.0, "sigma": 1.0},
    ),
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
    parameters: Mapping[str, Settings]
    """Option without dashes -> its settings, in the order of the file."""
    metric: str
    """The metric that counts; empty: none is named."""
    run_cap: int
    """At most so many trials; 0: no limit."""
    notes: tuple[str, ...]
    """What W&B's server would do and this program does not."""

    @property
    def folder_name(self) -> str:
        """The name as the name of a folder."""
        return _slug(self.name) or "sweep"


def read_sweep(path: str | Path) -> Sweep:
    """Return the checked content of a sweep file."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such sweep file; configs/sweeps/ has examples")
    content = read_yaml(path, yaml_1_1=True)
    if not isinstance(content, dict) or "method" not in content:
        raise ValueError(f"{path}: is no sweep, it has no `method:`; configs/sweeps/ has examples")
    _check_keys(content, (*KEYS, *_OF_THE_SERVER), str(path))
    for key in ("program", "parameters"):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing, and W&B needs it")
    method, run_cap = content["method"], content.get("run_cap", 0)
    if method not in ("grid", "random"):
        raise ValueError(
            f"{path}: method is {method!r}; allowed here are grid and random (bayes is done by "
            "W&B's server: run `wandb sweep` and `wandb agent` on this file)"
        )
    if type(run_cap) is not int or run_cap < 0:
        raise ValueError(f"{path}: run_cap is {run_cap!r}; give a whole number above 0")
    metric = _check_keys(content.get("metric", {}), _METRIC_KEYS, f"{path}: metric")
    if (goal := metric.get("goal", "minimize")) not in ("minimize", "maximize"):
        raise ValueError(f"{path}: metric.goal is {goal!r}; allowed are minimize and maximize")
    notes = {
        "early_terminate": "early_terminate is done by W&B's server only: no trial ends early here",
        "target": "metric.target is watched by W&B's server only: all trials are run here",
    }
    return Sweep(
        path=path,
        content=content,
        name=str(content.get("name") or path.stem),
        method=method,
        program=str(content["program"]),
        command=_command(content.get("command"), path),
        parameters=_parameters(content["parameters"], method, path),
        metric=str(metric.get("name", "")),
        run_cap=run_cap,
        notes=tuple(text for key, text in notes.items() if key in {**content, **metric}),
    )


def _check_keys(value: Any, allowed: Iterable[str], place: str) -> Mapping[str, Any]:
    names = ", ".join(allowed)
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {value!r}; give a mapping with {names}")
    for key in (key for key in value if key not in allowed):
        raise ValueError(
            f"{place} has the unknown key {key!r}; allowed here: {names} (`wandb sweep` knows more)"
        )
    return value


def _command(value: Any, path: Path) -> tuple[str, ...]:
    words = DEFAULT_COMMAND if value is None else value
    if not isinstance(words, list | tuple) or not words:
        raise ValueError(f"{path}: command is {value!r}; give a list, for instance of ${{args}}")
    for word in map(str, words):
        if word not in DEFAULT_COMMAND and re.search(r"^\$\{.*\}$|\$\{envvar:", word):
            raise ValueError(
                f"{path}: command has {word}; the macros here are {', '.join(DEFAULT_COMMAND)} "
                "(`wandb agent` knows more)"
            )
    return tuple(map(str, words))


def _parameters(value: Any, method: str, path: Path) -> dict[str, Settings]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: parameters is {value!r}; give a mapping of names to values")
    checked = {}
    for name, given in value.items():
        place = f"{path}: parameters.{name}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(name)):
            raise ValueError(
                f"{place}: a name is letters, digits, '_', '.' and '-', and begins with a letter "
                "or '_'"
            )
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{place} is {given!r}; write `value: {given}`, `values:`, or min, max"
            )
        if "parameters" in given:
            raise ValueError(f"{place}: nested parameters are for `wandb sweep`; write {name}.NAME")
        if method == "grid" and not {"value", "values"} & set(given):
            raise ValueError(
                f"{place}: a grid takes only value and values here (method random takes ranges)"
            )
        checked[str(name)] = _settings(given, place)
    return checked


def _settings(given: Settings, place: str) -> Settings:
    """The settings of a parameter, with what W&B takes where nothing is said."""
    are_whole = all(isinstance(given.get(name), int) for name in _RANGE)
    implied = "int_uniform" if are_whole else "uniform"
    if "value" in given or "values" in given:
        is_weighted = "probabilities" in given
        implied = "categorical_w_probabilities" if is_weighted else "categorical"
        implied = "constant" if "value" in given else implied
    name = given.get("distribution", implied)
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"{place}: distribution is {name!r}; allowed here are {', '.join(DISTRIBUTIONS)} "
            "(`wandb sweep` knows more)"
        )
    place, (required, _, defaults) = f"{place} ({name})", DISTRIBUTIONS[name]
    _check_keys(given, ("distribution", *required, *defaults), place)
    if missing := [key for key in required if key not in given]:
        raise ValueError(f"{place} lacks {missing[0]}; it needs {', '.join(required)}")
    settings = {**defaults, **given, "distribution": name}
    if "values" in given:
        _check_values(settings, place)
    elif "value" not in given:
        _check_numbers(settings, name, place)
    return settings


def _check_numbers(given: Settings, distribution: str, place: str) -> None:
    kinds = (int,) if distribution == "int_uniform" else (int, float)
    numbers = {key: given[key] for key in given if key != "distribution"}
    for key, number in numbers.items():
        if type(number) not in kinds:
            hint = " (YAML reads 1e-4 as a word: write 1.0e-4)" if isinstance(number, str) else ""
            kind = "a number" if float in kinds else "a whole number"
            raise ValueError(f"{place}: {key} is {number!r}; give {kind}{hint}")
    low, high = numbers.get("min", 1), numbers.get("max", 1)
    if low > high:
        raise ValueError(f"{place}: min {low} is above max {high}")
    if (
        low <= 0
        and "log" in distribution
        or numbers.get("q", 1) <= 0
        or numbers.get("sigma", 1) < 0
    ):
        raise ValueError(
            f"{place}: {numbers}: log_uniform_values needs numbers > 0, q must be > 0, and sigma "
            "0 or more"
        )


def _check_values(given: Settings, place: str) -> None:
    values = given["values"]
    are_listed = isinstance(values, list) and values
    if not are_listed or len({f"{type(v)} {v!r}" for v in values}) < len(values):
        raise ValueError(f"{place}: values is {values!r}; give a list of one or more, each once")
    shares = given.get("probabilities", [1] * len(values))
    are_shares = isinstance(shares, list) and len(shares) == len(values) and any(shares)
    if not are_shares or not all(type(s) in (int, float) and s >= 0 for s in shares):
        raise ValueError(f"{place}: probabilities is {shares!r}; give {len(values)} numbers >= 0")


def expand(sweep: Sweep, *, seed: int = 0, count: int = 0) -> list[dict[str, Any]]:
    """Return the parameters of every trial.

    In a grid seeds vary slowest, so that a sweep which is stopped early has compared everything on
    equal seeds.

    Args:
        sweep: The file.
        seed: Of method random.
        count: At most so many trials, the first ones; 0: the file's run_cap. Method random needs
            one of the two.
    """
    number = min(count or sweep.run_cap, sweep.run_cap or count)
    if sweep.method == "grid":
        return _combinations(sweep)[: number or None]
    if number < 1:
        raise ValueError(
            f"{sweep.path}: method random has no end: give --count N (or run_cap: N in the file)"
        )

    def drawn(index: int, name: str, given: Settings) -> Any:
        generator = random.Random(f"{seed}/{index}/{name}")  # each value from one of its own
        return DISTRIBUTIONS[given["distribution"]].draw(given, generator)

    items = sweep.parameters.items()
    return [{name: drawn(index, name, given) for name, given in items} for index in range(number)]


def _combinations(sweep: Sweep) -> list[dict[str, Any]]:
    parameters = sweep.parameters
    order = sorted(parameters, key=lambda name: not name.startswith("seed"))
    choices = [parameters[n].get("values") or [parameters[n]["value"]] for n in order]
    rows = (dict(zip(order, row, strict=True)) for row in itertools.product(*choices))
    return [{name: row[name] for name in parameters} for row in rows]


def command_of(sweep: Sweep, parameters: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """Return the command line of a trial, its macros filled in as `wandb agent` fills them in.

    Args:
        sweep: The file.
        parameters: Of the trial.
        extra: Options of every trial, put behind the command. The trial's own options are repeated
            behind them: a config file among the extra ones may set what the sweep varies, and the
            last one wins.
    """
    varied = {f"--{name}" for name in parameters} - {"--config"}
    for word in extra:
        if word.partition("=")[0] in varied:
            raise ValueError(
                f"{word}: {sweep.path} varies it, and every trial has its own value; leave it out, "
                "or change the file"
            )
    own = [f"--{name}={value}" for name, value in parameters.items()]
    filled = {
        "${env}": [] if os.name == "nt" else ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [sweep.program],
        "${args}": own,
    }
    words = [part for word in sweep.command for part in filled.get(word, [word])]
    return [*words, *extra, *(own if extra and "${args}" in sweep.command else ())]


def trial_names(sweep: Sweep, trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a folder name for every trial: what can vary, as `parameter-value--parameter-value`.

    Names are made of letters, digits, '_', '.' and '-', so that they are names of runs too; a file
    is called by its stem. A trial is called alike however many others are run.

    Args:
        sweep: The file.
        trials: The first ones of the sweep, from `expand`.
    """
    labels = _labels([name for name, given in sweep.parameters.items() if _can_vary(given)])
    names = []
    for index, values in enumerate(trials if sweep.method == "random" else _combinations(sweep)):
        texts = (f"{label}{_slug(_value_text(values[name]))}" for name, label in labels.items())
        parts = [f"{index:03d}"] if sweep.method == "random" else []
        names.append(_slug("--".join([*parts, *texts])) or "trial")
    found = Counter(names)
    return [
        name
        if found[name] == 1 and len(name) <= MAX_NAME_CHARS
        else f"{name[: MAX_NAME_CHARS - 10]}--{_digest(values)}"
        for name, values in zip(names, trials, strict=False)
    ]


def _can_vary(given: Settings) -> bool:
    """Whether two trials may differ in a parameter."""
    if "values" in given:
        return len(given["values"]) > 1
    return bool(given["min"] < given["max"]) if "min" in given else "value" not in given


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What stands before a value: the last part of its parameter's name.

    All of the name where two end alike; nothing for a config file, whose own name says enough.
    """
    ends = [name.rpartition(".")[2] for name in names]
    labels = {n: e if ends.count(e) == 1 else n for n, e in zip(names, ends, strict=True)}
    short = {"seed_everything": "seed-", "config": ""}
    return {name: short.get(label, f"{label}-") for name, label in labels.items()}


def _value_text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return PurePath(text).stem if text.endswith((".yaml", ".yml")) else text


def _slug(text: str) -> str:
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9_.\-]+", "_", text)).strip("_.-")


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
