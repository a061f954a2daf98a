"""All tasks by name, and the one way to load them.

Invariant: what a split is (carved, folded, as published) is decided here and nowhere else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from finetune.sentences.tasks import settled_documents
from finetune.tagging.tasks import TAGGED_TASKS, settled
from finetune.tasks.folds import carve, check_num_folds, fold_splits, without_duplicates
from finetune.tasks.glue import GLUE_TASKS
from finetune.tasks.long_documents import LONG_TASKS
from finetune.tasks.own import OWN_TASK, OwnFiles, own_task
from finetune.tasks.rows import MissingSplit, read_hub
from finetune.tasks.spec import LoadedTask, SplitRows, TaskSpec, Wanted

__all__ = ["GLUE", "TASKS", "MissingSplit", "OwnFiles", "load_task", "task_facts", "task_named"]

TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec for spec in (*GLUE_TASKS, *LONG_TASKS, *TAGGED_TASKS)
}
GLUE: tuple[str, ...] = tuple(spec.name for spec in GLUE_TASKS)
Read = Callable[[str], SplitRows]
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
}
"""Stage -> splits that it cannot do without; a fit reads all others too, where they are."""


def task_named(name: str) -> TaskSpec:
    """Return a task; an error names those there are."""
    if name not in TASKS:
        raise ValueError(
            f"unknown task {name!r}; allowed: {', '.join(TASKS)}, or {OWN_TASK} with your own files"
        )
    return TASKS[name]


def task_facts(spec: TaskSpec) -> dict[str, Any]:
    """What a table of results must know of a task; it goes into result.json."""
    names = list(TASKS)
    families = {
        **dict.fromkeys(GLUE, "GLUE"),
        **dict.fromkeys((task.name for task in LONG_TASKS), "Long documents"),
        **dict.fromkeys((task.name for task in TAGGED_TASKS), "Semantic parsing"),
    }
    return {
        "family": families.get(spec.name, "Own data"),
        "place": names.index(spec.name) if spec.name in TASKS else len(names),
        "num_folds": spec.num_folds,
        "in_average": not spec.warning,  # nor do papers count WNLI
        "published": dict(spec.published),
        "published_source": spec.published_source,
        "published_metric": spec.published_metric,
    }


def load_task(
    name: str,
    *,
    folder: str = "",
    own: OwnFiles | None = None,
    wanted: Wanted = Wanted(),  # noqa: B008 (frozen)
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
        wanted: What is answered; labels are for "own" and tagged texts.
        fold: Which fold is the test split, for a task with folds; the next one is validation.
        repeat: Number of the shuffle before the folds are dealt.
        splits: What to load; None: what the stage needs.
        stage: fit (all there is at that place, with train and validation), validate (the
            validation splits) or test (the test splits, of which there may be none).

    Raises:
        MissingSplit: A split that is asked for, or is needed for the stage, is not there.
        ValueError: A mistake in the options, or a damaged row.
    """
    needed = _NEEDED[stage] if splits is None else tuple(splits)
    if name == OWN_TASK:
        assert own is not None
        _check_folds(name, own.num_folds, fold, repeat)
        spec, read = own_task(own, needed, labels=wanted.labels)
        names = own.given
    else:
        spec = task_named(name)
        _check_folds(name, spec.num_folds, fold, repeat)
        if "train" in needed and "train" not in spec.sizes:
            raise ValueError(f"{name} has no training rows: {spec.warning}")
        read = partial(_read, spec, Path(folder).expanduser() if folder else None)
        names = tuple(spec.sizes)
    if spec.num_folds:
        parts = _folded(spec, _found(read, names, ("train",)), fold, repeat)
        names, read = tuple(parts), parts.__getitem__
    elif spec.carve_validation:
        names = tuple(dict.fromkeys(["train", "validation", *names]))
        read = _carving(spec, read)
    names_wanted: Sequence[str] = needed
    if splits is None:
        names_wanted = [s for s in names if stage == "fit" or s.startswith(needed[0])]
        needed = () if spec.hub and set(needed) & set(spec.hub.unlabelled) else needed
    for split in needed:
        if split not in names:
            raise MissingSplit(f"{name} has no split {split!r}; it has {', '.join(names)}")
    task = LoadedTask(spec=spec, splits=_found(read, names_wanted, needed))
    if spec.unit == "sentence":
        return settled_documents(task, wanted)
    return settled(task, wanted) if spec.is_tagging else task


def _check_folds(name: str, num_folds: int, fold: int, repeat: int) -> None:
    check_num_folds(num_folds)
    if not num_folds and (fold or repeat):
        raise ValueError(f"{name} has fixed splits; leave out fold {fold} and repeat {repeat}")
    if num_folds and not (0 <= fold < num_folds and repeat >= 0):
        raise ValueError(
            f"fold {fold}, repeat {repeat}: {name} has the folds 0 to {num_folds - 1} "
            "and repeats from 0"
        )


def _folded(
    spec: TaskSpec, found: Mapping[str, SplitRows], fold: int, repeat: int
) -> Mapping[str, SplitRows]:
    """Return the splits of a fold; a class that is alone in its training rows is an error.

    All rows of own files stay; of texts with several labels the inspection tells.
    """
    is_own = spec.name == OWN_TASK
    whole = found["train"] if is_own else without_duplicates(found.values())
    parts = fold_splits(whole, num_folds=spec.num_folds, fold=fold, repeat=repeat, kind=spec.kind)
    if spec.kind == "classification":
        classes = set(spec.targets_of(parts["train"].rows).tolist())
        if len(classes) < 2:
            raise ValueError(
                f"{whole.source}: all training rows of fold {fold}, repeat {repeat} have the label "
                f"{spec.labels[classes.pop()]!r}, as the others have too few texts for "
                f"{spec.num_folds} folds; give them more, or leave them out"
            )
    return parts


def _read(spec: TaskSpec, root: Path | None, split: str) -> SplitRows:
    if root is None:
        return read_hub(spec, split)
    assert spec.read_folder is not None  # every task of TASKS has a layout
    return spec.read_folder(root, split)


def _carving(spec: TaskSpec, read: Read) -> Read:
    """Return a reader that takes the validation rows out of the training rows, read once."""
    several = spec.is_multilabel

    @cache
    def parts() -> tuple[SplitRows, SplitRows]:
        return carve(
            read("train"), spec.carve_validation, is_stratified=bool(spec.labels) and not several
        )

    def read_part(split: str) -> SplitRows:
        if split not in ("train", "validation"):
            return read(split)
        part, other = parts()[:: 1 if split == "validation" else -1]
        if not part.rows:
            raise ValueError(
                f"data.validation_fraction is {spec.carve_validation:g}, which leaves 0 of the "
                f"{len(other.rows)} rows of {part.source} for {split}; give another share"
            )
        return part

    return read_part


def _found(read: Read, names: Iterable[str], needed: Sequence[str]) -> dict[str, SplitRows]:
    """Return the splits that are there; those that are needed must be."""
    found = {}
    for split in names:
        try:
            found[split] = read(split)
        except MissingSplit:
            if split in needed:
                raise
    return found
