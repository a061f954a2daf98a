"""The folder of unfinished work: one build at a time, nothing left behind by a killed one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_prep.file_lock import file_lock
from data_prep.files import TEMPORARY, free_bytes, sync_folder

SPARE_BYTES = 32 << 20


def _beside(output: Path, suffix: str) -> Path:
    return output.with_name(output.name + suffix)


def work_path(output: Path) -> Path:
    """Return where the unfinished work for an output folder lies."""
    return _beside(output, ".building")


@contextlib.contextmanager
def locked_work(output: Path) -> Iterator[Path]:
    """Give the folder of unfinished work to one build at a time; a killed build leaves no lock.

    Raises:
        ValueError: Another build is at work there.
    """
    work = work_path(output)
    with file_lock(work / "lock") as stream:
        if stream is None:
            raise ValueError(
                f"another build is at work in {work}; wait for it, or name another output."
            )
        yield work


def require_room(work: Path, needed: float, what: str) -> None:
    """Refuse work for which the disk has no room.

    Args:
        work: The folder of unfinished work.
        needed: Bytes that will be written there at least.
        what: What needs them.

    Raises:
        ValueError: They are not free there.
    """
    free = free_bytes(work)
    if needed > 0 and needed + SPARE_BYTES > free:
        raise ValueError(
            f"{what} needs {(needed + SPARE_BYTES) / 1e6:,.0f} MB or more, but {work.parent} has "
            f"{free / 1e6:,.0f} MB free. Make room, name an output on another disk, or give "
            "--check_disk false to try all the same; finished parts are kept."
        )


def remove_temporaries(work: Path) -> None:
    """Remove the halves of files that a killed build was writing."""
    for path in work.rglob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def publish(final: Path, output: Path) -> None:
    """Move the finished folder to its place; an old one is removed after that."""
    old = _beside(output, ".replaced")
    shutil.rmtree(old, ignore_errors=True)
    for folder in (path for path in final.rglob("*") if path.is_dir()):
        sync_folder(folder)
    sync_folder(final)
    if output.exists():
        os.replace(output, old)
    os.replace(final, output)
    sync_folder(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def discard(output: Path) -> None:
    """Remove the folder of unfinished work; call it with the lock held.

    The folder is renamed first, so that a build that starts meanwhile makes a new one.
    """
    removed = _beside(output, ".removing")
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(work_path(output), removed)
    shutil.rmtree(removed, ignore_errors=True)
    shutil.rmtree(_beside(output, ".replaced"), ignore_errors=True)


def remove_leftovers(output: Path, *, made_by: str) -> None:
    """Remove what a build left that was killed after its output was in place.

    Args:
        output: The finished folder.
        made_by: Name of a folder that the unfinished work of that very build holds; unfinished
            work with other settings is kept.
    """
    work = work_path(output)
    others = [_beside(output, suffix) for suffix in (".replaced", ".removing")]
    if work.exists() and not (work / made_by).is_dir():
        return
    if not any(path.exists() for path in (work, *others)):
        return
    with contextlib.suppress(ValueError, OSError), locked_work(output):
        discard(output)
