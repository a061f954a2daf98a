"""Which checkpoint a run goes on from, and what has changed since it was saved."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from training.checkpoints.storage import newest_valid, saved_checkpoints, verify_checkpoint
from training.configuration import flatten
from training.run_config import BUNDLE_FOLDER, CHECKPOINT_FOLDER, METRICS_FILE, RunConfig

SET_ASIDE_FOLDER = "set_aside"
_FINETUNING = ("classifier", "result.json")
_NOT_COMPARED = {"ckpt_path", "config", "resume", "max_time", "allow_modules", "run", "preemption"}


class ConfiguredModule(LightningModule):
    """A module that carries the configuration of its run, and that of its checkpoint.

    Attributes:
        resolved_config: All options of this run; empty outside a command line.
        stored_config: Those with which the checkpoint it goes on from was saved; else empty.
    """

    resolved_config: dict[str, Any]
    stored_config: dict[str, Any]


def chosen_checkpoint(run: RunConfig, resume: str, *, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint that `--resume` means, or None to start from the beginning.

    Every rank decides for itself and alike: nothing in the folder is changed here.

    Args:
        run: The run; its folder need not exist.
        resume: `auto`, `never`, or the path of a checkpoint.
        warn: Called with one line for everything the user should know.

    Raises:
        ValueError: `never` or a foreign checkpoint, but the folder holds an earlier run; or it
            holds a fine-tuning run, or a finished one whose checkpoints are gone.
        CheckpointError: The checkpoint is damaged, or all of them are.
    """
    folder = run.folder / CHECKPOINT_FOLDER
    if any((run.folder / name).exists() for name in _FINETUNING):
        raise ValueError(
            f"{run.folder} holds a fine-tuning run; give another --run.name or --run.root"
        )
    if run.overwrite and resume in ("auto", "never"):
        return None
    if resume == "auto":
        found = newest_valid(folder, warn=warn)
        old = folder / "last.ckpt"
        if found is None and old.is_file():
            raise ValueError(
                f"{old} is of an earlier version, which this one cannot go on from; give another "
                "--run.name, or replace the run with --run.overwrite true"
            )
        if found is None and (run.folder / BUNDLE_FOLDER).exists():
            raise ValueError(
                f"{run.folder} holds a finished run without its checkpoints, which cannot go on; "
                "give another --run.name, or replace it with --run.overwrite true"
            )
        if found is None and (run.folder / METRICS_FILE).exists():
            warn(f"{run.folder} was stopped before its first checkpoint: it starts again")
        return found.path if found else None
    if resume == "never":
        if (run.folder / METRICS_FILE).exists() or saved_checkpoints(folder):
            raise ValueError(
                f"{run.folder} holds an earlier run. Give another --run.name, continue it with "
                "--resume auto, or replace it with --run.overwrite true"
            )
        return None
    path = Path(os.path.realpath(resume))
    inside = path.parent == Path(os.path.realpath(folder))
    if saved_checkpoints(folder) and (run.overwrite or not inside):
        raise ValueError(
            f"--resume {resume} would replace the run in {run.folder}; give another --run.name"
        )
    verify_checkpoint(path)
    return path


def set_aside(path: Path) -> Path:
    """Move a checkpoint to a folder beside, where no run looks for it."""
    folder = path.parent / SET_ASIDE_FOLDER
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        target, number = folder / f"{path.name}.{number}", number + 1
    os.replace(path, target)
    return folder


def changed_options(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """One line for every option whose value differs from the checkpoint's.

    Args:
        stored: The resolved configuration in the checkpoint; empty: nothing is known.
        given: The resolved configuration of this run.
    """
    if not stored:
        return []
    before, now = flatten(stored), flatten(given)
    return [
        f"{name}: {before.get(name)!r} in the checkpoint, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if name.split(".")[0] not in _NOT_COMPARED and before.get(name) != now.get(name)
    ]
