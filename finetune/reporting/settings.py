"""The settings of a fit in a few words.

Invariant: what differs between the fits of a task stands beside each number, the rest is said once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.reporting.runs import Run

ALWAYS = ("lr", "batch_size")
"""Settings that stand beside every number, searched or not."""
_WORDS: dict[str, Callable[[Any], str]] = {
    "lr": lambda value: f"lr {value:g}",
    "batch_size": lambda value: f"batch {value}",
    "epochs": lambda value: "1 epoch" if value == 1 else f"{value} epochs",
    "max_len": lambda value: f"length {value:,}",
    "warmup_share": lambda value: f"warm-up {100 * value:g} %" if value else "no warm-up",
    "schedule": lambda value: f"{value} schedule",
    "weight_decay": lambda value: f"weight decay {value:g}" if value else "no weight decay",
    "dropout_prob": lambda value: f"dropout {value:g}",
    "gradient_clip": lambda value: f"clip {value:g}" if value else "no clip",
    "class_weights": lambda value: f"class weights {value}",
}


def searched_names(runs: Sequence[Run]) -> list[str]:
    """Learning rate, batch size, and every other setting in which the runs of a task differ."""
    settings = [dict(run.setting) for run in runs]
    varied = [name for name in settings[0] if len({found[name] for found in settings}) > 1]
    return [*ALWAYS, *(name for name in varied if name not in ALWAYS)]


def setting_text(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some settings, such as `lr 0.0003, batch 32`; unknown ones are called so."""
    return ", ".join(_words(name, setting[name]) for name in names)


def shared_text(runs: Sequence[Run]) -> str:
    """The settings all runs of a task have in common, without those that tables name elsewhere."""
    searched, setting = searched_names(runs), dict(runs[0].setting)
    names = [n for n in _WORDS if n not in searched and setting.get(n) is not None]
    return setting_text(setting, names)


def _words(name: str, value: Any) -> str:
    if value is None:
        return f"{name} unknown"
    return _WORDS[name](value) if name in _WORDS else f"{name} {value}"
