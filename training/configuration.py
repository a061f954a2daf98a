"""A resolved configuration as flat settings, and what makes two runs the same configuration.

Invariant: pure functions; two runs with equal `relevant` settings differ at most in their seed and
in where and how often they write.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_CLASS, _INIT = "class_path", "init_args"
IRRELEVANT = (
    "seed_everything",
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
    "verbose",
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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; the keys are the names of the flags that set them.

    A class stands under the key of its flag, its arguments below it.

    Args:
        config: Nested mapping, as read from run_config.yaml.
        prefix: What the keys begin with.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = prefix if name in (_CLASS, _INIT) and prefix else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, key)
        elif value or key != prefix:  # a class without arguments stays under its key
            flat[key] = value
    return flat


def relevant(settings: Mapping[str, Any], *, also_without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings that can change a result, the seed aside.

    Args:
        settings: As `flatten` returns them.
        also_without: Further keys or groups to leave out, for instance the fold.
    """
    groups = (*IRRELEVANT, *also_without)
    return {key: value for key, value in settings.items() if not _is_below(key, groups)}


def _is_below(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(group + ".") for group in groups)


def configuration_name(
    settings: Mapping[str, Any], *, label_keys: Sequence[str], also_without: Iterable[str] = ()
) -> str:
    """Return a name that the runs of one configuration share, whatever their seeds and folders.

    Args:
        settings: As `flatten` returns them.
        label_keys: Settings that the name shows; those that are not there are passed over.
        also_without: See `relevant`.

    Returns:
        Such as `ponet-mlm_sso-1f3a09c2`: the shown values, and 8 hex digits over all settings.
    """
    kept = relevant(settings, also_without=also_without)
    text = json.dumps(kept, sort_keys=True, default=str)
    words = [_short(settings[key]) for key in label_keys if settings.get(key)]
    return "-".join([*words, hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]])


def _short(value: Any) -> str:
    """Return the last part of a path or class path, in a few characters."""
    text = str(value).rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    if text.endswith("Config"):
        text = text.removesuffix("Config").lower()
    return text[:32]
