"""Checkpoints on disk: written whole or not at all, found, verified, loaded, removed.

Invariant: a folder called `step-<number>.ckpt` holds its files and their digests, and was read back
and found equal to what was written before it got its name. A process killed at any moment leaves
the old checkpoint or the new one, and at most temporaries called `.<name>.tmp` beside it, which
`remove_temporaries` clears away. A single file from elsewhere is loaded as well where its digest
lies beside it.
"""

import errno
import hashlib
import io
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_prep.files import free_bytes, is_disk_full, sync_folder
from data_prep.manifest import file_sha256
from training.checkpoints.retries import retried

CHECKPOINT_SUFFIX = ".ckpt"
STATE_FILE = "state.pt"
"""The file of a checkpoint that is not sharded."""
LISTING = "SHA256SUMS"
"""The digests of a checkpoint's files, a text that `sha256sum -c` reads."""
_STEP_NAME = re.compile(r"step-(\d{8,})\.ckpt")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)")
_ASIDE = ".aside.tmp"
"""End of the name of an old checkpoint that waits while another takes its name."""
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError),
    *(LookupError, TypeError, AttributeError),
)
_log = logging.getLogger(__name__)


class CheckpointError(OSError):
    """A checkpoint is damaged, refused, or cannot be written; the message names it and why.

    `errno` is that of the system call behind it, or None.
    """

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.errno = getattr(cause, "errno", None)


class SavedCheckpoint(NamedTuple):
    """A checkpoint found in a folder: its path and the optimiser step it was saved after."""

    path: Path
    step: int


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Return where the checkpoint of a step lies in a run's folder of checkpoints."""
    return Path(folder) / f"step-{step:08d}{CHECKPOINT_SUFFIX}"


def temporary_path(path: Path) -> Path:
    """Return where a checkpoint is written before it gets its name: beside it, on its disk."""
    return path.with_name(f".{path.name}.tmp")


def saved_checkpoints(folder: str | Path) -> list[SavedCheckpoint]:
    """Return the checkpoints in a folder by their names, oldest step first, none verified."""
    try:
        paths = list(Path(folder).iterdir())
    except FileNotFoundError:
        return []
    matches = [(path, _STEP_NAME.fullmatch(path.name)) for path in paths]
    found = [SavedCheckpoint(path, int(match[1])) for path, match in matches if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_valid(folder: str | Path, *, warn: Callable[[str], None]) -> SavedCheckpoint | None:
    """Return the newest checkpoint that fits its digests, or None if the folder has none at all.

    One is passed over for an error of the disk only if that does not pass.

    Args:
        folder: A run's folder of checkpoints; it need not exist.
        warn: Called with one line for every newer checkpoint that is broken.

    Raises:
        CheckpointError: There are checkpoints, but none is valid; all are listed.
    """
    _bring_back(Path(folder))
    problems: list[str] = []
    for checkpoint in reversed(saved_checkpoints(folder)):
        try:
            retried(partial(verify_checkpoint, checkpoint.path))
        except OSError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"a newer checkpoint is skipped: {problem}")
        return checkpoint
    if problems:
        raise CheckpointError(
            f"{folder}: none of its {len(problems)} checkpoints is valid: {'; '.join(problems)}. "
            "Put one back from a copy, give another --run.name, or replace this run with "
            "--run.overwrite true"
        )
    return None


def verify_checkpoint(path: str | Path) -> None:
    """Check a checkpoint against its digests; a symbolic link is followed.

    Raises:
        CheckpointError: It is missing, has no digests, or differs from them; in which files.
        OSError: It cannot be read.
    """
    path = _resolved(path)
    listed, found = _read_listing(path), measure(path)
    parts = {
        "missing": sorted(listed.keys() - found.keys()),
        "not listed": sorted(found.keys() - listed.keys()),
        "changed or cut short": sorted(n for n in found if listed.get(n, found[n]) != found[n]),
    }
    if listed != found:
        problem = "; ".join(f"{what}: {', '.join(n)}" for what, n in parts.items() if n)
        raise CheckpointError(f"{path}: the checkpoint is damaged: {problem}")


def measure(path: Path) -> dict[str, str]:
    """Return the sha256 of a file, or of every file in a folder but the listing, by its name."""
    if not path.is_dir():
        return {path.name: file_sha256(path)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    names = {file.relative_to(path).as_posix(): file for file in files}
    return {name: file_sha256(file) for name, file in names.items() if name != LISTING}


def is_sharded(path: Path) -> bool:
    """Return whether a checkpoint consists of parts of several ranks, as ZeRO writes them."""
    return path.is_dir() and not (path / STATE_FILE).is_file()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint that fits its digests; no code in it is ever run.

    Args:
        path: Its folder, or a file with its digest beside it, or a symbolic link to either.

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
        content = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: {_refusal(str(error))}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: this is no checkpoint: it holds a {type(content).__name__}")
    return content


def _refusal(reason: str) -> str:
    named = re.search(r"GLOBAL ([\w.]*\w)", reason) or re.search(r"Trying to ([^\n]*)", reason)
    if named is None:
        return f"this is no checkpoint ({reason.partition(chr(10))[0]})"
    return (
        f"holds Python objects, refused: {named[1]}. Loading them could run any code; only tensors "
        "and plain values are read"
    )


def _resolved(path: str | Path) -> Path:
    real = Path(os.path.realpath(path))
    if not real.exists():
        target = f", which points to {real}," if os.path.islink(path) else ""
        raise CheckpointError(f"{path}{target}: there is no such checkpoint")
    return real


def _read_listing(path: Path) -> dict[str, str]:
    """Return the sha256 (hex) of every file of a checkpoint, as its listing says."""
    file = path.with_name(f"{path.name}.sha256")
    command = f"sha256sum {path.name} > {file.name}"
    if path.is_dir():
        file = path / LISTING
        command = f"find . -type f ! -name {LISTING} -exec sha256sum {{}} + > {LISTING}"
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: it has no digest ({file.name}), so nothing says that it is whole. If you "
            f"trust it, make one in {file.parent}: {command}"
        ) from None
    listing = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise CheckpointError(f"{file}: line {number} is not `<sha256>  <file name>`")
        listing[match[2]] = match[1].lower()
    return listing


# --- written ------------------------------------------------------------------------------------


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
            f"the checkpoint holds objects of {', '.join(sorted(found))} and could not be loaded "
            "again: convert them to tensors or plain values where they are put into it "
            "(state_dict of a callback or data module, on_save_checkpoint)"
        )
    return buffer.getbuffer()


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint of tensors and plain values; see `write_serialised`."""
    write_serialised(serialised(content), path)


def write_serialised(data: memoryview, path: Path) -> None:
    """Write the bytes of a checkpoint into a folder, read them back, put the folder in place.

    Raises:
        CheckpointError: It could not be written, or reads back differently; the temporary is
            removed and what stood at `path` before is intact.
    """
    temporary = temporary_path(path)
    with _all_or_nothing(path, needed=len(data)):
        _discard(temporary)
        temporary.mkdir(parents=True)
        with open(temporary / STATE_FILE, "wb") as stream:
            stream.write(data)
        if _seal(temporary) != {STATE_FILE: hashlib.sha256(data).hexdigest()}:
            raise OSError(
                errno.EIO, "what was written reads back differently; the disk may be failing"
            )
        _put_in_place(path)


def seal_folder(path: Path) -> None:
    """Make what was written into `temporary_path(path)` a checkpoint called `path`.

    Raises:
        CheckpointError: It could not be done; see `write_serialised`.
        ValueError: There are no files in it.
    """
    with _all_or_nothing(path):
        if not _seal(temporary_path(path)):
            raise ValueError(f"{temporary_path(path)} holds no files: there is no checkpoint")
        _put_in_place(path)


@contextmanager
def _all_or_nothing(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Clear away what a failed save left behind and turn its OSError into a CheckpointError."""
    try:
        try:
            yield
        finally:
            _bring_back(path.parent)
            _discard(temporary_path(path))
            if os.path.lexists(path):
                _discard(path.with_name(f".{path.name}{_ASIDE}"))
    except OSError as error:
        reason = str(error)
        if is_disk_full(error):
            free = free_bytes(path.absolute().parent) / 2**20
            need = f"about {needed / 2**20:.1f} MiB are needed, " if needed else ""
            reason = f"the disk or quota is full ({need}{free:.1f} MiB are free in {path.parent})"
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {reason}. Checkpoints saved before are "
            "intact.",
            error,
        ) from error


def _seal(folder: Path) -> dict[str, str]:
    """Bring a temporary folder to the disk with a listing of what reads back; return the listing.

    What was synced is dropped from the cache, so that reading it asks the disk.
    """
    for file in folder.rglob("*"):
        sync_folder(file) if file.is_dir() else _sync_file(file)
    listing = measure(folder)
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(listing.items()))
    (folder / LISTING).write_text(text, encoding="utf-8")
    _sync_file(folder / LISTING)
    sync_folder(folder)
    return listing


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _put_in_place(path: Path) -> None:
    if os.path.lexists(path):  # a folder cannot be replaced in one step
        os.replace(path, path.with_name(f".{path.name}{_ASIDE}"))
    os.replace(temporary_path(path), path)
    sync_folder(path.parent)


def _bring_back(folder: Path) -> None:
    """Give checkpoints that were moved aside, and never replaced, their names again."""
    for aside in folder.glob(f".*{_ASIDE}"):
        path = folder / aside.name[1:].removesuffix(_ASIDE)
        if not os.path.lexists(path):
            with suppress(OSError):
                os.replace(aside, path)


def _discard(path: Path) -> None:
    """Remove a file or a folder as far as that is possible; nothing depends on it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_checkpoint(path: str | Path) -> None:
    """Remove a checkpoint; killed in between, no broken one is left. A missing one is fine."""
    path = Path(path)
    temporary = temporary_path(path)
    _discard(temporary)
    if os.path.lexists(path):
        os.replace(path, temporary)
        _discard(temporary)


def remove_temporaries(folder: str | Path) -> None:
    """Remove what killed saves left in a folder; only while nobody saves there."""
    _bring_back(Path(folder))
    for temporary in Path(folder).glob(f".*{CHECKPOINT_SUFFIX}*.tmp"):
        _discard(temporary)


def point_to(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target`, replacing an older link in one step.

    Links are for people; nothing here finds checkpoints by them. So where links cannot be made
    it is left out, and a real file of that name is never replaced.
    """
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
