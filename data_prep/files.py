"""Files that neither a kill nor a full disk leaves half written, locks, and folders of work.

Invariant: a name stands for the old content or the new one, never for a part.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

TEMPORARY = ".tmp"
SPARE_BYTES = 32 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFull(OSError):
    """There is no room left to write a file."""


def is_disk_full(error: OSError) -> bool:
    """Return whether an error says that the disk or the quota is used up."""
    return isinstance(error, DiskFull) or error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system that holds a folder, made already or not."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextlib.contextmanager
def names_full_disk(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into a `DiskFull` that says where and what to do."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"{path} cannot be written: {error.strerror} "
            f"({free_bytes(Path(path).absolute().parent) / 1e6:.1f} MB are free there). Make room "
            "and run the same command again: finished parts are kept."
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


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a name beside a file, whose folder is made; what is written there becomes that file.

    It does so when the block ends without an error: until then what stands there stays.

    Raises:
        ValueError: The path is a folder; said before the block begins.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMPORARY}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(
    path: str | Path, content: object, *, default: Callable[[Any], object] | None = None
) -> None:
    """Write JSON that people can read too, as `write_atomic`; NaN keeps Python's spelling.

    Args:
        path: The file.
        content: Plain values.
        default: What stands for a value that JSON lacks; None: an error.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, default=default) + "\n"
    write_atomic(path, text.encode("utf-8"))


def json_records(text: str, where: object) -> list[Any]:
    """Return what lines of JSON hold, in order; a broken last line, which a kill leaves, is not.

    Args:
        text: The lines.
        where: Whose lines they are, for the message.

    Raises:
        ValueError: A line before the last is no JSON.
    """
    lines = text.removesuffix("\n").split("\n") if text else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{where}, line {number}: not a JSON object ({error})") from error
    return found


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that need not
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_lock(path: str | Path, *, wait: bool = False) -> Iterator[TextIO | None]:
    """Hold a lock on a file; gives the open file, or None where another process holds it.

    The lock belongs to the open file: a child that inherits the descriptor holds it too, and it is
    free only when the last of them has ended or closed it. It works between machines on a shared
    disk that has such locks (NFS 4); on a disk that has none everyone gets it. The file and its
    folder are made if they are missing; whoever holds it may remove them.

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
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True


def _work_paths(output: Path) -> tuple[Path, Path]:
    """Return where unfinished work lies, and where it is moved to be removed."""
    return output.with_name(f"{output.name}.building"), output.with_name(f"{output.name}.removing")


@contextlib.contextmanager
def locked_work(output: Path) -> Iterator[Path]:
    """Give the folder of unfinished work to one build at a time, refuse it to another.

    A killed build leaves no lock; the halves of files that it was writing are removed.
    """
    work, _ = _work_paths(output)
    with file_lock(work / "lock") as stream:
        if stream is None:
            raise ValueError(
                f"another build is at work in {work}; wait for it, or name another output."
            )
        for path in work.rglob(f"*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        yield work


def require_room(work: Path, needed: float, what: str) -> None:
    """Refuse work that will write so many bytes at least, if the disk has no room for them."""
    free = free_bytes(work)
    if needed > 0 and needed + SPARE_BYTES > free:
        raise ValueError(
            f"{what} needs {(needed + SPARE_BYTES) / 1e6:,.0f} MB or more, but {work.parent} has "
            f"{free / 1e6:,.0f} MB free. Make room, name an output on another disk, or give "
            "--check_disk false to try all the same; finished parts are kept."
        )


def publish(final: Path, output: Path) -> None:
    """Move the finished folder from the unfinished work to its place, an old one back there."""
    old = final.with_name("replaced")
    shutil.rmtree(old, ignore_errors=True)
    for folder in (final, *(path for path in final.rglob("*") if path.is_dir())):
        sync_folder(folder)
    if output.exists():
        os.replace(output, old)
    os.replace(final, output)
    sync_folder(output.parent)


def discard(output: Path) -> None:
    """Remove the folder of unfinished work; call it with the lock held.

    The folder is renamed first, so that a build that starts meanwhile makes a new one.
    """
    work, removed = _work_paths(output)
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(work, removed)
    shutil.rmtree(removed, ignore_errors=True)


def remove_leftovers(output: Path, *, made_by: str) -> None:
    """Remove what a build left that was killed after its output was in place.

    Args:
        output: The finished folder.
        made_by: Name of a folder that the unfinished work of that very build holds; unfinished
            work with other settings is kept.
    """
    work, removed = _work_paths(output)
    if (work / made_by).is_dir() or (removed.exists() and not work.exists()):
        with contextlib.suppress(ValueError, OSError), locked_work(output):
            discard(output)
