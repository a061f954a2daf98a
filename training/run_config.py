"""Where a run writes, how it is tracked, when it saves and what stops it: options of `fit`."""

import math
from dataclasses import dataclass
from pathlib import Path

from training.interruption import signal_named
from training.tracking import RECORD_FILE, TrackingConfig, check_run_name


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrackingConfig):
    """Folder, tracking and reporting interval of one run."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Replace an earlier run of the same name, once everything that can be checked before the first
    step is right; runs whose names begin with this one's stay. Otherwise it is continued (see
    --resume)."""
    eval_every_n_steps: int = 1000
    """Optimiser steps between two validations, each followed by a checkpoint and a plot; > 0."""
    peak_tflops: float = 0.0
    """Rate of matrix products of one device, in 10^12 operations per second, that `train/mfu` is a
    share of; 0: from the data sheet of a known GPU, else measured for 0.1 s at the start."""
    auto_precision: bool = False
    """Choose bf16-mixed where the device has bfloat16 matrix units and 32-true elsewhere; only
    where trainer.precision is not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_run_name(self.name)
        if self.eval_every_n_steps < 1:
            raise ValueError(f"eval_every_n_steps must be > 0, got {self.eval_every_n_steps}")
        if not 0 <= self.peak_tflops < math.inf:
            raise ValueError(
                f"run.peak_tflops must be 0 (find out) or more, got {self.peak_tflops}"
            )

    @property
    def folder(self) -> Path:
        """`<root>/<name>`."""
        return Path(self.root) / self.name


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
    asynchronous: bool = False
    """Write in the background, from a copy in the host's memory, while training goes on."""

    def __post_init__(self) -> None:
        if self.every_n_minutes < 0 or self.every_n_steps < 0:
            raise ValueError(
                f"checkpoints.every_n_minutes ({self.every_n_minutes}) and every_n_steps "
                f"({self.every_n_steps}) must be 0 (off) or more"
            )
        if self.keep_last < 1:
            raise ValueError(f"checkpoints.keep_last must be at least 1, got {self.keep_last}")


@dataclass(frozen=True, kw_only=True)
class PreemptionConfig:
    """What asks a run to stop with a checkpoint; it then ends with exit code 75."""

    signals: tuple[str, ...] = ("SIGTERM", "SIGUSR1")
    """Signals that ask for it, to any rank or to all. Ctrl-C (SIGINT) always does."""
    poll_every_n_steps: int = 10
    """Optimiser steps (or validation batches) after which several ranks ask each other; > 0."""
    requeue: bool = False
    """Under SLURM: put the job back into the queue after the checkpoint is saved."""

    def __post_init__(self) -> None:
        if self.poll_every_n_steps < 1:
            raise ValueError(
                f"preemption.poll_every_n_steps must be > 0, got {self.poll_every_n_steps}"
            )
        for name in self.signals:
            signal_named(name)


METRICS_FILE = "metrics.jsonl"
CONFIG_KEY = "ponet_run"
"""Where a checkpoint keeps the configuration of its run."""
EVENTS_FILE = "events.jsonl"
SKIPPED_FILE = "skipped_windows.json"
CONFIG_FILE = "run_config.yaml"
CURVES_FILE = "curves.png"
BUNDLE_FOLDER = "bundle"
CHECKPOINT_FOLDER = "checkpoints"
EVALUATIONS_FILE = "evaluations.jsonl"
PREDICTIONS_FILE = "predictions-rank{rank}.jsonl"
STUDY_FILE = "study.json"
RUN_FILES = (
    *(METRICS_FILE, EVENTS_FILE, SKIPPED_FILE, CONFIG_FILE, CURVES_FILE),
    *(BUNDLE_FOLDER, CHECKPOINT_FOLDER, EVALUATIONS_FILE, PREDICTIONS_FILE.format(rank="*") + "*"),
    *("wandb", RECORD_FILE, STUDY_FILE),
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""
