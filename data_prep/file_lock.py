"""A lock on a file that ends with the processes that hold it, also when they are killed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def file_lock(path: str | Path, *, wait: bool = False) -> Iterator[TextIO | None]:
    """Hold a lock on a file; gives the open file, or None where another process holds it.

    The lock belongs to the open file: a child that inherits the descriptor holds it too, and it is
    free only when the last of them has ended or closed it. It works between machines on a shared
    disk that has such locks (NFS 4); on a disk that has none, and on Windows, everyone gets it. The
    file and its folder are made if they are missing; whoever holds it may remove them.

    Args:
        path: The file.
        wait: Wait for the lock.
    """
    path = Path(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # missing again, or another file by now: the one who held it has just removed it
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            stream = stack.enter_context(open(path, "a", encoding="utf-8"))
            is_held = _lock(stream.fileno(), wait=wait)
            if not is_held or os.path.samestat(os.stat(path), os.fstat(stream.fileno())):
                opened = stack.pop_all()
                break
    with opened:
        yield stream if is_held else None


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
