"""Where a run writes and how it is tracked: the `run.*` options of every command."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Folder, tracking and reporting interval of one run."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Delete an earlier run of the same name first; otherwise that is an error."""
    eval_every_n_steps: int = 1000
    """Optimiser steps between two validations, each followed by a checkpoint and a plot; > 0."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases: off (nothing is imported or written), offline (synced later) or online."""
    wandb_project: str = "ponet"
    """W&B project."""
    wandb_group: str = ""
    """W&B group, for instance one configuration over its seeds; empty: none."""
    auto_precision: bool = False
    """Choose bf16-mixed where the device has bfloat16 matrix units and 32-true elsewhere; only
    where trainer.precision is not given."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*", self.name) or ".." in self.name:
            raise ValueError(
                f"run.name {self.name!r} is not a folder name: use letters, digits, '.', '_', '-' "
                "and '/' between them"
            )
        if self.eval_every_n_steps < 1:
            raise ValueError(f"eval_every_n_steps must be > 0, got {self.eval_every_n_steps}")

    @property
    def folder(self) -> Path:
        """`<root>/<name>`."""
        return Path(self.root) / self.name


METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "run_config.yaml"
CURVES_FILE = "curves.png"
BUNDLE_FOLDER = "bundle"
CHECKPOINT_FOLDER = "checkpoints"
