"""What commands share: YAML that people write, plain values to dataclasses, output that ends well.

Nothing that is given is lost without a word: a key that stands twice is an error, so is an unknown
one; a parser of options would take null for a text and pass over an unknown empty group.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import select
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TextIO, TypeVar

import yaml

EXIT_MISTAKE, EXIT_INTERRUPT = 2, 130
EXIT_PIPE = 141
"""As a shell reports a program that SIGPIPE ended: the reader of its output has gone."""
P = ParamSpec("P")
T = TypeVar("T")

_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+")
_KINDS = {int: "a whole number", bool: "true or false", float: "a number", str: "a text"}


class CommandParser(argparse.ArgumentParser):
    """A parser whose error about an unknown option names the one that is nearest to it."""

    def error(self, message: str) -> NoReturn:
        """End with the message and the option that may have been meant."""
        unknown = re.search(r"unrecognized arguments: (?:.* )?(--[^\s=]+)", message)
        names = [name for action in self._actions for name in action.option_strings]
        given = unknown[1].replace("_", "-") if unknown else ""
        near = difflib.get_close_matches(given, names, n=1)
        super().error(f"{message}; did you mean {near[0]}?" if near else message)


def counted(number: float, what: str) -> str:
    """Return a number with what is counted, `(s)` where a plural ends: "1 step", "2,400 steps"."""
    return f"{number:,.0f} {what.replace('(s)', '' if number == 1 else 's')}"


class _TwiceError(yaml.YAMLError):
    """A key stands twice; YAML itself would keep the last."""


class _Yaml11(yaml.SafeLoader):
    """PyYAML's loader, which takes 1e-4 for a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                places = f"line {lines[name]}" + f" and line {line}" * (line != lines[name])
                raise _TwiceError(f"{key.value!r} stands there twice, in {places}")
            lines[name] = line
        return node


class _Loader(_Yaml11):
    """The same with YAML 1.2's numbers."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def load_yaml(text: str, *, yaml_1_1: bool = False) -> Any:
    """Return the content of a YAML text.

    Args:
        text: One document.
        yaml_1_1: Read 1e-4 as a word, as W&B does.
    """
    try:
        return yaml.load(text, _Yaml11 if yaml_1_1 else _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML ({' '.join(str(error).split())})") from error


def read_yaml(path: str | Path, *, yaml_1_1: bool = False) -> Any:
    """Return the content of a YAML file; a pipe is read like a file.

    Raises:
        ValueError: It cannot be read, is no YAML, or a key stands twice; one line with the path.
    """
    try:
        return load_yaml(Path(path).read_text(encoding="utf-8-sig"), yaml_1_1=yaml_1_1)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 ({error.reason} at byte {error.start})"
    except ValueError as error:
        reason = str(error)
    raise ValueError(f"{path}: {reason}")


def check_keys(text: str) -> None:
    """Refuse a text of which a reader would lose something; what is no YAML is left to it.

    Raises:
        yaml.YAMLError: A key stands twice in a mapping.
    """
    try:
        yaml.compose(text, _Loader)
    except _TwiceError:
        raise
    except yaml.YAMLError:
        pass


def field_help(cls: type) -> dict[str, str]:
    """Return the text under every field of a config class, and the values of a closed choice."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        name = ""
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        for node in getattr(tree.body[0], "body", []):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                found[name] = " ".join(str(node.value.value).split())
                name = ""
    for name, kind in typing.get_type_hints(cls).items():
        if name in found and len(choices := _choices(kind)) > 1:
            found[name] += f" One of {', '.join(map(str, choices))}."
    return found


def _choices(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, also inside of a tuple; none of any other type."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    return sum(map(_choices, typing.get_args(kind)), ())


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values with dotted keys set; numbers index lists."""
    result = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        target: Any = result
        *parents, last = key.split(".")
        for name in parents:
            place = _place(target, name, key)
            target = target.setdefault(name, {}) if place is name else target[place]
            if not isinstance(target, dict | list):
                raise ValueError(f"override --{key}: '{name}' is {target!r}, it has no parts.")
        target[_place(target, last, key)] = value
    return result


def _place(target: Any, name: str, key: str) -> str | int:
    """Return the key of a mapping, or the place in a list."""
    if isinstance(target, dict):
        return name
    if name.isdigit() and int(name) < len(target):
        return int(name)
    raise ValueError(
        f"override --{key}: '{name}' must be a number from 0 to {len(target) - 1}, the place in "
        "the list."
    )


def filled(cls: type[T], values: Any, where: str = "") -> T:
    """Return a dataclass filled from plain values; a text stands for what YAML reads in it.

    Args:
        cls: A dataclass with typed fields.
        values: Mapping of field names to plain values.
        where: Dotted key of `values`, for messages.
    """
    if not isinstance(values, Mapping):
        raise _wrong(where or "the config", values, "a group of `key: value` lines")
    hints = typing.get_type_hints(cls)
    start = f"{where}." if where else ""
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            allowed = ", ".join(sorted(hints))
            raise ValueError(f"unknown key '{start}{key}'.{hint} Allowed: {allowed}.")
    for item in dataclasses.fields(typing.cast(Any, cls)):
        required = item.default is item.default_factory is dataclasses.MISSING
        if required and item.name not in values:
            raise ValueError(
                f"'{start}{item.name}' is missing; write it in the YAML file or give "
                f"--{start}{item.name} VALUE."
            )
    return cls(**{key: _converted(hints[key], values[key], f"{start}{key}") for key in values})


def _converted(hint: Any, value: Any, where: str) -> Any:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return filled(typing.cast(type[Any], hint), value, where)
    if origin is types.UnionType:
        return _one_of(members, value, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is not str and origin is not typing.Literal and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = load_yaml(value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(members[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    is_group = origin is Mapping and isinstance(value, dict)
    if is_group or type(value) is hint or (origin is typing.Literal and value in members):
        return value
    allowed = f"one of {', '.join(members)}" if origin is typing.Literal else "a list"
    raise _wrong(where, value, _KINDS.get(hint, allowed))


def _one_of(classes: Sequence[type[Any]], value: Any, where: str) -> Any:
    """Return the dataclass whose `kind` the value names; the first where it names none."""
    by_kind = {typing.cast(Any, item).kind: item for item in classes}
    kind = value.get("kind", next(iter(by_kind))) if isinstance(value, Mapping) else None
    if kind is not None and kind not in [*by_kind]:  # a list has no hash
        raise _wrong(f"{where}.kind", kind, f"one of {', '.join(by_kind)}")
    return filled(by_kind.get(kind, classes[0]), value, where)


def _wrong(where: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"'{where}' is {value!r}, it must be {allowed}.")


def quiet_output(main: Callable[P, int]) -> Callable[P, int]:
    """Return the main function of a command whose reader may stop reading.

    Characters that the terminal's encoding lacks are shown as question marks.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
                stream.reconfigure(errors="replace")
        try:
            try:
                return main(*args, **kwargs)
            finally:
                if sys.stdout:
                    sys.stdout.flush()
        except OSError as error:
            gone = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
            if not gone and os.environ.get("PONET_TRACEBACK"):
                raise
            if not gone:
                print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
            for stream in gone or [sys.stdout]:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return EXIT_PIPE if gone else EXIT_MISTAKE

    return run


def mistake(error: Exception, begin: str = "error") -> int:
    """Say in one line on stderr what was wrong; returns the exit code.

    With PONET_TRACEBACK, and where nobody reads the output any more, the error is raised again.
    """
    gone = isinstance(error, BrokenPipeError) and any(map(_is_closed, (sys.stdout, sys.stderr)))
    if gone or os.environ.get("PONET_TRACEBACK"):
        raise error
    print(f"{begin}: {' '.join(str(error).split())}", file=sys.stderr)
    return EXIT_MISTAKE


def _is_closed(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
