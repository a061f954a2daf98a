"""What the commands share: parsers with short errors, switches, and what YAML files may set.

Invariant: nothing here depends on what a command does.
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

CONFIG_OPTIONS = ("-c", "--config")
NULLS = ("null", "None", "~")
"""Words of a command line that stand for no value; `None` is what W&B's agent writes."""

_UNKNOWN = re.compile(
    r"unrecognized arguments: --(?P<option>[^\s=]+)"
    r"|(?:(?:Subcommand|Group) '(?P<group>[^']+)' does not accept option|Option) '(?P<key>[^']+)'"
)
_OWN_METRICS = ("pytorch_lightning", "pretrain", "finetune", "training")


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as a ValueError."""
        raise ValueError(f"{with_near_name(message, self)} ({self.prog} --help lists the options)")


def option_names(parser: Any) -> set[str]:
    """Return the options of a parser and of its commands, without dashes."""
    names = set()
    for action in parser._actions:
        names |= {option[2:] for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                names |= option_names(below)
    return names


def with_near_name(message: str, parser: Any) -> str:
    """Return a message about an unknown option with the name that is nearest to it, if any is."""
    found = _UNKNOWN.search(message)
    if found is None:
        return message
    names = sorted(option_names(parser))
    given = found["option"] or found["key"]
    group = found["group"] if found["group"] in {name.split(".")[0] for name in names} else ""
    if group and not found["option"]:
        given = f"{group}.{given}"
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.75)
    if not near:  # the right name in another group
        last = given.rpartition(".")[2]
        near = [name for name in names if name.rpartition(".")[2] == last][:1]
    dashes = "--" if found["option"] else ""
    return f"{message}; did you mean {dashes}{near[0]}?" if near else message


def yes_or_no(text: str) -> bool:
    """Return the value of a switch: true or false."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def option_value(options: Sequence[str], name: str) -> str | None:
    """Return the last value of an option, as `--name VALUE` or `--name=VALUE`; None: not given."""
    found = None
    for place, word in enumerate(options):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(options):
            found = options[place + 1]
    return found


def listed(value: Any) -> list[Any]:
    """Return the objects that an option gives: none, one or several; switches are left out."""
    given = value if isinstance(value, list) else [value]
    return [item for item in given if not isinstance(item, bool | None)]


def seed_number(seed: bool | int) -> int:
    """Return a seed."""
    if isinstance(seed, bool):
        raise ValueError(
            f"seed_everything is {seed}: give a whole number, so that the run can be repeated"
        )
    return seed


def check_monitors(callbacks: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse a callback whose `monitor` is no metric of the run, before anything is trained.

    Beside a callback from elsewhere, which may log metrics of its own, any name may be right.

    Args:
        callbacks: Those that the user has given.
        names: The metrics that a validation gives.
    """
    if any(type(callback).__module__.split(".")[0] not in _OWN_METRICS for callback in callbacks):
        return
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in names and getattr(callback, "strict", True):
            raise ValueError(
                f"{type(callback).__name__} looks at a metric {monitor!r}, which there is not; "
                f"there are {', '.join(names)}"
            )


def reject_decided_values(arguments: Sequence[str], decided_by: Mapping[str, str]) -> None:
    """Refuse values for keys that follow another key: they would be ignored without a word.

    A value that is null says nothing, as in what `--print_config` prints.

    Args:
        arguments: Options of a command line; the files after `--config` or `-c` are read.
        decided_by: Dotted key -> the key to set instead.
    """
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        value = value if equals else [*arguments[number + 1 :], ""][0]
        decisive = decided_by.get(name.removeprefix("--")) if name.startswith("--") else None
        if decisive and value not in NULLS:
            raise ValueError(f"{name} follows {decisive}: set --{decisive} instead")
        if name in CONFIG_OPTIONS:
            _reject_decided_values_in(Path(value), decided_by)


def _reject_decided_values_in(path: Path, decided_by: Mapping[str, str]) -> None:
    content = read_config_file(path)
    for target, decisive in decided_by.items():
        group, _, key = target.rpartition(".")
        values = content.get(group) if isinstance(content, dict) and group else content
        if isinstance(values, dict) and values.get(key) is not None:
            raise ValueError(f"{path}: {target} follows {decisive}: set {decisive} instead")


def read_config_file(path: Path) -> Any:
    """Return the content of a `--config` file.

    Raises:
        ValueError: It is missing, no YAML, or has a key twice.
    """
    from data_prep.command import read_yaml

    if not path.exists():
        raise ValueError(f"--config {path}: no such file")
    return read_yaml(path)
