"""A lock on a file that ends with the processes that hold it, also when they are killed."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def file_lock(path: str | Path, *, wait: bool = False) -> Iterator[TextIO | None]:
    """Hold a lock on a file; gives the open file, or None where another process holds it.

    The lock belongs to the open file: a child that inherits the descriptor holds it too, and it is
    free only when the last of them has ended or closed it. It works between machines on a shared
    disk that has such locks (NFS 4); on a disk that has none, and on Windows, everyone gets it. The
    file is made if it is missing, and never removed.

    Args:
        path: The file.
        wait: Wait for the lock.
    """
    with open(path, "a", encoding="utf-8") as stream:
        yield stream if _lock(stream.fileno(), wait=wait) else None


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True
