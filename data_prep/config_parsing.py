"""Plain values to frozen dataclasses, with one clear message for every mistake."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from data_prep import yaml_files

T = TypeVar("T")


class RawText(str):
    """A command-line value whose type is decided by the field that receives it."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping of a YAML file.

    Raises:
        ValueError: No such file, not YAML, a key twice, or not a mapping.
    """
    try:
        content = yaml_files.read_yaml(path)
    except ValueError as error:
        raise ValueError(f"config file {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} must hold `key: value` lines.")
    return content


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested values with dotted keys set; numbers index lists.

    Raises:
        ValueError: A key goes through a value that is no mapping or list.
    """
    result = _copy(values)
    for key, value in overrides.items():
        target: Any = result
        *parents, last = key.split(".")
        for name in parents:
            target = _descend(target, name, key)
        leaf = RawText(value) if isinstance(value, str) else value
        if isinstance(target, list):
            target[_list_index(target, last, key)] = leaf
        else:
            target[last] = leaf
    return dict(result)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _descend(target: Any, name: str, key: str) -> Any:
    if isinstance(target, list):
        child = target[_list_index(target, name, key)]
    else:
        child = target.setdefault(name, {})
    if not isinstance(child, (dict, list)):
        raise ValueError(f"override --{key}: '{name}' is the value {child!r}, it has no parts.")
    return child


def _list_index(target: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(target):
        raise ValueError(
            f"override --{key}: '{name}' must be a number from 0 to {len(target) - 1}, "
            "the place in the list."
        )
    return int(name)


def from_mapping(cls: type[T], values: Any, where: str = "") -> T:
    """Return a dataclass filled from plain values.

    Args:
        cls: A dataclass with typed fields.
        values: Mapping of field names to plain values.
        where: Dotted key of `values`, for messages.

    Raises:
        ValueError: Unknown or missing key, wrong type; names the key, what is allowed, and a
            close match.
    """
    label = f"'{where}'" if where else "the config"
    if not isinstance(values, Mapping):
        raise ValueError(f"{label} is {values!r}, it must be a group of `key: value` lines.")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, cls)) if item.init}
    for key in values:
        if key not in fields:
            raise ValueError(unknown_key(_join(where, key), str(key), sorted(fields)))
    filled = {key: convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    for name, item in fields.items():
        required = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if required and name not in filled:
            raise ValueError(
                f"'{_join(where, name)}' is missing; write it in the YAML file or give "
                f"--{_join(where, name)} VALUE."
            )
    return cls(**filled)


def unknown_key(full: str, key: str, allowed: Sequence[str]) -> str:
    """Return the message for an unknown key, with a close match where there is one."""
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"unknown key '{full}'.{hint} Allowed: {', '.join(allowed)}."


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else str(key)


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return the value as the field's type.

    Raises:
        ValueError: The value has another type; names the key and what is allowed.
    """
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type[Any], hint), value, where)
    if origin is types.UnionType or origin is typing.Union:
        return _convert_union(typing.get_args(hint), value, where)
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint)[0], value, where)
    if hint is str and isinstance(value, str):
        return str(value)
    return _convert_plain(hint, _plain(value), where)


def _convert_plain(hint: Any, plain: Any, where: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if plain not in allowed:
            raise ValueError(_wrong(where, plain, f"one of {', '.join(map(str, allowed))}"))
        return plain
    if hint is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    if hint in (int, bool, float) and type(plain) is hint:
        return plain
    names = {int: "a whole number", bool: "true or false", float: "a number", str: "a text"}
    raise ValueError(_wrong(where, plain, names.get(hint, str(hint))))


def _plain(value: Any) -> Any:
    if not isinstance(value, RawText):
        return value
    try:
        return yaml_files.load_yaml(value)
    except ValueError:
        return str(value)


def _wrong(where: str, value: Any, allowed: str) -> str:
    return f"'{where}' is {value!r}, it must be {allowed}."


def _convert_tuple(item_hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    value = _plain(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError(_wrong(where, value, "a list"))
    return tuple(convert(item_hint, item, f"{where}.{index}") for index, item in enumerate(value))


def _convert_union(members: Sequence[Any], value: Any, where: str) -> Any:
    by_kind = {typing.get_args(typing.get_type_hints(item)["kind"])[0]: item for item in members}
    if isinstance(value, tuple(by_kind.values())):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(_wrong(where, value, "a group of `key: value` lines"))
    kind = _plain(value.get("kind", next(iter(by_kind))))
    if kind not in by_kind:
        raise ValueError(_wrong(f"{where}.kind", kind, f"one of {', '.join(by_kind)}"))
    return from_mapping(by_kind[kind], value, where)
