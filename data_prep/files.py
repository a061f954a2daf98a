"""Writing files so that neither a kill nor a full disk leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFull(OSError):
    """There is no room left to write a file."""


def is_disk_full(error: OSError) -> bool:
    """Return whether an error says that the disk or the quota is used up."""
    return error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system that holds a folder, made already or not."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def names_full_disk(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says where and what to do.

    Raises:
        DiskFull: The disk or the quota is used up.
    """
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        folder = Path(path).absolute().parent
        raise DiskFull(
            f"{path} cannot be written: {error.strerror} ({free_bytes(folder) / 1e6:.1f} MB are "
            "free there). Make room and run the same command again: finished parts are kept."
        ) from error


def write_atomic(path: str | Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Args:
        path: The file.
        data: Its content.
        durable: Wait until it would survive a loss of power.

    Raises:
        DiskFull: There is no room; what stood there before is intact.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with names_full_disk(path):
            with open(temporary, "wb") as stream:
                stream.write(data)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that need not
            raise
    finally:
        os.close(descriptor)
