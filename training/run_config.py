"""Where a run writes, how it is tracked, when it saves and what stops it: options of `fit`."""

import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from training.interruption import signal_named

_MOST_TAG, _MOST_GROUP = 64, 128
_RULES: Mapping[str, Callable[[float], bool]] = {
    "> 0": lambda value: value > 0,
    ">= 0": lambda value: value >= 0,
    ">= 1": lambda value: value >= 1,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
    "in (0, 1]": lambda value: 0 < value <= 1,
}


def check_numbers(config: object, rule: str, *names: str, group: str = "") -> None:
    """Refuse the numbers of a configuration that are not finite, or not as a rule says.

    Raises:
        ValueError: Names the first one, the rule and the value.
    """
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and _RULES[rule](value)):
            raise ValueError(f"{group}{name} must be {rule}, got {value}")


def largest_divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of a batch size that a micro-batch may have."""
    return next(size for size in range(min(number, max(at_most, 1)), 0, -1) if number % size == 0)


def check_gradient_clip(value: float | None) -> None:
    """Refuse a `trainer.gradient_clip_val` below 0, which Lightning's Trainer takes.

    Args:
        value: As given; None: not given.

    Raises:
        ValueError: Names the value and what is allowed.
    """
    if value is not None and not value >= 0:
        raise ValueError(
            f"trainer.gradient_clip_val is {value}: give the largest norm of a gradient, above 0, "
            "or 0 for no clipping"
        )


def check_run_name(name: str) -> None:
    """Refuse the name of a run that is no folder below the root of the runs.

    Letters of any script will do, with their marks, in either of Unicode's forms.

    Raises:
        ValueError: Says what is wrong with it.
    """
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise ValueError(
            f"run.name {ascii(name)} has letters that Python cannot read in this locale; set "
            "LC_ALL=C.UTF-8 or PYTHONUTF8=1, or use a name of ASCII letters"
        )
    parts = name.split("/")
    if not all(part and all(map(_is_of_name, part)) for part in parts) or {".", ".."} & set(parts):
        raise ValueError(
            f"run.name {name!r} is not a folder name: use letters, digits, '.', '_', '-' and '/' "
            "between them"
        )


def _is_of_name(letter: str) -> bool:
    return letter.isalnum() or letter in "._-" or unicodedata.category(letter).startswith("M")


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """Where a run writes."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Replace an earlier run of the same name, once everything that can be checked before the first
    step is right; runs whose names begin with this one's stay. Otherwise it is continued, or an
    error where it cannot be."""

    def __post_init__(self) -> None:
        check_run_name(self.name)

    @property
    def folder(self) -> Path:
        """`<root>/<name>`."""
        return Path(self.root) / self.name


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunPlace):
    """Folder and tracking of one run; what trains adds its own options."""

    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the names of all that such a run has in its folder."""
    job_type: ClassVar[str] = ""
    """What W&B calls such a run."""
    label_keys: ClassVar[tuple[str, ...]] = ()
    """Settings that name a configuration, and with it its group in W&B."""
    not_in_group: ClassVar[tuple[str, ...]] = ()
    """Settings in which the runs of one configuration may differ besides the seed."""

    auto_precision: bool = False
    """Choose bf16-mixed where the device multiplies bfloat16 much faster, and 32-true elsewhere;
    only where trainer.precision is not given. A run that goes on keeps the one it began with."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases: off (nothing is imported or written), offline (kept in the run's folder;
    `wandb sync` uploads it later) or online."""
    wandb_project: str = "ponet"
    """W&B project."""
    wandb_group: str = ""
    """W&B group; empty: one group for all seeds of a configuration, named after it."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags, each of 1 to 64 characters, as a list: [baseline, long]."""
    wandb_artifacts: bool = False
    """Give W&B the artifacts of the run: the trained model or the scores, and the manifest of the
    data (never the data itself). Offline, the model's files are read when the run is synced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for tag in self.wandb_tags:
            if not 1 <= len(tag) <= _MOST_TAG:
                raise ValueError(
                    f"run.wandb_tags holds a tag of {len(tag)} characters: {tag!r}; W&B takes 1 to "
                    f"{_MOST_TAG}"
                )
        if len(self.wandb_group) > _MOST_GROUP:
            raise ValueError(
                f"run.wandb_group has {len(self.wandb_group)} characters; W&B takes up to "
                f"{_MOST_GROUP}: give a shorter one"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When a run saves, and what it keeps. It always saves when it ends or is stopped."""

    every_n_minutes: float = 10.0
    """Minutes between two checkpoints; 0: no checkpoints by time."""
    every_n_steps: int = 0
    """Optimiser steps between two checkpoints; 0: no checkpoints by steps."""
    every_epoch: bool = False
    """Save at the end of every epoch."""
    at_validation: bool = True
    """Save after every validation; the best one is chosen among these."""
    keep_last: int = 2
    """How many of the newest checkpoints are kept, at least 1; the best one is kept besides."""
    keep_every_n_steps: int = 0
    """Save what a run begins with, step 0, and every so many optimiser steps, and keep these for
    good (`python -m ponet export --revisions` takes them to the Hub); 0: none."""
    asynchronous: bool = False
    """Write in the background, from a copy in the host's memory, while training goes on."""

    def __post_init__(self) -> None:
        whole = ("every_n_steps", "keep_every_n_steps")
        check_numbers(self, ">= 0", "every_n_minutes", *whole, group="checkpoints.")
        check_numbers(self, "> 0", "keep_last", group="checkpoints.")


@dataclass(frozen=True, kw_only=True)
class PreemptionConfig:
    """What asks a run to stop with a checkpoint; it then ends with exit code 75."""

    signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1")
    """Signals that ask for it, to any rank or to all. Ctrl-C (SIGINT) always does."""
    poll_every_n_steps: int = 10
    """Optimiser steps (or validation batches) after which several ranks ask each other; > 0."""
    requeue: bool = False
    """Under SLURM: put the job back into the queue after the checkpoint is saved; not by Ctrl-C."""

    def __post_init__(self) -> None:
        check_numbers(self, "> 0", "poll_every_n_steps", group="preemption.")
        for name in self.signals:
            signal_named(name)


METRICS_FILE = "metrics.jsonl"
RECORD_FILE = "wandb_runs.json"
CONFIG_KEY = "ponet_run"
"""Where a checkpoint keeps the configuration of its run."""
EVENTS_FILE = "events.jsonl"
SKIPPED_FILE = "skipped_windows.json"
CONFIG_FILE = "run_config.yaml"
CURVES_FILE = "curves.png"
BUNDLE_FOLDER = "bundle"
CLASSIFIER_FOLDER = "classifier"
CHECKPOINT_FOLDER = "checkpoints"
EVALUATIONS_FILE = "evaluations.jsonl"
PREDICTIONS_FILE = "predictions-rank{rank}.jsonl"
NEEDLES_FILE = "needles-rank{rank}.json"
STUDY_FILE = "study.json"
RESULT_FILE = "result.json"
"""What a fit on a task came to."""
TRIAL_FILE = "trial.json"
"""Record of a trial of a sweep or grid."""
TRIAL_CONFIG_FILE = "trial.yaml"
"""Options of the fit of a grid's trial."""
