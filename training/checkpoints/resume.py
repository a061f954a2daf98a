"""Which checkpoint a run goes on from, what has changed since, and how a run goes back to one."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import distributed

from data_prep.files import write_atomic
from training.checkpoints.retries import retried
from training.checkpoints.storage import newest_valid, saved_checkpoints, verify_checkpoint
from training.configuration import flatten
from training.guards import window_of
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CLASSIFIER_FOLDER,
    METRICS_FILE,
    RESULT_FILE,
    SKIPPED_FILE,
    RunConfig,
)
from training.run_folder import add_event, read_events

SET_ASIDE_FOLDER = "set_aside"
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
        ValueError: `never` or a foreign checkpoint, but the folder holds an earlier run, also one
            that was stopped before its first checkpoint; or it holds a fine-tuning run, or a
            finished one whose checkpoints are gone.
        CheckpointError: The checkpoint is damaged, or all of them are.
    """
    folder = run.folder / CHECKPOINT_FOLDER
    if any((run.folder / name).exists() for name in (CLASSIFIER_FOLDER, RESULT_FILE)):
        raise ValueError(
            f"{run.folder} holds a fine-tuning run; give another --run.name or --run.root"
        )
    if run.overwrite and resume in ("auto", "never"):
        return None
    if resume == "auto":
        return _newest(run, warn)
    saved = saved_checkpoints(folder)
    if resume == "never":
        if saved or (run.folder / METRICS_FILE).exists():
            raise ValueError(
                f"{run.folder} holds an earlier run. Give another --run.name, continue it with "
                "--resume auto, or replace it with --run.overwrite true"
            )
        return None
    path = Path(os.path.realpath(resume))
    if saved and not run.overwrite and _is_on_its_way(run.folder, path):
        return _newest(run, warn)
    if saved and (run.overwrite or path.parent != Path(os.path.realpath(folder))):
        raise ValueError(
            f"--resume {resume} would replace the run in {run.folder}; give another --run.name"
        )
    has_begun = any((run.folder / name).exists() for name in (METRICS_FILE, SKIPPED_FILE))
    is_foreign = not path.is_relative_to(os.path.realpath(run.folder))
    if has_begun and is_foreign and not run.overwrite and not _is_on_its_way(run.folder, path):
        raise ValueError(
            f"{run.folder} holds a run that was stopped before its first checkpoint, and --resume "
            f"{resume} would mix its metrics with another's; give another --run.name, or replace "
            "it with --run.overwrite true"
        )
    retried(lambda: verify_checkpoint(path))
    return path


def _is_on_its_way(folder: Path, source: Path) -> bool:
    """Return whether a run went on from a checkpoint and has not ended since: then it goes on."""
    goes_on = False
    for event in read_events(folder):
        is_from_there = event.get("source") == str(source)
        goes_on = event.get("event") != "finished" and (goes_on or is_from_there)
    return goes_on


def _newest(run: RunConfig, warn: Callable[[str], None]) -> Path | None:
    found = newest_valid(run.folder / CHECKPOINT_FOLDER, warn=warn)
    if found is not None:
        return found.path
    if (run.folder / BUNDLE_FOLDER).exists():
        raise ValueError(
            f"{run.folder} holds a finished run without its checkpoints, which cannot go on; give "
            "another --run.name, or replace it with --run.overwrite true"
        )
    if (run.folder / METRICS_FILE).exists():
        warn(f"{run.folder} was stopped before its first checkpoint: it starts again")
    return None


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
    before, now = flatten(stored), flatten(given) if stored else {}
    return [
        f"{name}: {before.get(name)!r} in the checkpoint, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if name.split(".")[0] not in _NOT_COMPARED and before.get(name) != now.get(name)
    ]


def skipped_windows(folder: Path) -> tuple[int, ...]:
    """Windows of the sample stream that rollbacks made a run skip, ascending."""
    return tuple(_rollbacks(folder)["windows"])


def roll_back(
    folder: Path,
    *,
    skipped: Sequence[int],
    begun_at: int,
    first_step: int,
    last_step: int,
    first_rank: bool,
    warn: Callable[[str], None],
) -> int:
    """Note what the run skips from now on; the next start of the run does the rest.

    Steps before the newest checkpoint stay as they are: they are not trained again.

    Args:
        folder: The run's folder.
        skipped: Windows that this start left out: those of the folder, and those that a branch
            has from the checkpoint it began at.
        begun_at: Step at which this start of the run began.
        first_step: First optimiser step (from 0) whose data is to be skipped.
        last_step: Last one, the bad step itself.
        first_rank: Whether this process writes; the others wait for it.
        warn: Called with one line for every broken checkpoint.

    Returns:
        How often the run was rolled back, this time included.
    """
    if first_rank:
        newest = newest_valid(folder / CHECKPOINT_FOLDER, warn=warn)
        kept = newest.step if newest else begun_at
        steps = range(max(kept, first_step), last_step + 1)
        windows = [window_of(step, skipped) for step in steps]
        content = {
            "windows": sorted({*skipped, *windows}),
            "rollbacks": _rollbacks(folder)["rollbacks"] + 1,
        }
        write_atomic(folder / SKIPPED_FILE, (json.dumps(content) + "\n").encode())
        add_event(folder, "rolled_back", to_step=kept, skipped_windows=windows)
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
    return int(_rollbacks(folder)["rollbacks"])


def _rollbacks(folder: Path) -> dict[str, Any]:
    path = folder / SKIPPED_FILE
    if not path.exists():
        return {"windows": [], "rollbacks": 0}
    return dict(json.loads(path.read_text(encoding="utf-8")))
