"""Which rows of which task a command works on, as its `data.*` options say.

Invariant: equal options give equal rows, whatever is trained on them.
"""

from dataclasses import dataclass, fields
from typing import Any

from finetune.tasks.folds import stratified_subset, subset
from finetune.tasks.own import OWN_TASK, OwnFiles
from finetune.tasks.registry import TASKS, load_task
from finetune.tasks.spec import LoadedTask, SplitRows, Targets, Wanted

_FOLDS = {"data.fold", "data.repeat"}
_NO_FOLDS = (
    ". Own files have folds with data.num_folds: --data.num_folds 5 cuts the training file into "
    "five. Several seeds on the same files: python -m finetune grid --tasks own --seeds 1 2 3"
)


@dataclass(kw_only=True, eq=False)
class Selection(OwnFiles):
    """The rows of a task by name, or of own files."""

    task: str = OWN_TASK
    """Name of a task (`python -m finetune tasks` lists them), or own: files of your own."""
    folder: str = ""
    """Local copy of the task in its original layout; empty: from the Hugging Face Hub."""
    targets: Targets = "both"
    """What is answered of tagged texts: tags and labels of texts (both), or one of them."""
    languages: str = ""
    """Languages of a task that has several, parted by commas, such as en,de; empty: all."""
    fold: int = 0
    """Which fold is the test split, for tasks with folds and own files with num_folds; from 0."""
    repeat: int = 0
    """Which shuffle the folds are cut from; from 0."""
    max_train_rows: int = 0
    """Train on a fixed stratified subset of so many rows, for quick runs; 0: all."""
    max_eval_rows: int = 0
    """The same for every validation and test split."""

    def check_selection(self) -> None:
        """Refuse what cannot be, and what this task has no use for."""
        for name in ("max_train_rows", "max_eval_rows", "fold", "repeat"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}; 0 or more is needed")
        ignored: dict[str, Any] = {"folder": "", "languages": ""}
        ignored |= {} if self.num_folds else {"fold": 0, "repeat": 0}
        is_tagging = self.kind == "tags"
        if self.task != OWN_TASK:
            ignored = {field.name: field.default for field in fields(OwnFiles)}
            is_tagging = self.task in TASKS and TASKS[self.task].is_tagging
        if not is_tagging:
            ignored |= {"targets": "both", "languages": ""}
        unused = [f"data.{key}" for key, value in ignored.items() if getattr(self, key) != value]
        if unused:
            raise ValueError(
                f"data.task is {self.task}, which has no use for {', '.join(unused)}; leave "
                "it out, or give another data.task" + _NO_FOLDS * bool(_FOLDS & {*unused})
            )

    def load_rows(
        self,
        stage: str,
        *,
        labels: tuple[str, ...] | None = None,
        tags: tuple[str, ...] | None = None,
    ) -> LoadedTask:
        """Return the task with all rows that a stage needs.

        Args:
            stage: As for `load_task`.
            labels: Those of a classifier that is scored; None: those of the training rows.
            tags: Likewise.
        """
        languages = tuple(name.strip() for name in self.languages.split(",") if name.strip())
        return load_task(
            self.task,
            folder=self.folder,
            own=self if self.task == OWN_TASK else None,
            wanted=Wanted(labels=labels, tags=tags, targets=self.targets, languages=languages),
            fold=self.fold,
            repeat=self.repeat,
            stage=stage,
        )

    def used_rows(self, task: LoadedTask) -> dict[str, SplitRows]:
        """Return the rows of every split that are used, where they are limited."""
        most = {name: self.max_eval_rows for name in task.splits} | {"train": self.max_train_rows}
        return {
            name: subset(split, stratified_subset(split.rows, most[name]))
            for name, split in task.splits.items()
        }
