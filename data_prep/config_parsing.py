"""Plain values to frozen dataclasses, with one clear message for every mistake.

Own code because a parser of options takes null for a text and passes over an unknown empty group.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from data_prep.yaml_files import load_yaml

T = TypeVar("T")

_KINDS = {int: "a whole number", bool: "true or false", float: "a number", str: "a text"}


def with_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values with dotted keys set; numbers index lists.

    Raises:
        ValueError: A key goes through a value that is no mapping or list.
    """
    result = _copy(values)
    for key, value in overrides.items():
        target: Any = result
        *parents, last = key.split(".")
        for name in parents:
            child = _place(target, name, key)
            target = target.setdefault(name, {}) if child is name else target[child]
            if not isinstance(target, dict | list):
                raise ValueError(f"override --{key}: '{name}' is {target!r}, it has no parts.")
        target[_place(target, last, key)] = value
    return dict(result)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _place(target: Any, name: str, key: str) -> str | int:
    """Return the key of a mapping, or the place in a list."""
    if isinstance(target, dict):
        return name
    if not name.isdigit() or int(name) >= len(target):
        raise ValueError(
            f"override --{key}: '{name}' must be a number from 0 to {len(target) - 1}, "
            "the place in the list."
        )
    return int(name)


def filled(cls: type[T], values: Any, where: str = "") -> T:
    """Return a dataclass filled from plain values; a text stands for what YAML reads in it.

    Args:
        cls: A dataclass with typed fields.
        values: Mapping of field names to plain values.
        where: Dotted key of `values`, for messages.

    Raises:
        ValueError: Unknown or missing key, wrong type; names the key, what is allowed, and a
            close match.
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
        if item.default is dataclasses.MISSING and item.name not in values:
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
    if hint is not str and origin is not typing.Literal and isinstance(value, str):
        value = _read(value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(members[0], v, f"{where}.{i}") for i, v in enumerate(value))
    if (origin is typing.Literal and value in members) or type(value) is hint:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if origin is typing.Literal:
        raise _wrong(where, value, f"one of {', '.join(members)}")
    raise _wrong(where, value, _KINDS.get(hint, "a list"))


def _read(text: str) -> Any:
    try:
        return load_yaml(text)
    except ValueError:
        return text


def _one_of(classes: Sequence[type[Any]], value: Any, where: str) -> Any:
    """Return the dataclass whose `kind` the value names; the first where it names none."""
    by_kind = {typing.cast(Any, item).kind: item for item in classes}
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a group of `key: value` lines")
    kind = value.get("kind", next(iter(by_kind)))
    if kind not in by_kind:
        raise _wrong(f"{where}.kind", kind, f"one of {', '.join(by_kind)}")
    return filled(by_kind[kind], value, where)


def _wrong(where: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"'{where}' is {value!r}, it must be {allowed}.")
