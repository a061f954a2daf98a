"""Where a run writes, how it is tracked, whether it looks at the test split: `run.*` options."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_prep.shared.tracking import TrackingConfig
from finetune.artifact import CLASSIFIER_FOLDER

CONFIG_FILE = "run_config.yaml"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
_FOREIGN = ("bundle", "checkpoints")


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrackingConfig):
    """Folder and tracking of one run."""

    name: str = "default"
    """Name of the run; its folder is `<root>/<name>`. Letters, digits, '.', '_', '-' and '/'."""
    root: str = "runs"
    """Folder that holds all runs."""
    overwrite: bool = False
    """Replace an earlier run of the same name; otherwise it is an error."""
    test: bool = True
    """Score the best epoch on the test split, once, after it was chosen; where its labels are
    public."""

    def __post_init__(self) -> None:
        """Check the name, and what W&B would refuse."""
        super().__post_init__()
        parts = self.name.split("/")
        if not all(re.fullmatch(r"[\w.\-]+", part) for part in parts) or {".", ".."} & set(parts):
            raise ValueError(
                f"run.name {self.name!r} is not a folder name: use letters, digits, '.', '_', '-' "
                "and '/' between them"
            )

    @property
    def folder(self) -> Path:
        """`<root>/<name>`."""
        return Path(self.root) / self.name

    @property
    def classifier(self) -> Path:
        """Folder of the best classifier."""
        return self.folder / CLASSIFIER_FOLDER

    def check_free(self) -> None:
        """Refuse a folder that another run uses.

        Raises:
            ValueError: It holds an earlier fine-tuning run that must not be replaced, or
                something else.
        """
        for name in _FOREIGN:
            if (self.folder / name).exists():
                raise ValueError(
                    f"{self.folder} is a pretraining run (it holds {name}/); give another "
                    "--run.name or --run.root"
                )
        used = (CLASSIFIER_FOLDER, METRICS_FILE, RESULT_FILE)
        if not self.overwrite and any((self.folder / name).exists() for name in used):
            raise ValueError(
                f"{self.folder} holds an earlier run; give another --run.name, or "
                "--run.overwrite true"
            )

    def clear(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        for name in (RESULT_FILE, METRICS_FILE, CONFIG_FILE):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.classifier, ignore_errors=True)
