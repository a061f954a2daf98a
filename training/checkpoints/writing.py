"""Writing a checkpoint: whole or not at all, and read back before it gets its name.

Invariant: the digest is in place before the data, so no checkpoint ever stands without one.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from data_prep.files import sync_folder
from training.checkpoints.digests import (
    CheckpointError,
    checkpoint_error,
    digest_path,
    digest_text,
    measure,
    read_listings,
)
from training.checkpoints.disk import (
    aside_path,
    bring_back,
    discard,
    sync,
    sync_file,
    temporary_path,
    write_text,
)
from training.checkpoints.snapshot import tensor_bytes


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> str:
    """Write a checkpoint file, read it back, put it and its digest in place; return the sha256.

    Args:
        content: Tensors and plain values, nothing that `torch.load(weights_only=True)` refuses.
        path: The final name. A checkpoint that stands there stays valid until the new one is.

    Raises:
        CheckpointError: It could not be written, or reads back differently; the temporary is
            removed and what stood at `path` before is intact.
        ValueError: `content` holds Python objects that could never be loaded again.
    """
    path = Path(path)
    temporary = temporary_path(path)
    with _all_or_nothing(path, needed=lambda: tensor_bytes(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = _write_data(content, temporary)
        if measure(temporary, name=path.name) != {path.name: digest}:
            message = f"{path}: what was written reads back differently; the disk may be failing"
            raise checkpoint_error(message, OSError(errno.EIO, ""))
        _refuse_objects(temporary, path)
        _commit(temporary, path, {path.name: digest})
    return digest


def seal_folder(temporary: str | Path, path: str | Path) -> None:
    """Make a written folder a checkpoint: fsync and hash all files, then rename it into place.

    Args:
        temporary: The complete folder, in the folder of `path` (see `temporary_path`).
        path: The final name. A folder that stands there is put back if anything fails.

    Raises:
        CheckpointError: It could not be done; `temporary` is kept, so that it can be tried again.
        ValueError: `temporary` is not a folder with files in it, or lies in another folder.
    """
    temporary, path = Path(temporary), Path(path)
    if temporary.parent.absolute() != path.parent.absolute():
        raise ValueError(f"{temporary} must lie beside {path}, so that renaming moves no data")
    with _all_or_nothing(path, needed=lambda: 0, keep=temporary):
        for file in temporary.rglob("*"):
            sync_folder(file) if file.is_dir() else sync_file(file)
        sync_folder(temporary)
        listing = measure(temporary, name=path.name)
        if not listing:
            raise ValueError(f"{temporary} holds no files: there is no checkpoint to put in place")
        _commit(temporary, path, listing)


class _HashingWriter:
    """A file for torch.save that is hashed while it is written.

    Whatever is first raised in `write`, also by a signal handler, is kept and raised by `finish`:
    torch would turn it into a RuntimeError that hides the cause. What follows it is dropped.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha = hashlib.sha256()
        self._error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        if self._error is None:
            try:
                self._stream.write(data)
                self._sha.update(data)
            except BaseException as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing to do: `finish` flushes."""

    def finish(self) -> str:
        """Bring all to the disk and return the sha256 of what was written."""
        if self._error is not None:
            raise self._error
        self._stream.flush()
        sync(self._stream.fileno())
        return self._sha.hexdigest()


def _write_data(content: Mapping[str, Any], temporary: Path) -> str:
    with open(temporary, "wb", buffering=1 << 20) as stream:
        writer = _HashingWriter(stream)
        torch.save(content, writer)  # type: ignore[arg-type]
        return writer.finish()


def _refuse_objects(temporary: Path, path: Path) -> None:
    """Refuse content that `weights_only=True` would refuse when the run has to be resumed."""
    found = torch.serialization.get_unsafe_globals_in_checkpoint(str(temporary))
    if found:
        raise ValueError(
            f"{path}: the checkpoint holds objects of {', '.join(sorted(found))} and could not be "
            "loaded again; allowed are tensors, numbers, text, bool, None, and lists, tuples and "
            "dicts of them: convert such values where they are put into the checkpoint "
            "(state_dict of a callback or data module, on_save_checkpoint)"
        )


def _commit(temporary: Path, path: Path, listing: dict[str, str]) -> None:
    """Put the digest in place, then the data: at no moment stands a checkpoint without its digest.

    While data of the same name is replaced the digest file lists both, so either is valid.
    """
    listings = [listing]
    replaced = os.path.lexists(path)
    if replaced:
        with suppress(CheckpointError):
            listings += read_listings(path)
    write_text(digest_path(path), digest_text(listings))
    if path.is_dir():
        os.replace(path, aside_path(path))  # a folder cannot be replaced in one step
    os.replace(temporary, path)
    sync_folder(path.parent)
    if replaced:
        with suppress(OSError):  # with both states listed the new one is just as valid
            write_text(digest_path(path), digest_text([listing]))


@contextmanager
def _all_or_nothing(
    path: Path, *, needed: Callable[[], int], keep: Path | None = None
) -> Iterator[None]:
    """Clear away what a failed save left behind and turn its OSError into a CheckpointError."""
    try:
        try:
            yield
        finally:
            _tidy(path, keep=keep)
    except CheckpointError:
        raise
    except OSError as error:
        raise checkpoint_error(
            f"{path}: the checkpoint could not be written: {_reason(error, path, needed)}. "
            "Checkpoints saved before are intact.",
            error,
        ) from error


def _reason(error: OSError, path: Path, needed: Callable[[], int]) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next((p for p in path.absolute().parents if p.exists()), Path("/"))
        free = shutil.disk_usage(existing).free / 2**20
        need = f"about {needed() / 2**20:.1f} MiB are needed, " if needed() else ""
        return f"the disk or quota is full ({need}{free:.1f} MiB are free in {existing})"
    words = {
        errno.EROFS: "the file system is mounted read-only",
        errno.EACCES: "writing is not allowed there (permissions)",
        errno.EPERM: "writing is not allowed there (permissions)",
        errno.EFBIG: "the file would exceed a size limit (`ulimit -f`, or the file system's)",
    }
    return f"{words[error.errno]} ({error})" if error.errno in words else str(error)


def _tidy(path: Path, *, keep: Path | None) -> None:
    """Remove the temporaries of one checkpoint, and its digest if it has not come to be."""
    with suppress(OSError):
        bring_back(path.parent)
        for leftover in (
            temporary_path(path),
            temporary_path(digest_path(path)),
            aside_path(path),
        ):
            if leftover != keep:
                discard(leftover)
        if not os.path.lexists(path):
            discard(digest_path(path))
