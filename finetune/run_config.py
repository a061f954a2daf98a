"""The `run.*` options that a fit on a task adds, and the files that it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from training import run_config
from training.configuration import INPUTS_FILE
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CLASSIFIER_FOLDER,
    CONFIG_FILE,
    EVALUATIONS_FILE,
    METRICS_FILE,
    RECORD_FILE,
)

RESULT_FILE = "result.json"
RESUME_FOLDER = "resume"
"""What an unfinished fit goes on from."""
RUN_FILES = (
    *(CONFIG_FILE, METRICS_FILE, RESULT_FILE, INPUTS_FILE, EVALUATIONS_FILE),
    *(RESUME_FOLDER, CLASSIFIER_FOLDER, f".{CLASSIFIER_FOLDER}.*", "wandb", RECORD_FILE),
    "resume-*.ckpt",  # of an earlier version
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(run_config.RunConfig):
    """Folder and tracking of one run."""

    files: ClassVar[tuple[str, ...]] = RUN_FILES
    job_type: ClassVar[str] = "finetune"
    label_keys: ClassVar[tuple[str, ...]] = ("data.task",)
    not_in_group: ClassVar[tuple[str, ...]] = ("data.fold", "data.repeat")

    save_every_n_minutes: float = 10.0
    """Longest time between two saves of what the fit needs to go on, in minutes, >= 0; it is also
    saved after every validation. 0: only then."""
    test: bool = True
    """Score the best epoch on the test split, once, after it was chosen; where its labels are
    public."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run_config.check_numbers(self, ">= 0", "save_every_n_minutes", group="run.")

    @property
    def classifier(self) -> Path:
        """Folder of the best classifier."""
        return self.folder / CLASSIFIER_FOLDER

    def check_kind(self) -> None:
        """Refuse the folder of a pretraining run."""
        for name in (BUNDLE_FOLDER, CHECKPOINT_FOLDER):
            if (self.folder / name).exists():
                raise ValueError(
                    f"{self.folder} is a pretraining run (it holds {name}/); give another "
                    "--run.name or --run.root"
                )


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check_trainer(trainer: Any) -> None:
    """Refuse options of the trainer that could give no result."""
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision is {trainer.precision}; fine-tuning has {', '.join(PRECISIONS)}, "
            "which keep the weights in 32 bits"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained; give 1 or more")
    if trainer.limit_val_batches == 0:
        raise ValueError(
            "trainer.limit_val_batches is 0: no epoch would be validated, so there would be no "
            "best classifier to keep; leave it out, or use --data.max_eval_rows for a quick look"
        )
    if trainer.overfit_batches:
        raise ValueError(
            "trainer.overfit_batches has no effect on the order of the rows here; use "
            "--data.max_train_rows, with the training file as --data.validation"
        )
