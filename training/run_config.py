"""Where a run writes, how it is tracked, when it saves and what stops it: options of `fit`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from training.interruption import signal_named
from training.tracking import TrackingConfig, check_run_name


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrackingConfig):
    """Folder and tracking of one run; what trains adds its own options."""

    files: ClassVar[tuple[str, ...]] = ()
    """Patterns of the names of all that such a run has in its folder."""
    job_type: ClassVar[str] = ""
    """What W&B calls such a run."""
    label_keys: ClassVar[tuple[str, ...]] = ()
    """Settings that name a configuration, and with it its group in W&B."""
    not_in_group: ClassVar[tuple[str, ...]] = ()
    """Settings in which the runs of one configuration may differ besides the seed."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Replace an earlier run of the same name, once everything that can be checked before the first
    step is right; runs whose names begin with this one's stay. Otherwise it is continued, or an
    error where it cannot be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_run_name(self.name)

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
CLASSIFIER_FOLDER = "classifier"
CHECKPOINT_FOLDER = "checkpoints"
EVALUATIONS_FILE = "evaluations.jsonl"
PREDICTIONS_FILE = "predictions-rank{rank}.jsonl"
STUDY_FILE = "study.json"
