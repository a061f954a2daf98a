"""The `run.*` options that a fit on a task adds, its files, and what an earlier start left there.

Invariant: a run never goes on with other settings, data or weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from training import run_config
from training.configuration import INPUTS_FILE, RUN_PARTS, changed_inputs, flatten
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CLASSIFIER_FOLDER,
    CONFIG_FILE,
    EVALUATIONS_FILE,
    METRICS_FILE,
    RECORD_FILE,
    RESULT_FILE,
)
from training.run_folder import own_files

RESUME_FOLDER = "resume"
"""What an unfinished fit goes on from."""
RUN_FILES = (
    *(CONFIG_FILE, METRICS_FILE, RESULT_FILE, INPUTS_FILE, EVALUATIONS_FILE),
    *(RESUME_FOLDER, CLASSIFIER_FOLDER, f".{CLASSIFIER_FOLDER}.*", "wandb", RECORD_FILE),
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""
FREE = (
    *("run", "config", "max_time", "model.gradient_checkpointing"),
    *(f"data.{name}" for name in ("num_workers", "eval_batch_size", "micro_batch_size")),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "logger",
                                     "default_root_dir", "enable_progress_bar",
                                     "log_every_n_steps")),
)  # fmt: skip
"""Settings, and groups of them, that may differ when a run goes on: none changes what is learnt."""
_DEALT_BY = ("kind", "text", "text_pair", "label")
"""What decides, beside the rows themselves, into which fold of own files a row falls."""
State = Literal["nothing", "unfinished", "finished"]


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
    scored: str = ""
    """Classifier that `validate` and `test` score in the place of the run's own: the folder of one
    with 8-bit weights, say, as `ponet export` writes it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run_config.check_numbers(self, ">= 0", "save_every_n_minutes", group="run.")

    @property
    def classifier(self) -> Path:
        """Folder of the best classifier."""
        return self.folder / CLASSIFIER_FOLDER

    @property
    def evaluated(self) -> Path:
        """Folder of the classifier that an evaluation scores."""
        return Path(self.scored) if self.scored else self.classifier


def check_kind(folder: Path) -> None:
    """Refuse the folder of a pretraining run."""
    for name in (BUNDLE_FOLDER, CHECKPOINT_FOLDER):
        if (folder / name).exists():
            raise ValueError(
                f"{folder} is a pretraining run (it holds {name}/); give another "
                "--run.name or --run.root"
            )


def check_is_fit(folder: Path) -> None:
    """Refuse to score what is no fit on a task, by its configuration."""
    stored = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    data = stored.get("data") or {}
    if "model" not in stored or "task" not in data or "mode" in data:
        raise ValueError(
            f"{folder} is no run of `finetune fit`, which alone are scored here; result.json of a "
            "baseline and of `lra fit` has all scores, and pretraining runs have `pretrain "
            "validate`"
        )


def check_cut(folder: Path, data: Any) -> None:
    """Refuse to score a run on rows that another cut of its own rows takes out: it has learnt them.

    Args:
        folder: Of the run.
        data: The `data.*` options of the evaluation, by attribute.
    """
    stored = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))["data"]
    names = ["num_folds", "fold", "repeat"]
    if data.validation_fraction and _are_one(data.train, stored.get("train")):
        names.append("validation_fraction")
    if stored.get("num_folds"):
        names += _DEALT_BY
    for name in names:
        given, known = getattr(data, name), stored.get(name, 0)
        if given != known:
            raise ValueError(
                f"data.{name} is {given}, but {folder} was trained with {known}: rows that it was "
                "trained on would be scored; leave it out"
            )
    what = "the train file"
    if data.num_folds and changed_inputs(folder, moved={what: Path(data.train)}, of=what):
        raise ValueError(
            f"data.train: {data.train} does not hold what {folder} was trained on. Other rows make "
            "other folds, so rows that it was trained on would be scored; give the file as it was, "
            "or label new texts by `predict`"
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
    run_config.check_gradient_clip(trainer.gradient_clip_val)


def earlier_run(
    run: run_config.RunPlace,
    settings: Mapping[str, Any],
    *,
    defaults: Callable[[], Mapping[str, Any]] = dict,
) -> State:
    """Return what stands in the run's folder and can go on; nothing is changed there.

    Args:
        run: The run.
        settings: Its resolved configuration of now, nested.
        defaults: Returns the configuration of a run without options: what options that the earlier
            run's version did not have stood at, as it were.

    Raises:
        ValueError: A run that must not be replaced and cannot go on.
    """
    if run.overwrite or not own_files(run.folder, own=RUN_FILES):
        return "nothing"
    how = "give another --run.name, or --run.overwrite true to replace it"
    if not (run.folder / CONFIG_FILE).is_file():
        raise ValueError(f"{run.folder} holds an earlier run; {how}")
    stored = yaml.safe_load((run.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    changes = [*differences(stored or {}, settings), *changed_inputs(run.folder)]
    if changes:
        known = differences(stored or {}, settings, defaults=defaults())
        changes = [*known, *changed_inputs(run.folder)]
    if changes:
        raise ValueError(
            f"{run.folder} holds an earlier run, which this one cannot go on from: "
            f"{'; '.join(changes[:3])}. Either {how}"
        )
    return "finished" if (run.folder / RESULT_FILE).is_file() else "unfinished"


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], *, defaults: Mapping[str, Any] = {}
) -> list[str]:
    """Return the settings that differ, in words; those of `FREE` do not count.

    Nor do options that are not stored and stand at their default.
    """
    first, second = flatten(stored), flatten(wanted)
    usual = flatten(defaults)
    second = {k: v for k, v in second.items() if k in first or k not in usual or v != usual[k]}
    return [
        f"{name} was {first.get(name, 'not given')}, is {second.get(name, 'not given')}"
        for name in sorted({*first, *second})
        if not any(f"{name}.".startswith(f"{free}.") for free in FREE)
        and not _are_one(first.get(name), second.get(name))
    ]


def _are_one(first: Any, second: Any) -> bool:
    """Return whether two settings are equal, or name one place; a run is where its bundle lies."""
    if first == second:
        return True
    if not (isinstance(first, str) and isinstance(second, str)):
        return False
    if not (Path(first).exists() and Path(second).exists()):
        return False
    places = [Path(value).resolve() for value in (first, second)]
    runs = [place.parent if place.name in RUN_PARTS else place for place in places]
    return runs[0] == runs[1]
