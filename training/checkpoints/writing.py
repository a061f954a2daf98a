"""Writing a checkpoint: a folder, whole or not at all, read back before it gets its name.

Invariant: temporaries lie beside what they become and are called `.<name>.tmp`, so that renaming
moves no data and a killed save is known by its name.
"""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from data_prep.files import free_bytes, is_disk_full, sync_folder
from training.checkpoints.digests import (
    LISTING,
    CheckpointError,
    checkpoint_error,
    listing_text,
    measure,
)

STATE_FILE = "state.pt"
"""The file of a checkpoint that is not sharded."""
_ASIDE_SUFFIX = ".aside.tmp"


def temporary_path(path: Path) -> Path:
    """Return where a checkpoint is written before it gets its name: beside it, on its disk."""
    return path.with_name(f".{path.name}.tmp")


def serialised(content: Mapping[str, Any]) -> memoryview:
    """Return a checkpoint as the bytes of its file, a copy of this moment in the host's memory.

    Raises:
        ValueError: It holds what `torch.load(weights_only=True)` would refuse.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    if found := torch.serialization.get_unsafe_globals_in_checkpoint(buffer):
        raise ValueError(
            f"the checkpoint holds objects of {', '.join(sorted(found))} and could not be "
            "loaded again; allowed are tensors, numbers, text, bool, None, and lists, tuples and "
            "dicts of them: convert such values where they are put into the checkpoint "
            "(state_dict of a callback or data module, on_save_checkpoint)"
        )
    return buffer.getbuffer()


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint of one file (see `write_serialised`).

    Args:
        content: Tensors and plain values; see `serialised`.
        path: Its final name.
    """
    write_serialised(serialised(content), path)


def write_serialised(data: memoryview, path: Path) -> None:
    """Write the bytes of a checkpoint into a folder, read them back, put the folder in place.

    Args:
        data: See `serialised`.
        path: The final name. A checkpoint that stands there stays valid until the new one is.

    Raises:
        CheckpointError: It could not be written, or reads back differently; the temporary is
            removed and what stood at `path` before is intact.
    """
    temporary = temporary_path(path)
    with _all_or_nothing(path, needed=len(data)):
        discard(temporary)
        temporary.mkdir(parents=True)
        with open(temporary / STATE_FILE, "wb") as stream:
            stream.write(data)
        if _seal(path) != {STATE_FILE: hashlib.sha256(data).hexdigest()}:
            message = f"{path}: what was written reads back differently; the disk may be failing"
            raise checkpoint_error(message, OSError(errno.EIO, ""))
        _put_in_place(path)


def seal_folder(path: Path) -> None:
    """Make what was written into a checkpoint's temporary folder a checkpoint.

    Args:
        path: The final name; what becomes it lies in `temporary_path(path)`. A checkpoint that
            stands there is put back if anything fails.

    Raises:
        CheckpointError: It could not be done; the temporary folder is removed.
        ValueError: There are no files in it.
    """
    with _all_or_nothing(path):
        if not _seal(path):
            raise ValueError(f"{temporary_path(path)} holds no files: there is no checkpoint")
        _put_in_place(path)


def discard(path: Path) -> None:
    """Remove a file or a folder as far as that is possible; nothing depends on it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def bring_back(folder: Path) -> None:
    """Give checkpoints that were moved aside, and never replaced, their names again."""
    for aside in folder.glob(f".*{_ASIDE_SUFFIX}"):
        path = folder / aside.name[1:].removesuffix(_ASIDE_SUFFIX)
        if not os.path.lexists(path):
            with suppress(OSError):
                os.replace(aside, path)


def _seal(path: Path) -> dict[str, str]:
    """Bring a temporary folder to the disk with a listing of what reads back; return the listing.

    What was synced is dropped from the cache, so that reading it asks the disk.
    """
    temporary = temporary_path(path)
    for file in temporary.rglob("*"):
        sync_folder(file) if file.is_dir() else _sync_file(file)
    listing = measure(temporary)
    (temporary / LISTING).write_text(listing_text(listing), encoding="utf-8")
    _sync_file(temporary / LISTING)
    sync_folder(temporary)
    return listing


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _put_in_place(path: Path) -> None:
    if os.path.lexists(path):
        os.replace(path, _aside_path(path))  # a folder cannot be replaced in one step
    os.replace(temporary_path(path), path)
    sync_folder(path.parent)


def _aside_path(path: Path) -> Path:
    """Where an old checkpoint waits while another takes its name."""
    return path.with_name(f".{path.name}{_ASIDE_SUFFIX}")


@contextmanager
def _all_or_nothing(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Clear away what a failed save left behind and turn its OSError into a CheckpointError."""
    try:
        try:
            yield
        finally:
            bring_back(path.parent)
            discard(temporary_path(path))
            if os.path.lexists(path):
                discard(_aside_path(path))
    except CheckpointError:
        raise
    except OSError as error:
        raise checkpoint_error(
            f"{path}: the checkpoint could not be written: {_reason(error, path, needed)}. "
            "Checkpoints saved before are intact.",
            error,
        ) from error


def _reason(error: OSError, path: Path, needed: int) -> str:
    if is_disk_full(error):
        free = free_bytes(path.absolute().parent) / 2**20
        need = f"about {needed / 2**20:.1f} MiB are needed, " if needed else ""
        return f"the disk or quota is full ({need}{free:.1f} MiB are free in {path.parent})"
    words = {
        errno.EROFS: "the file system is mounted read-only",
        errno.EACCES: "writing is not allowed there (permissions)",
        errno.EPERM: "writing is not allowed there (permissions)",
        errno.EFBIG: "the file would exceed a size limit (`ulimit -f`, or the file system's)",
    }
    return f"{words[error.errno]} ({error})" if error.errno in words else str(error)
