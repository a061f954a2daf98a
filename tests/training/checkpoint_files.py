"""Small checkpoints to save and damage, and faults to meet while they are saved."""

import os
import signal
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from training.checkpoints import storage
from training.checkpoints.storage import LISTING, STATE_FILE, checkpoint_path


def content(step: int) -> dict:
    return {"step": step, "state_dict": OrderedDict(weight=torch.full((2000,), float(step)))}


def save(folder: Path, *steps: int) -> Path:
    """Save the checkpoints of some steps; return the last one's path."""
    for step in steps:
        storage.write_checkpoint(content(step), checkpoint_path(folder, step))
    return checkpoint_path(folder, steps[-1])


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = storage.newest_valid(folder, warn=warnings.append)
    return (found.step if found else None), warnings


def flip_bit(path: Path, place: float) -> None:
    path = path / STATE_FILE if path.is_dir() else path
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def redigest(path: Path) -> Path:
    """Make a digest the way the error message tells users to."""
    where = path if path.is_dir() else path.parent
    command = f"sha256sum {path.name} > {path.name}.sha256"
    if path.is_dir():
        command = f"find . -type f ! -name {LISTING} -exec sha256sum {{}} + > {LISTING}"
    subprocess.run(command, shell=True, check=True, cwd=where)
    return path


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def failing(error: OSError, times: int = 10**9) -> Callable[..., None]:
    """A function that fails so many times, then does nothing."""
    left = [times]

    def fail(*args: object, **kwargs: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(error.errno, error.strerror)

    return fail


def in_child(action: Callable[[], object]) -> int:
    """Run an action in a forked process; return the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1


def killed_at(call: int, action: Callable[[], object]) -> bool:
    """Run an action that is killed by SIGKILL at its n-th rename or fsync; False if it ended."""

    def counted(function: Callable) -> Callable:
        def wrapper(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    left = [call]

    def run() -> None:
        os.replace, os.fsync = counted(os.replace), counted(os.fsync)
        action()

    return in_child(run) == signal.SIGKILL


def kill_points(action: Callable[[], object]) -> Iterator[int]:
    """Kill an action at every rename and fsync, and yield after each kill."""
    call = 0
    while killed_at(call, action):
        yield call
        call += 1
    assert call > 4


def make_folder(folder: Path, step: int, files: int = 2) -> Path:
    """Write a folder checkpoint under its temporary name."""
    temporary = storage.temporary_path(checkpoint_path(folder, step))
    (temporary / "sub").mkdir(parents=True)
    for number in range(files):
        (temporary / "sub" / f"rank-{number}.pt").write_bytes(bytes([number, step % 256]) * 500)
    return temporary


def seal(folder: Path, step: int, files: int = 2) -> Path:
    path = checkpoint_path(folder, step)
    make_folder(folder, step, files)
    storage.seal_folder(path)
    return path
