"""The resolved configuration of a run as flat settings, named like the flags of `fit`.

Invariant: two runs with equal `relevant` settings differ at most in their seed and in where they
write.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEED_KEY = "seed_everything"
NOT_STATED = "(not stated)"
_CLASS, _INIT = "class_path", "init_args"
_IRRELEVANT = (
    SEED_KEY,
    "data.seed",
    "run",
    "checkpoints",
    "preemption",
    "resume",
    "data.num_workers",
    "data.verify_shards",
    "config",
    "ckpt_path",
    "max_time",
    "weights_only",
    "trainer.max_time",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.num_sanity_val_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
)
"""Settings, and groups of them, that change where and how often a run writes, and no weight."""

Settings = Mapping[str, Any]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; a class stands under the key of its flag, its arguments below it.

    Args:
        config: Nested mapping, as read from run_config.yaml.
        prefix: What the keys begin with.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = prefix if name in (_CLASS, _INIT) and prefix else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, key)
        else:
            flat[key] = value
    return flat


def relevant(settings: Settings) -> dict[str, Any]:
    """The settings that can change a result, the seed aside."""
    return {key: value for key, value in settings.items() if not _is_below(key, _IRRELEVANT)}


def _is_below(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(group + ".") for group in groups)


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
