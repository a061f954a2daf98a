"""A run's folder: one writer at a time, and an earlier run that stays until a new one can start.

Invariant: whoever writes into a run's folder does so inside `sole_writer`. An earlier run is
replaced inside `replacing` alone: a process killed at any moment leaves its files in place or in a
folder beside them, from where the next writer brings them back, or the new run begun.
"""

import contextlib
import functools
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from data_prep.files import file_lock, sync_folder
from training.run_config import EVENTS_FILE, METRICS_FILE

LOCK_FILE = ".run.lock"
MOVING, MOVED, UNWANTED = ".replacing", ".replaced", ".removing"
"""Folders of an earlier run's files: on their way out or back; all out, while the new run begins;
to be deleted, since the new run has begun."""
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
PACKAGES = ("ponet", "torch", "pytorch-lightning")
"""Whose versions are noted."""
_held: set[TextIO] = set()


def is_first_process() -> bool:
    """Whether this process, of all that a launcher started for one run, writes its folder.

    Under torchrun its rank alone says so: in a SLURM job torchrun numbers the nodes anew.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ.get("RANK", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


@contextlib.contextmanager
def sole_writer(folder: str | Path, *, own: Sequence[str], doing: str) -> Iterator[None]:
    """Hold the folder of a run alone; it is made, and removed at the end if nothing is in it.

    The lock ends with this process, however that ends; processes it forks do not hold it. What a
    process killed inside `replacing` left is brought into order first.

    Args:
        folder: The run's folder.
        own: Patterns of the names of all that such a run writes there, see `own_files`.
        doing: What is going on, in a word, for whoever finds the folder held.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, missing)
        stream = _acquire(folder / LOCK_FILE, stack)
        _note_holder(stream, doing)
        stack.callback(_release, folder / LOCK_FILE, stream, os.getpid())
        restore(folder, own=own)
        yield


def _acquire(path: Path, stack: contextlib.ExitStack) -> TextIO:
    """Lock the file, or say who holds it."""
    while True:
        stream = stack.enter_context(file_lock(path))
        if stream is not None:
            return stream
        with contextlib.suppress(FileNotFoundError):  # whoever held it has just removed it
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise ValueError(
                f"{path.parent} is in use: {holder} is writing there. Wait for it or end "
                "it, or give another --run.name"
            )


def _note_holder(stream: TextIO, doing: str) -> None:
    stream.truncate(0)
    stream.write(f"{doing} (process {os.getpid()} on {platform.node()}, since {now()})\n")
    stream.flush()
    _close_in_forks()
    _held.add(stream)


@functools.cache
def _close_in_forks() -> None:
    """See to it, once, that loader workers that outlive a killed run do not hold its lock."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    while _held:
        _held.pop().close()


def _release(path: Path, stream: TextIO, process: int) -> None:
    if os.getpid() == process:
        _held.discard(stream)
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink(missing_ok=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # not empty
        for folder in folders:
            folder.rmdir()


def own_files(folder: str | Path, *, own: Sequence[str]) -> list[Path]:
    """Return the files and folders in a run's folder that are the run's own, by name.

    Args:
        folder: The run's folder; it need not exist.
        own: Patterns as in `fnmatch`, of names directly in the folder. Anything else is another
            run's below this one's name, or the user's.
    """
    with contextlib.suppress(FileNotFoundError):
        found = (p for p in Path(folder).iterdir() if any(fnmatch(p.name, each) for each in own))
        return sorted(found)
    return []


@contextlib.contextmanager
def replacing(folder: str | Path, *, own: Sequence[str]) -> Iterator[None]:
    """Replace an earlier run by what the block begins; if the block fails, it is back as it was.

    Only for who holds the folder, when nothing can be wrong any more but what the block does.

    Args:
        folder: The run's folder; it exists.
        own: As in `sole_writer`; nothing else is touched.
    """
    folder = Path(folder)
    entries = own_files(folder, own=own)
    for entry in (entry for entry in entries if entry.is_dir()):
        if inner := next(entry.rglob(METRICS_FILE), None):
            raise ValueError(
                f"{folder} cannot be replaced: {inner.parent} is a run of its own inside; move it "
                "to another place, or give another --run.name"
            )
    try:
        (folder / MOVING).mkdir()
        for entry in entries:
            os.replace(entry, folder / MOVING / entry.name)
        os.replace(folder / MOVING, folder / MOVED)
        sync_folder(folder)
        yield
    except BaseException:
        restore(folder, own=own)
        raise
    os.replace(folder / MOVED, folder / UNWANTED)
    sync_folder(folder)
    shutil.rmtree(folder / UNWANTED, ignore_errors=True)


def restore(folder: Path, *, own: Sequence[str]) -> None:
    """Bring back an earlier run whose replacement did not begin; finish one that did."""
    shutil.rmtree(folder / UNWANTED, ignore_errors=True)
    if (folder / MOVED).is_dir():
        for entry in own_files(folder, own=own):  # of the run that did not begin
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        os.replace(folder / MOVED, folder / MOVING)
    if (folder / MOVING).is_dir():
        for entry in (folder / MOVING).iterdir():
            os.replace(entry, folder / entry.name)
        (folder / MOVING).rmdir()


def add_event(folder: Path, name: str, **details: Any) -> None:
    """Append one event; called on one rank.

    Args:
        folder: The run's folder.
        name: What happened, one word.
        details: Plain values: step, reason, files.
    """
    append_record(folder / EVENTS_FILE, {"event": name, **details})


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return a run's events, oldest first."""
    return read_records(folder / EVENTS_FILE)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return what `append_record` wrote; a line that a kill or a full disk cut short is left out.

    Of a file that is not there nothing.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def append_record(path: Path, values: Mapping[str, Any]) -> None:
    """Append a line of JSON with the time before some plain values; the file's folder is made.

    What a kill has left of a line stays a line of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(max(0, path.stat().st_size - 1))
        begin = "" if file.read() in (b"", b"\n") else "\n"
        file.write(f"{begin}{json.dumps({'time': now(), **values})}\n".encode())


def now() -> str:
    """Return the time of the world's clock, to the second, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def provenance() -> dict[str, object]:
    """The command as it can be typed again, without the interpreter's folder, and versions."""
    words = list(sys.orig_argv)
    words[0] = words[0].replace("\\", "/").rsplit("/", 1)[-1]
    return {"command": shlex.join(words), "versions": versions()}


def versions() -> dict[str, str]:
    """Package -> installed version; Python's too."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
