"""What the commands share: dispatch and exit codes, flat options, and what YAML files may set.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback; help
and dispatch import neither torch nor a parser.
"""

import argparse
import contextlib
import difflib
import importlib
import inspect
import os
import re
import sys
import textwrap
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from data_prep.command import (
    EXIT_MISTAKE,
    field_help,
    filled,
    load_yaml,
    mistake,
    read_yaml,
)
from data_prep.files import is_disk_full
from data_prep.stopping import sigterm_interrupts, stopped_by
from training.interruption import EXIT_STORAGE, RunInterrupted, end_workers

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Whoever sets one of these has decided how threads of OpenMP wait."""
SPINS = "1000"
"""Of GNU's OpenMP, whose default spins for milliseconds; some microseconds."""

_STOP_THEMSELVES = ("grid", "lra", "sweep", "trial", "tune")
"""Commands that train, or start what does: they end at a signal with what was reached."""
ConfigT = TypeVar("ConfigT")


def run_main(
    program: str,
    argv: Sequence[str] | None,
    *,
    help: str,
    trains: tuple[str, Sequence[str]],
    commands: Mapping[str, str],
) -> int:
    """Run one command of a program; returns its exit code.

    Args:
        program: For instance `ponet-pretrain`.
        argv: Command and options; None: those of the process.
        help: What `--help` prints.
        trains: `module:function` of the commands that need Lightning, and their names; it is called
            with the whole command line and `started`, the time at which the command was.
        commands: Other commands: name -> `module:function`, called with the options.
    """
    started = time.monotonic()
    wait_briefly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help, end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        command, target = arguments[0], trains[0]
        if command in trains[1]:
            announce(program, arguments)
            return _code(_found(target)(arguments, started=started))
        if command in commands:
            handled = (
                contextlib.nullcontext() if command in _STOP_THEMSELVES else sigterm_interrupts()
            )
            with handled:
                return _code(_found(commands[command])(arguments[1:]))
        known = ", ".join((*trains[1], *commands))
        raise ValueError(f"unknown command {command!r}; the commands are {known}")
    except RunInterrupted as stopped:
        return _end(stopped)
    except KeyboardInterrupt as stop:
        what, code = stopped_by(stop)
        print(f"stopped by {what}", file=sys.stderr)
        return code
    except (ValueError, OSError) as error:
        code = mistake(error)
        return EXIT_STORAGE if isinstance(error, OSError) and is_disk_full(error) else code


def _found(target: str) -> Callable[..., object]:
    module, _, name = target.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


def _code(returned: object) -> int:
    return returned if isinstance(returned, int) else 0


def _end(stopped: RunInterrupted) -> int:
    """Say why a run ended early; the exit code.

    A rank that Lightning itself started ends with 0: at any other code Lightning would kill the
    first rank, which has yet to end with the real one.
    """
    end_workers(patience_s=5.0)
    if os.environ.get("LOCAL_RANK", "0") != "0" and stopped.launched_by_lightning:
        return 0
    print(f"stopped: {stopped.reason}", file=sys.stderr)
    return stopped.exit_code


def wait_briefly() -> None:
    """Let threads that wait spin for a moment and then sleep, here and in processes started here.

    Two threads that spin beside other programs keep the cores from the very threads that they wait
    for. A short spin keeps the speed of a quiet machine, which sleeping at once does not
    (`python -m benchmarks.busy_machine`, docs/results/busy_machine.json). It has no effect once
    torch is imported, because OpenMP reads its settings when it is loaded.
    """
    if not any(name in os.environ for name in DECIDED_BY):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def announce(program: str, arguments: Sequence[str]) -> None:
    """Say on stderr what a command is busy with before it can say more; on the first rank."""
    if "torch" in sys.modules:
        return
    is_first = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
    if is_first and not {"-h", "--help"} & set(arguments):
        text = f"{program} {arguments[0]}: loading PyTorch and Lightning, which takes some seconds"
        print(text, file=sys.stderr, flush=True)


CONFIG_OPTIONS = ("-c", "--config")
NULLS = ("null", "None", "~")
"""Words of a command line that stand for no value; `None` is what W&B's agent writes."""

_UNKNOWN = re.compile(
    r"unrecognized arguments: --(?P<option>[^\s=]+)"
    r"|(?:(?:Subcommand|Group) '(?P<group>[^']+)' does not accept option|Option) '(?P<key>[^']+)'"
)
_OWN_METRICS = ("pytorch_lightning", "pretrain", "finetune", "training")


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
    last = given.rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == last]  # in another group
    near = difflib.get_close_matches(given, same or names, n=1, cutoff=0.0 if same else 0.75)
    dashes = "--" if found["option"] else ""
    return f"{message}; did you mean {dashes}{near[0]}?" if near else message


def parse_options(
    config_class: type[ConfigT],
    arguments: Sequence[str],
    *,
    program: str,
    aliases: Mapping[str, str] | None = None,
    repeated: Sequence[str] = (),
    positional: str = "",
) -> ConfigT:
    """Return a flat dataclass from options and `--config` files; the later one wins.

    Args:
        config_class: Its fields are the options, their docstrings the help. An option of several
            values has them all behind it, or a list, `[a, b]`; `--dry-run` is `--dry_run` too, and
            a yes-or-no option alone means yes; of a mapping or a dataclass a part may be given,
            `--fit.a.b 3`.
        arguments: What stands after the command.
        program: The command, for help and messages.
        aliases: Another name of an option -> its field.
        repeated: Options of several values that may be repeated; beside a positional one, which
            could stand behind them, they are, with one value each.
        positional: The option that is given without its name, once or, if it is a repeated one,
            more often; there is no `--config` then.
    """
    kinds, words = typing.get_type_hints(config_class), list(arguments)
    given, seen = dict[str, Any](), dict[str, list[str]]()
    if {"-h", "--help"} & set(words):
        print(_help(config_class, program, positional))
        raise SystemExit(0)
    known = f"({program} --help lists the options)"
    while words:
        word, name, path, values = words.pop(0), "", [], list[Any]()
        if word[:2] == "--":
            name, equals, text = word[2:].partition("=")
            name, *path = name.split(".")
            name = (aliases or {}).get(name, name.replace("-", "_"))
            is_list = typing.get_origin(kinds.get(name)) is tuple
            takes_all = is_list and not (name in repeated and positional)
            values = [text] if equals else _values_behind(words, at_most=None if takes_all else 1)
            values = _in_brackets(values) if is_list else values
        elif positional and (positional not in given or positional in repeated):
            name, values, is_list = positional, [word], positional in repeated
        if not name:
            raise ValueError(f"{word!r} is not understood {known}")
        if not values and kinds.get(name) is not bool:
            raise ValueError(f"{word} has no value {known}")
        if name == "config" and not positional:
            given = merged(given, _file_values(Path(values[0]), kinds))
            continue
        seen[name] = [*seen.get(name, ()), *values] if name in repeated else values
        value: Any = seen[name] if is_list else (values or ["true"])[0]
        if path and isinstance(value, str) and not is_dataclass(kinds.get(name)):
            value = load_yaml(value)
        for key in reversed(path):
            value = {key: value}
        given = merged(given, {name: value})
    if positional:
        _check_given(config_class, given, program, positional)
    return filled(config_class, given)


def _check_given(
    config_class: type[Any], given: Mapping[str, Any], program: str, positional: str
) -> None:
    """Refuse a command that reads no YAML file and lacks what it needs; says how it is given."""
    for item in fields(config_class):
        if item.default is item.default_factory is MISSING and item.name not in given:
            name = item.name
            how = name.upper() if name == positional else f"--{name} VALUE"
            raise ValueError(f"{program} needs {how} ({program} --help lists the options)")


def _values_behind(words: list[str], *, at_most: int | None) -> list[str]:
    """Take the values of an option off what stands behind it."""
    number = next((place for place, word in enumerate(words) if word[:2] == "--"), len(words))
    values = words[:number][:at_most]
    del words[: len(values)]
    return values


def _in_brackets(words: list[str]) -> list[Any]:
    """The values of a list that is written as in YAML and JSON; other words as they are."""
    text = " ".join(words)
    with contextlib.suppress(ValueError):
        if text.startswith("[") and isinstance(values := load_yaml(text), list):
            return values
    return words


def _file_values(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a `--config` file; one value of a list is a list."""
    content = read_config_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no options; give a mapping of {', '.join(kinds)}")
    lists = [key for key in content if typing.get_origin(kinds.get(key)) is tuple]
    single = {key: [content[key]] for key in lists if not isinstance(content[key], list)}
    return {key: value for key, value in {**content, **single}.items() if content[key] is not None}


def _help(config_class: type[Any], program: str, positional: str) -> str:
    lines = [f"usage: {program} {positional.upper()} [options]".replace("  ", " "), ""]
    lines += [inspect.getdoc(config_class) or "", ""]
    lines += [] if positional else ["  --config", "      YAML file with any of these options."]
    for name, item, text in _options(config_class):
        is_required = item.default is MISSING and item.default_factory is MISSING
        is_empty = item.default in (MISSING, "", (), Path())
        default = " (required)" if is_required else "" if is_empty else f" (default {item.default})"
        lines.append(f"  {'' if name == positional else '--'}{name}{default}")
        lines.append(textwrap.indent(textwrap.fill(text, 88), "      "))
    return "\n".join(lines)


def _options(config_class: type[Any], start: str = "") -> Iterator[tuple[str, Field[Any], str]]:
    """Name, field and text of every option; the fields of a dataclass stand for it."""
    texts, kinds = field_help(config_class), typing.get_type_hints(config_class)
    for item in fields(config_class):
        if is_dataclass(kinds[item.name]):
            yield from _options(kinds[item.name], f"{start}{item.name}.")
        else:
            yield f"{start}{item.name}", item, texts[item.name]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another laid over it, group by group."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


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
    if not path.exists():
        raise ValueError(f"--config {path}: no such file")
    return read_yaml(path)
