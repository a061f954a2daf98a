"""All tasks by name, and the one way to load them.

Invariant: what a split is (carved, folded, as published) is decided here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.tasks.folds import carve, fold_splits, without_duplicates
from finetune.tasks.glue import GLUE_TASKS
from finetune.tasks.hub import read_hub
from finetune.tasks.hyperpartisan import HYPERPARTISAN_TASKS
from finetune.tasks.long_documents import LONG_TASKS
from finetune.tasks.own import OwnFiles, load_own
from finetune.tasks.rows import MissingSplit
from finetune.tasks.spec import LoadedTask, SplitRows, TaskSpec

__all__ = ["GLUE", "TASKS", "MissingSplit", "OwnFiles", "load_task", "task_facts", "task_named"]

TASKS: Mapping[str, TaskSpec] = {**GLUE_TASKS, **LONG_TASKS, **HYPERPARTISAN_TASKS}
GLUE: tuple[str, ...] = tuple(GLUE_TASKS)
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
}
"""Stage -> splits that it cannot do without; a fit reads all others too, where they are."""


def task_named(name: str) -> TaskSpec:
    """Return a task.

    Raises:
        ValueError: No task is called so.
    """
    if name not in TASKS:
        raise ValueError(
            f"unknown task {name!r}; allowed: {', '.join(TASKS)}, or own with your own files"
        )
    return TASKS[name]


def task_facts(spec: TaskSpec) -> dict[str, Any]:
    """What a table of results must know of a task; it goes into result.json."""
    names = list(TASKS)
    own_or_long = "Long documents" if spec.name in TASKS else "Own data"
    return {
        "family": "GLUE" if spec.name in GLUE else own_or_long,
        "place": names.index(spec.name) if spec.name in TASKS else len(names),
        "num_folds": spec.num_folds,
        "in_average": spec.name not in GLUE or bool(spec.published),  # papers leave WNLI out
        "published": dict(spec.published),
        "published_source": spec.published_source,
    }


def load_task(
    name: str,
    *,
    folder: str = "",
    own: OwnFiles | None = None,
    fold: int = 0,
    repeat: int = 0,
    splits: Sequence[str] | None = None,
    stage: str = "fit",
) -> LoadedTask:
    """Return a task with its rows.

    Args:
        name: A name of `TASKS`, or "own".
        folder: Local copy in the original layout; empty: the Hub.
        own: The files of "own".
        fold: Which fold is the test split, for a task with folds; the next one is validation.
        repeat: Number of the shuffle before the folds are dealt.
        splits: What to load; None: what the stage needs.
        stage: fit (all there is at that place, with train and validation), validate (the
            validation splits) or test (the test splits, of which there may be none).

    Raises:
        MissingSplit: A split that is asked for, or is needed for the stage, is not there.
        ValueError: An unknown name or split, a fold that does not exist, or a damaged row.
    """
    if name == "own":
        if own is None:
            raise ValueError("the task own needs files: --data.train and --data.validation")
        return _selected(load_own(own, needed=_NEEDED[stage]), splits)
    if own is not None:
        raise ValueError(f"own files belong to the task own, not to {name}; leave one of them out")
    spec = task_named(name)
    _check_fold(spec, fold, repeat)
    if splits is None and stage == "fit" and "train" not in spec.sizes:
        raise ValueError(f"{name} has no training rows: {spec.warning}")
    root = Path(folder).expanduser() if folder else None
    if splits is None and stage != "fit" and (spec.num_folds or spec.carve_validation):
        splits = _NEEDED[stage]
    if spec.num_folds:
        whole = without_duplicates(_read_all(spec, root, needed=("train",)).values())
        parts = fold_splits(whole, num_folds=spec.num_folds, fold=fold, repeat=repeat)
        return _selected(LoadedTask(spec=spec, splits=parts), splits)
    if spec.carve_validation:
        return _selected(_carved(spec, root, splits), splits)
    if splits is None:
        return LoadedTask(spec=spec, splits=_read_for(spec, root, stage))
    loaded = {split: _read(spec, root, _known(spec, split)) for split in splits}
    return LoadedTask(spec=spec, splits=loaded)


def _carved(spec: TaskSpec, root: Path | None, splits: Sequence[str] | None) -> LoadedTask:
    parts: dict[str, SplitRows] = {}
    if splits is None or set(splits) & {"train", "validation"}:
        validation, train = carve(_read(spec, root, "train"), spec.carve_validation)
        parts = {"train": train, "validation": validation}
    if splits is None:
        rest = [split for split in spec.sizes if split != "train"]
        parts |= _read_there(spec, root, rest)
    else:
        others = [split for split in splits if split not in ("train", "validation")]
        parts |= {split: _read(spec, root, _known(spec, split)) for split in others}
    return LoadedTask(spec=spec, splits=parts)


def _check_fold(spec: TaskSpec, fold: int, repeat: int) -> None:
    if not spec.num_folds and (fold or repeat):
        raise ValueError(f"{spec.name} has fixed splits; leave out fold {fold} and repeat {repeat}")
    if spec.num_folds and not (0 <= fold < spec.num_folds and repeat >= 0):
        raise ValueError(
            f"fold {fold}, repeat {repeat}: {spec.name} has the folds 0 to {spec.num_folds - 1} "
            "and repeats from 0"
        )


def _known(spec: TaskSpec, split: str) -> str:
    if split not in spec.sizes:
        raise MissingSplit(f"{spec.name} has no split {split!r}; it has {', '.join(spec.sizes)}")
    return split


def _read(spec: TaskSpec, root: Path | None, split: str) -> SplitRows:
    if root is None:
        return read_hub(spec, split)
    assert spec.read_folder is not None  # every task of TASKS has a layout
    return spec.read_folder(root, split)


def _read_there(spec: TaskSpec, root: Path | None, names: Sequence[str]) -> dict[str, SplitRows]:
    found = {}
    for split in names:
        try:
            found[split] = _read(spec, root, split)
        except MissingSplit:
            continue
    return found


def _read_for(spec: TaskSpec, root: Path | None, stage: str) -> dict[str, SplitRows]:
    """Return the splits of a stage; where test labels are hidden, a test file is never needed."""
    needed = _NEEDED[stage]
    if stage == "fit":
        return _read_all(spec, root, needed=needed)
    if spec.hub and set(needed) & set(spec.hub.unlabelled):
        needed = ()
    return _read_all(spec, root, needed=needed, prefix=_NEEDED[stage][0])


def _read_all(
    spec: TaskSpec, root: Path | None, *, needed: Sequence[str], prefix: str = ""
) -> dict[str, SplitRows]:
    """Return all splits there are whose name begins so; those that are needed must be there."""
    names = [split for split in spec.sizes if split.startswith(prefix)]
    first = {_known(spec, split): _read(spec, root, split) for split in needed}
    rest = _read_there(spec, root, [split for split in names if split not in needed])
    return {split: {**first, **rest}[split] for split in names if split in {**first, **rest}}


def _selected(task: LoadedTask, splits: Sequence[str] | None) -> LoadedTask:
    if splits is None:
        return task
    missing = [split for split in splits if split not in task.splits]
    if missing:
        raise MissingSplit(
            f"{task.spec.name} has no split {missing[0]!r}; it has {', '.join(task.splits)}"
        )
    return LoadedTask(spec=task.spec, splits={split: task.splits[split] for split in splits})
