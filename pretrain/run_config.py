"""The `run.*` options that a pretraining run adds, and the files that it writes."""

import math
from dataclasses import dataclass
from typing import ClassVar

from training import run_config
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    CURVES_FILE,
    EVALUATIONS_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    SKIPPED_FILE,
    STUDY_FILE,
)

RUN_FILES = (
    *(METRICS_FILE, EVENTS_FILE, SKIPPED_FILE, CONFIG_FILE, CURVES_FILE),
    *(BUNDLE_FOLDER, CHECKPOINT_FOLDER, EVALUATIONS_FILE, PREDICTIONS_FILE.format(rank="*") + "*"),
    *("wandb", RECORD_FILE, STUDY_FILE),
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(run_config.RunConfig):
    """Folder, tracking and reporting interval of one run."""

    files: ClassVar[tuple[str, ...]] = RUN_FILES
    job_type: ClassVar[str] = "pretrain"
    label_keys: ClassVar[tuple[str, ...]] = ("model.encoder", "model.objective")

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
        if self.eval_every_n_steps < 1:
            raise ValueError(f"eval_every_n_steps must be > 0, got {self.eval_every_n_steps}")
        if not 0 <= self.peak_tflops < math.inf:
            raise ValueError(
                f"run.peak_tflops must be 0 (find out) or more, got {self.peak_tflops}"
            )
