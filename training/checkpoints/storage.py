"""Checkpoints of a run on disk: found, verified, loaded, removed.

Invariant: a folder called `step-<number>.ckpt` holds its files and their digests, and was read back
and found equal to what was written before it got its name. A process killed at any moment leaves
the old checkpoint or the new one, and at most temporaries, which `remove_temporaries` clears away.
Single files, as earlier versions wrote them, count as well where their digest lies beside them.
"""

import errno
import logging
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.checkpoints.digests import (
    CheckpointError,
    checkpoint_error,
    differences,
    digest_path,
    measure,
    read_listing,
)
from training.checkpoints.writing import (
    STATE_FILE,
    bring_back,
    discard,
    seal_folder,
    temporary_path,
    write_checkpoint,
)

__all__ = [
    "CHECKPOINT_SUFFIX",
    "CheckpointError",
    "SavedCheckpoint",
    "checkpoint_path",
    "is_sharded",
    "load_checkpoint",
    "newest_valid",
    "point_to",
    "remove_checkpoint",
    "remove_temporaries",
    "saved_checkpoints",
    "seal_folder",
    "temporary_path",
    "verify_checkpoint",
    "write_checkpoint",
]

CHECKPOINT_SUFFIX = ".ckpt"
_STEP_NAME = re.compile(r"step-(\d{8,})" + re.escape(CHECKPOINT_SUFFIX))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint found in a folder: its path and the optimiser step it was saved after."""

    path: Path
    step: int


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Return where the checkpoint of a step lies in a run's folder of checkpoints."""
    return Path(folder) / f"step-{step:08d}{CHECKPOINT_SUFFIX}"


def saved_checkpoints(folder: str | Path) -> list[SavedCheckpoint]:
    """Return the checkpoints in a folder by their names, oldest step first, none verified.

    Raises:
        CheckpointError: The folder exists but cannot be read.
    """
    try:
        paths = list(Path(folder).iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise checkpoint_error(f"{folder}: cannot look for checkpoints ({error})", error) from error
    matches = [(path, _STEP_NAME.fullmatch(path.name)) for path in paths]
    found = [SavedCheckpoint(path, int(match[1])) for path, match in matches if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def verify_checkpoint(path: str | Path) -> None:
    """Check a checkpoint against its digests; a symbolic link is followed.

    Raises:
        CheckpointError: It is missing, has no digests, cannot be read, or differs from them;
            the message says which, and in which files.
    """
    path = _resolved(path)
    listed = read_listing(path)
    try:
        problem = differences(listed, measure(path))
    except OSError as error:
        raise checkpoint_error(f"{path}: cannot be read ({error})", error) from error
    if problem:
        raise CheckpointError(f"{path}: the checkpoint is damaged: {problem}")


def is_sharded(path: Path) -> bool:
    """Return whether a checkpoint consists of parts of several ranks, as ZeRO writes them."""
    return path.is_dir() and not (path / STATE_FILE).is_file()


def load_checkpoint(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint that fits its digests; no code in it is ever run.

    Args:
        path: Its folder (or file, of an earlier version), or a symbolic link to it.
        map_location: As for `torch.load`; None means "cpu".

    Raises:
        CheckpointError: It is damaged (see `verify_checkpoint`), holds Python objects, is no
            checkpoint, or is sharded.
    """
    path = _resolved(path)
    verify_checkpoint(path)
    if is_sharded(path):
        raise CheckpointError(
            f"{path}: this checkpoint was written by all ranks of a sharded run; resume with the "
            "strategy it was saved with, or export it to an ordinary one first"
        )
    file = path / STATE_FILE if path.is_dir() else path
    try:
        content = torch.load(file, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    except OSError as error:
        raise checkpoint_error(f"{path}: cannot be read ({error})", error) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{path}: this is no checkpoint: it holds a {kind}, not a dict")
    return content


def newest_valid(folder: str | Path, *, warn: Callable[[str], None]) -> SavedCheckpoint | None:
    """Return the newest checkpoint that fits its digests, or None if the folder has none at all.

    Args:
        folder: A run's folder of checkpoints; it need not exist.
        warn: Called with one line for every newer checkpoint that is broken.

    Raises:
        CheckpointError: There are checkpoints, but none is valid; all are listed.
    """
    bring_back(Path(folder))
    problems = []
    for checkpoint in reversed(saved_checkpoints(folder)):
        try:
            verify_checkpoint(checkpoint.path)
        except CheckpointError as error:
            problems.append(str(error))
            warn(f"checkpoint of step {checkpoint.step} is skipped: {error}")
            continue
        return checkpoint
    if problems:
        raise CheckpointError(
            f"{folder}: none of its {len(problems)} checkpoints is valid:\n  "
            + "\n  ".join(problems)
            + "\nPut back one of them from a copy, give another checkpoint with "
            "--resume PATH, or start from the beginning: with another --run.name, or with "
            "--run.overwrite true, which replaces this run (--resume never does not)."
        )
    return None


def _resolved(path: str | Path) -> Path:
    path, real = Path(path), Path(os.path.realpath(path))
    if not real.exists():
        target = f", which points to {real}," if path.is_symlink() else ""
        message = f"{path}{target}: there is no such checkpoint"
        raise checkpoint_error(message, FileNotFoundError(errno.ENOENT, ""))
    return real


def _refusal(path: Path, reason: str) -> str:
    named = re.search(r"GLOBAL ([\w.]*\w)", reason) or re.search(r"Trying to ([^\n]*)", reason)
    if named is None:
        return f"{path}: this is no checkpoint ({reason.partition(chr(10))[0]})"
    return (
        f"{path}: holds Python objects, refused: {named[1]}. Loading them could run any code; "
        "only tensors and plain values are read"
    )


def remove_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint; killed in between, no broken one is left. A missing one is fine."""
    path = Path(path)
    if os.path.lexists(path):
        temporary = temporary_path(path)
        discard(temporary)
        os.replace(path, temporary)
        discard(temporary)
    digest_path(path).unlink(missing_ok=True)


def remove_temporaries(folder: str | Path) -> None:
    """Remove what killed saves left in a folder; only while nobody saves there."""
    folder = Path(folder)
    bring_back(folder)
    for temporary in folder.glob(f".*{CHECKPOINT_SUFFIX}*.tmp"):
        discard(temporary)


def point_to(link: str | Path, target: str | Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an older link in one step.

    Links are for people; nothing here finds checkpoints by them. So where links cannot be made
    it is left out, and a real file of that name is never replaced.
    """
    link, target = Path(link), Path(target)
    if link.exists() and not link.is_symlink():
        _log.warning("%s is a file of its own and stays; it does not follow %s", link, target)
        return
    temporary = temporary_path(link)
    try:
        temporary.unlink(missing_ok=True)
        os.symlink(os.path.relpath(target, link.parent), temporary)
        os.replace(temporary, link)
    except OSError as error:
        _log.debug("%s: no link was made (%s)", link, error)
