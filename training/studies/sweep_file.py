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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from data_prep.command import read_yaml

KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project")
_OF_THE_SERVER = ("entity", "run_cap", "early_terminate")
_METRIC_KEYS = ("name", "goal", "target", "impute", "impute_while_running")
DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
MAX_NAME_CHARS = 96
Settings = Mapping[str, Any]
"""The keys of a parameter, with W&B's defaults; `distribution` is one of DISTRIBUTIONS."""


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


DISTRIBUTIONS: Mapping[str, Callable[[Settings, random.Random], Any]] = {
    "constant": lambda given, _: given["value"],
    "categorical": _one_of,
    "categorical_w_probabilities": _one_of,
    "int_uniform": lambda given, generator: generator.randint(given["min"], given["max"]),
    "uniform": _uniform,
    "q_uniform": _steps,
    "log_uniform_values": _logarithmic,
    "normal": lambda given, g: g.normalvariate(float(given["mu"]), float(given["sigma"])),
}
"""How a value is drawn."""
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "normal": (),
}
_DEFAULTS = {"q_uniform": {"q": 1.0}, "normal": {"mu": 0.0, "sigma": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file: its place, all of its content, and what W&B takes where nothing is said.

    `parameters` are options without dashes with their settings, in the order of the file; `metric`
    is empty where none is named, `run_cap` is 0 where there is no limit; `notes` say what W&B's
    server would do and this program does not.
    """

    path: Path
    content: Mapping[str, Any]
    name: str
    method: Literal["grid", "random"]
    program: str
    command: tuple[str, ...]
    parameters: Mapping[str, Settings]
    metric: str
    run_cap: int
    notes: tuple[str, ...]

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
    _check_keys(content, (*KEYS, *_OF_THE_SERVER), str(path))
    for key in ("method", "program", "parameters"):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing; configs/sweeps/ has examples")
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
    are_whole = all(isinstance(given.get(name), int) for name in ("min", "max"))
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
    required, defaults = _REQUIRED.get(name, ("min", "max")), _DEFAULTS.get(name, {})
    place = f"{place} ({name})"
    _check_keys(given, ("distribution", *required, *defaults), place)
    if missing := set(required) - set(given):
        raise ValueError(
            f"{place} lacks {', '.join(sorted(missing))}; it needs {', '.join(required)}"
        )
    settings = {**defaults, **given, "distribution": name}
    if "values" in given:
        _check_values(settings, place)
    elif name != "constant":
        _check_numbers(settings, place)
    return settings


def _check_numbers(given: Settings, place: str) -> None:
    kinds = (int,) if given["distribution"] == "int_uniform" else (int, float)
    numbers = {key: given[key] for key in given if key != "distribution"}
    are_right = all(type(number) in kinds for number in numbers.values())
    if are_right:
        low, high = numbers.get("min", 1), numbers.get("max", 1)
        are_right = low <= high and (low > 0 or "log" not in given["distribution"])
        are_right = are_right and numbers.get("q", 1) > 0 and numbers.get("sigma", 0) >= 0
    if not are_right:
        raise ValueError(
            f"{place} is {numbers}; give numbers (int_uniform: whole ones; YAML reads 1e-4 as a "
            "word: write 1.0e-4), min <= max (log_uniform_values: > 0), q > 0, sigma >= 0"
        )


def _check_values(given: Settings, place: str) -> None:
    values, shares = given["values"], given.get("probabilities")
    are_listed = isinstance(values, list) and values
    if not are_listed or len({f"{type(v)} {v!r}" for v in values}) < len(values):
        raise ValueError(f"{place}: values is {values!r}; give a list of one or more, each once")
    if shares is not None:
        are_shares = isinstance(shares, list) and len(shares) == len(values) and any(shares)
        if not are_shares or not all(type(s) in (int, float) and s >= 0 for s in shares):
            raise ValueError(
                f"{place}: probabilities is {shares!r}; give {len(values)} numbers, 0 or more"
            )


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
        return DISTRIBUTIONS[given["distribution"]](given, generator)

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
    varied = {name: given for name, given in sweep.parameters.items() if _can_vary(given)}
    labels = _labels(list(varied))
    listed = ([_slug(_value_text(v)) for v in given.get("values", ())] for given in varied.values())
    clash = any(len(set(texts)) < len(texts) for texts in listed)
    names = []
    for index, values in enumerate(trials):
        texts = [f"{label}{_slug(_value_text(values[name]))}" for name, label in labels.items()]
        parts = [f"{index:03d}"] if sweep.method == "random" else []
        name = _slug("--".join([*parts, *texts])) or "trial"
        if clash or len(name) > MAX_NAME_CHARS:
            text = json.dumps(values, sort_keys=True, default=str)
            digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]
            name = f"{name[: MAX_NAME_CHARS - 10]}--{digest}"
        names.append(name)
    return names


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
