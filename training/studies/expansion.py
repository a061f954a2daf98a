"""From a sweep file to trials: parameters, a readable name and a command line each.

Invariant: pure. The trials follow from the file, the seed and the count alone, and a larger count
adds trials without changing those before.
"""

import hashlib
import itertools
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from training.studies.sweep_file import Sweep

MAX_NAME_CHARS = 96


def expand(sweep: Sweep, *, seed: int = 0, count: int = 0) -> list[dict[str, Any]]:
    """Return the parameters of every trial.

    In a grid seeds vary slowest, so that a sweep which is stopped early has compared everything on
    equal seeds.

    Args:
        sweep: The file.
        seed: Of method random.
        count: At most so many trials, the first ones; 0: the file's run_cap. Method random needs
            one of the two.

    Raises:
        ValueError: The number of random trials is not given.
    """
    number = min(count or sweep.run_cap, sweep.run_cap or count)
    if sweep.method == "grid":
        return _combinations(sweep)[: number or None]
    if number < 1:
        raise ValueError(
            f"{sweep.path}: method random has no end: give --count N (or run_cap: N in the file)"
        )
    return [  # each value from a generator of its own
        {p.name: p.draw(random.Random(f"{seed}/{index}/{p.name}")) for p in sweep.parameters}
        for index in range(number)
    ]


def _combinations(sweep: Sweep) -> list[dict[str, Any]]:
    names = [parameter.name for parameter in sweep.parameters]
    settings = {parameter.name: parameter.settings for parameter in sweep.parameters}
    order = sorted(names, key=lambda name: not name.startswith("seed"))
    choices = [settings[n].get("values") or [settings[n]["value"]] for n in order]
    rows = (dict(zip(order, row, strict=True)) for row in itertools.product(*choices))
    return [{name: row[name] for name in names} for row in rows]


def command_of(sweep: Sweep, parameters: Mapping[str, Any], extra: Sequence[str] = ()) -> list[str]:
    """Return the command line of a trial, its macros filled in as `wandb agent` fills them in.

    Args:
        sweep: The file.
        parameters: Of the trial.
        extra: Options of every trial, put behind the command. The trial's own options are repeated
            behind them: a config file among the extra ones may set what the sweep varies, and the
            last one wins.

    Raises:
        ValueError: An extra option is one that the sweep varies.
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
    everything = trials if sweep.method == "random" else _combinations(sweep)
    labels = _labels([parameter.name for parameter in sweep.parameters if parameter.can_vary])
    names = []
    for index, values in enumerate(everything):
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


def folder_name(sweep: Sweep) -> str:
    """Return the sweep's name as the name of a folder."""
    return _slug(sweep.name) or "sweep"
