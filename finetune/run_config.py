"""Where a run writes, how it is tracked, whether it looks at the test split: `run.*` options."""

from dataclasses import dataclass
from pathlib import Path

from finetune.artifact import CLASSIFIER_FOLDER
from training.inputs import INPUTS_FILE
from training.tracking import RECORD_FILE, TrackingConfig, check_run_name

CONFIG_FILE = "run_config.yaml"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
RESUME_FILES = "resume-*.ckpt"
EVALUATIONS_FILE = "evaluations.jsonl"
RUN_FILES = (
    *(CONFIG_FILE, METRICS_FILE, RESULT_FILE, INPUTS_FILE, EVALUATIONS_FILE),
    *(f"{RESUME_FILES}*", CLASSIFIER_FOLDER, f".{CLASSIFIER_FOLDER}.*", "wandb", RECORD_FILE),
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""
_FOREIGN = ("bundle", "checkpoints")


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrackingConfig):
    """Folder and tracking of one run."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Replace an earlier run of the same name. Otherwise an unfinished one goes on, and one with
    other settings, data or weights is an error."""
    save_every_n_minutes: float = 10.0
    """Longest time between two saves of what the fit needs to go on, in minutes, >= 0; it is also
    saved after every validation. 0: only then."""
    test: bool = True
    """Score the best epoch on the test split, once, after it was chosen; where its labels are
    public."""

    def __post_init__(self) -> None:
        """Check the name, and what W&B would refuse."""
        super().__post_init__()
        if not self.save_every_n_minutes >= 0:
            raise ValueError(
                f"run.save_every_n_minutes is {self.save_every_n_minutes}; it must be >= 0"
            )
        check_run_name(self.name)

    @property
    def folder(self) -> Path:
        """`<root>/<name>`."""
        return Path(self.root) / self.name

    @property
    def classifier(self) -> Path:
        """Folder of the best classifier."""
        return self.folder / CLASSIFIER_FOLDER

    def check_kind(self) -> None:
        """Refuse the folder of a pretraining run.

        Raises:
            ValueError: It is one.
        """
        for name in _FOREIGN:
            if (self.folder / name).exists():
                raise ValueError(
                    f"{self.folder} is a pretraining run (it holds {name}/); give another "
                    "--run.name or --run.root"
                )
