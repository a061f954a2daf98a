"""From a sweep file to trials: parameters, a readable name and a command line each.

Invariant: pure. The trials follow from the file, the seed and the count alone, and a larger count
adds trials without changing those before. In a grid seeds vary slowest, so that a sweep which is
stopped early has compared everything on equal seeds.
"""

import hashlib
import itertools
import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from training.studies.reading import Parameter, Sweep

MAX_NAME_CHARS = 96
_ENVIRONMENT_MACRO = re.compile(r"\$\{envvar:([A-Za-z0-9_]+)\}")


def expand(sweep: Sweep, *, seed: int = 0, count: int = 0) -> list[dict[str, Any]]:
    """The parameters of every trial; a nested parameter is a mapping, as in W&B.

    Args:
        sweep: The file.
        seed: Of method random.
        count: At most so many trials, the first ones; 0: the file's run_cap. Method random needs
            one of the two.

    Raises:
        ValueError: The number of random trials is not given.
    """
    number = min(count or sweep.run_cap, sweep.run_cap or count)
    if sweep.method == "random":
        if number < 1:
            raise ValueError(
                f"{sweep.path}: method random has no end: give --count N (or run_cap: N in the "
                "file)"
            )
        return [_nested(_drawn(sweep.parameters, seed, index)) for index in range(number)]
    slowest_first = sorted(sweep.parameters, key=lambda p: not p.path[-1].startswith("seed"))
    choices = [[(p.path, value) for value in _grid_values(p)] for p in slowest_first]
    combinations = list(map(dict, itertools.product(*choices)))[: number or None]
    return [_nested({p.path: values[p.path] for p in sweep.parameters}) for values in combinations]


def _grid_values(parameter: Parameter) -> list[Any]:
    settings = parameter.settings
    if parameter.distribution == "constant":
        return [settings["value"]]
    if parameter.distribution == "categorical":
        return list(settings["values"])
    if parameter.distribution == "int_uniform":
        return list(range(settings["min"], settings["max"] + 1))
    low, high, step = (settings[name] for name in ("min", "max", "q"))
    steps = math.ceil((high - low) / step - 1e-9)  # as in W&B, max itself is left out
    return [_rounded(low + number * step, step) for number in range(steps)]


def _drawn(parameters: Sequence[Parameter], seed: int, index: int) -> dict[tuple[str, ...], Any]:
    """One value per parameter, each from a generator of its own."""
    return {
        parameter.path: _draw(
            parameter.distribution,
            parameter.settings,
            random.Random(f"{seed}/{index}/{parameter.name}"),
        )
        for parameter in parameters
    }


def _draw(distribution: str, settings: Mapping[str, Any], generator: random.Random) -> Any:
    if distribution == "constant":
        return settings["value"]
    if "values" in settings:
        return generator.choices(settings["values"], settings.get("probabilities"))[0]
    if distribution == "int_uniform":
        return generator.randint(settings["min"], settings["max"])
    value = _CONTINUOUS[distribution.removeprefix("q_")](settings, generator)
    if "q" in settings:
        return _rounded(round(value / settings["q"]) * settings["q"], settings["q"])
    return value


def _rounded(value: float, step: float) -> int | float:
    """A multiple of a step without the noise of its last digits; whole where the step is."""
    return round(value) if isinstance(step, int) else float(f"{value:.12g}")


def _uniform(settings: Mapping[str, Any], generator: random.Random) -> float:
    return generator.uniform(float(settings["min"]), float(settings["max"]))


def _log_values(settings: Mapping[str, Any], generator: random.Random) -> float:
    low, high = float(settings["min"]), float(settings["max"])
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)


def _normal(settings: Mapping[str, Any], generator: random.Random) -> float:
    return generator.normalvariate(float(settings["mu"]), float(settings["sigma"]))


_CONTINUOUS: Mapping[str, Callable[[Mapping[str, Any], random.Random], float]] = {
    "uniform": _uniform,
    "log_uniform": lambda settings, generator: math.exp(_uniform(settings, generator)),
    "log_uniform_values": _log_values,
    "inv_log_uniform": lambda settings, generator: math.exp(-_uniform(settings, generator)),
    "inv_log_uniform_values": _log_values,
    "normal": _normal,
    "log_normal": lambda settings, generator: math.exp(_normal(settings, generator)),
    "beta": lambda settings, generator: generator.betavariate(settings["a"], settings["b"]),
}


def _nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, value in values.items():
        place = result
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return result


def command_of(sweep: Sweep, parameters: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """The command line of a trial, its macros filled in as `wandb agent` fills them in.

    Args:
        sweep: The file.
        parameters: Of the trial.
        extra: Options of every trial, put behind the command. The trial's own options are repeated
            behind them: a config file among the extra ones may set what the sweep varies, and the
            last one wins.

    Raises:
        ValueError: An unknown macro, one that needs W&B, an environment variable that is not set,
            or an extra option that the sweep varies.
    """
    _check_extra(sweep, extra)
    filled: dict[str, list[str]] = {
        "env": [] if os.name == "nt" else ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [sweep.program],
        **_argument_macros(parameters),
    }
    words: list[str] = []
    for chunk in sweep.command:
        text = _ENVIRONMENT_MACRO.sub(lambda found: _variable(found[1], sweep), chunk)
        if not (text.startswith("${") and text.endswith("}")):
            words.append(text)
        elif text[2:-1] in filled:
            words += filled[text[2:-1]]
        else:
            known = ", ".join(f"${{{name}}}" for name in (*filled, "envvar:NAME"))
            raise ValueError(f"{sweep.path}: command has {text}; the macros here are {known}")
    own = next((filled[c[2:-1]] for c in sweep.command if c.startswith("${args")), [])
    again = own if extra and all(word.startswith("--") for word in own[:1]) else []
    return [*words, *extra, *again]


def _check_extra(sweep: Sweep, extra: Sequence[str]) -> None:
    varied = {f"--{p.name}" for p in sweep.parameters} - {"--config"}
    for word in extra:
        if word.partition("=")[0] in varied:
            raise ValueError(
                f"{word}: {sweep.path} varies it, and every trial has its own value; leave it out, "
                "or change the file"
            )


def _variable(name: str, sweep: Sweep) -> str:
    if name not in os.environ:
        raise ValueError(
            f"{sweep.path}: command has ${{envvar:{name}}}, but {name} is not set in the "
            "environment; set it, or write the value into the file"
        )
    return os.environ[name]


def _argument_macros(parameters: Mapping[str, Any]) -> dict[str, list[str]]:
    pairs = {name: f"{name}={value}" for name, value in parameters.items()}
    switches = [
        f"--{name}" if value is True else f"--{pairs[name]}"
        for name, value in parameters.items()
        if value is not False
    ]
    spaced = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
    return {
        "args": [f"--{pair}" for pair in pairs.values()],
        "args_no_equals": spaced,
        "args_no_hyphens": list(pairs.values()),
        "args_no_boolean_flags": switches,
        "args_append_hydra": [f"+{pair}" for pair in pairs.values()],
        "args_override_hydra": [f"++{pair}" for pair in pairs.values()],
        "args_json": [json.dumps(dict(parameters))],
    }


def trial_names(sweep: Sweep, trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """A folder name for every trial: what can vary, as `parameter-value--parameter-value`.

    Names are made of letters, digits, '_', '.' and '-', so that they are names of runs too; a file
    is called by its stem. A trial is called alike however many others are run.

    Args:
        sweep: The file.
        trials: The first ones of the sweep, from `expand`.
    """
    flats = [_leaves(t) for t in (trials if sweep.method == "random" else expand(sweep))]
    labels = _labels([p.name for p in sweep.parameters if _can_vary(p)])
    names = []
    for index, flat in enumerate(flats):
        texts = (f"{label}{_slug(_value_text(flat[name]))}" for name, label in labels.items())
        parts = [f"{index:03d}"] if sweep.method == "random" else []
        names.append(_slug("--".join([*parts, *texts])) or "trial")
    return [
        name
        if names.count(name) == 1 and len(name) <= MAX_NAME_CHARS
        else f"{name[: MAX_NAME_CHARS - 10]}--{_digest(flat)}"
        for name, flat in zip(names[: len(trials)], flats, strict=False)
    ]


def _can_vary(parameter: Parameter) -> bool:
    if parameter.distribution == "constant":
        return False
    settings = parameter.settings
    if "values" in settings:
        return len(settings["values"]) > 1
    return "min" not in settings or bool(settings["min"] < settings["max"])


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values; a mapping stands there itself, too."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[f"{prefix}{name}"] = value
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
    return found


def _labels(names: Sequence[str]) -> dict[str, str]:
    """What stands before a value: the last part of its parameter's name.

    All of the name where two end alike; nothing for a config file, whose own name says enough.
    """
    ends = [name.rpartition(".")[2] for name in names]
    labels = {n: e if ends.count(e) == 1 else n for n, e in zip(names, ends, strict=True)}
    short = {"seed_everything": "seed-", "config": ""}
    return {name: short.get(label, f"{label}-") for name, label in labels.items()}


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return PurePath(text).stem if text.endswith((".yaml", ".yml")) else text


def _slug(text: str) -> str:
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9_.\-]+", "_", text)).strip("_.-")


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def folder_name(sweep: Sweep) -> str:
    """The sweep's name as the name of a folder."""
    return _slug(sweep.name) or "sweep"
