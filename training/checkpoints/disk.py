"""Files brought to the disk, and the temporary names that a save uses until it is done.

Invariant: every temporary lies in the folder of what it becomes, so that giving it its name moves
no data, and is called `.<name>.tmp`, so that it is known as one after a kill.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from data_prep.files import sync_folder

_ASIDE_SUFFIX = ".aside.tmp"


def temporary_path(path: str | Path) -> Path:
    """Return where a checkpoint is written before it gets its name: beside it, on its disk."""
    path = Path(path)
    return path.with_name(f".{path.name}.tmp")


def aside_path(path: Path) -> Path:
    """Return where an old folder waits while another takes its name."""
    return path.with_name(f".{path.name}{_ASIDE_SUFFIX}")


def bring_back(folder: Path) -> None:
    """Give folders that were moved aside, and never replaced, their names again."""
    for aside in folder.glob(f".*{_ASIDE_SUFFIX}"):
        path = folder / aside.name[1:].removesuffix(_ASIDE_SUFFIX)
        if not os.path.lexists(path):
            with suppress(OSError):
                os.replace(aside, path)


def discard(path: Path) -> None:
    """Remove a file or a folder as far as that is possible; nothing depends on it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file that is either the old one or the new one, also after a power cut."""
    temporary = temporary_path(path)
    with open(temporary, "wb") as stream:
        stream.write(text.encode("utf-8"))
        stream.flush()
        sync(stream.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync(descriptor: int) -> None:
    """Bring a file to the disk and drop it from the cache, so that reading it asks the disk."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_file(path: Path) -> None:
    """Bring a file that others wrote to the disk and drop it from the cache."""
    with open(path, "rb+") as stream:
        sync(stream.fileno())
