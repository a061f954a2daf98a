"""Which rows of which task a command works on, as its `data.*` options say.

Invariant: equal options give equal rows, whatever is trained on them.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from finetune.tasks.folds import stratified_subset, subset
from finetune.tasks.own import OWN_TASK, OwnFiles
from finetune.tasks.registry import load_task
from finetune.tasks.spec import LoadedTask, SplitRows


@dataclass(kw_only=True, eq=False)
class Selection(OwnFiles):
    """The rows of a task by name, or of own files."""

    task: str = OWN_TASK
    """Name of a task (`python -m finetune tasks` lists them), or own: files of your own."""
    folder: str = ""
    """Local copy of the task in its original layout; empty: from the Hugging Face Hub."""
    fold: int = 0
    """Which fold is the test split, for tasks with folds; from 0."""
    repeat: int = 0
    """Which shuffle the folds are cut from; from 0."""
    max_train_rows: int = 0
    """Train on a fixed stratified subset of so many rows, for quick runs; 0: all."""
    max_eval_rows: int = 0
    """The same for every validation and test split."""

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("max_train_rows", "max_eval_rows", "fold", "repeat"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}; 0 or more is needed")
        ignored: dict[str, Any] = {"folder": "", "fold": 0, "repeat": 0}
        if self.task != OWN_TASK:
            ignored = {field.name: field.default for field in fields(OwnFiles)}
        unused = [f"data.{key}" for key, value in ignored.items() if getattr(self, key) != value]
        if unused:
            raise ValueError(
                f"data.task is {self.task}, which has no use for {', '.join(unused)}; leave "
                "it out, or give another data.task"
            )

    def load(self) -> tuple[LoadedTask, LoadedTask]:
        """Return the rows that a fit would use, and all rows where only a subset is used."""
        whole = load_task(
            self.task,
            folder=self.folder,
            own=self if self.task == OWN_TASK else None,
            fold=self.fold,
            repeat=self.repeat,
        )
        used = {name: self._subset(name, split) for name, split in whole.splits.items()}
        return replace(whole, splits=used), whole

    def _subset(self, name: str, split: SplitRows) -> SplitRows:
        most = self.max_train_rows if name == "train" else self.max_eval_rows
        return subset(split, stratified_subset(split.rows, most))
