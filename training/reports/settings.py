"""Flat settings of several runs beside each other: what differs, and how it is written.

Invariant: an argument of one class is never held against a configuration of another class.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

SEED_KEY = "seed_everything"
NOT_STATED = "(not stated)"

Settings = Mapping[str, Any]


def identity(settings: Settings) -> str:
    """Equal for equal settings, whatever their order and type."""
    return json.dumps(dict(settings), sort_keys=True, default=str)


def differing_keys(configurations: Sequence[Settings]) -> list[str]:
    """Keys whose values differ, among the configurations that can have them at all.

    An argument of a class is not looked for in configurations of another class: PoNet's window
    says nothing about BERT.
    """
    keys = dict.fromkeys(key for settings in configurations for key in settings)
    return [key for key in keys if len(_values(key, configurations)) > 1]


def _values(key: str, configurations: Sequence[Settings]) -> set[str]:
    return {
        shown(settings.get(key, NOT_STATED))
        for settings in configurations
        if key in settings or not _is_of_another_class(key, settings, configurations)
    }


def applies(key: str, settings: Settings, configurations: Sequence[Settings]) -> bool:
    """Whether a configuration can have a setting."""
    return key in settings or not _is_of_another_class(key, settings, configurations)


def _is_of_another_class(key: str, settings: Settings, configurations: Sequence[Settings]) -> bool:
    parts = key.split(".")
    owners = [".".join(parts[:n]) for n in range(1, len(parts))]
    having = [other for other in configurations if key in other]
    return any(
        owner in settings and all(other.get(owner) != settings[owner] for other in having)
        for owner in owners
    )


def shown(value: Any) -> str:
    """A value in short: classes without their module, floats without zeros."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its last words, as many as tell it from the other keys."""
    names = {}
    for key in keys:
        parts = key.split(".")
        lengths = range(1, len(parts) + 1)
        tails = [".".join(parts[-n:]) for n in lengths]
        names[key] = next(
            tail
            for tail in tails
            if tail == key or not any(k != key and ("." + k).endswith("." + tail) for k in keys)
        )
    return names
