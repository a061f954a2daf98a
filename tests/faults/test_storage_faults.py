"""Storage faults, long form: every kill point, every failing call, every kind of damage.

Each fault happens in a forked process, as a real kill or a real error of a file-system call.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoints import storage
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.storage import CheckpointError, checkpoint_path

pytestmark = pytest.mark.faults

CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir"}


def content(step: int, size: int = 3000) -> dict:
    return {"step": step, "a": torch.full((size,), float(step)), "b": torch.arange(size) * step}


def write(folder: Path, step: int, *, value: int | None = None) -> None:
    storage.write_checkpoint(content(value or step), checkpoint_path(folder, step))


def seal(folder: Path, step: int, *, value: int | None = None) -> None:
    """Write and seal a folder checkpoint; `value` decides its content and number of files."""
    path = checkpoint_path(folder, step)
    temporary = storage.temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "sub").mkdir(parents=True)
    for number in range(2 + (value or step) % 3):
        (temporary / "sub" / f"rank-{number}.pt").write_bytes(str(value or step).encode() * 999)
    storage.seal_folder(path)


def value_of(path: Path) -> int:
    if storage.is_sharded(path):
        parts = sorted((path / "sub").iterdir())
        text = parts[0].read_bytes().decode()
        value = int(text[: len(text) // 999])
        assert len(parts) == 2 + value % 3
        return value
    return int(storage.load_checkpoint(path)["a"][-1])


def save_aside(folder: Path, step: int, *, value: int | None = None) -> None:
    """Save in the background while the "training" changes the tensors."""
    io = VerifiedCheckpointIO(asynchronous=True, retries=0)
    state = content(value or step)
    io.save_checkpoint(state, checkpoint_path(folder, step))
    state["a"].zero_()
    io.teardown()


SAVES = {"file": write, "folder": seal, "aside": save_aside}


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = storage.newest_valid(folder, warn=warnings.append)
    return (found.step if found else None), warnings


def in_child(action: Callable[[], object]) -> int:
    """Run an action in a forked process; return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except CheckpointError:
            code = 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def meet_fault(at: int, fault: Callable[[], None], *, torn: bool = True) -> None:
    """Meet a fault at the n-th file-system call of this process and at all that follow.

    Calls are opens, renames, removals, listings, new folders, fsyncs and writes; of the write
    that meets the fault, half has reached the file (if `torn`).
    """
    left = [at]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            fault()

    real_open, real_sync = open, os.fsync

    class Counting:
        """A file whose writes are counted."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def fileno(self) -> int:
            return int(self.stream.fileno())

        def write(self, data: memoryview) -> None:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                if left[0] == 0 and torn:
                    self.stream.write(part[: len(part) // 2])
                    self.stream.flush()
                count()
                self.stream.write(part)

    def counted_sync(descriptor: int) -> None:
        count()
        real_sync(descriptor)

    storage.open = lambda *args: Counting(real_open(*args))  # type: ignore[attr-defined]
    os.fsync = counted_sync
    sys.addaudithook(lambda name, _: count() if name in CALLS else None)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- killed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAVES)
@pytest.mark.parametrize(
    ("before", "step"), [((100,), 200), ((100, 200), 200), ((100,), 100), ((), 100)]
)
def test_a_kill_at_every_file_system_call_leaves_old_or_new(
    tmp_path: Path, kind: str, before: tuple[int, ...], step: int
) -> None:
    save, outcomes, at = SAVES[kind], [], 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        for old in before:
            save(folder, old)

        def killed(at: int = at, folder: Path = folder) -> None:
            meet_fault(at, kill)
            save(folder, step, value=777)

        code = in_child(killed)
        found, warnings = newest(folder)
        assert warnings == [] and found in (*before, *((step,) if code == 0 else (step, None)))
        if found is None:
            assert not before
        else:
            value = value_of(checkpoint_path(folder, found))
            assert value == found or (found == step and value == 777)
            outcomes.append(value == 777)
        storage.remove_temporaries(folder)
        assert newest(folder)[0] == found
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        for other in before:
            storage.verify_checkpoint(checkpoint_path(folder, other))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        at += 1
    assert at > 10 and outcomes[-1] and (not before or not outcomes[0])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_killed_at_random_times_resumes_at_least_where_it_reported(
    tmp_path: Path, asynchronous: bool
) -> None:
    chance, reached = random.Random(0), 0
    for _ in range(25):
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _save_for_ever(tmp_path, reached, asynchronous, send)
            finally:
                os._exit(1)
        os.close(send)
        time.sleep(chance.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(receive, "rb") as reports:
            lines = reports.read().split()
        reported = int(lines[-1]) if lines else reached
        found, warnings = newest(tmp_path)
        assert warnings == [] and (found or 0) >= reported
        reached = found or 0
    assert reached > 25
    storage.remove_temporaries(tmp_path)
    assert len(list(tmp_path.iterdir())) <= 3


def _save_for_ever(folder: Path, reached: int, asynchronous: bool, send: int) -> None:
    """Save step after step, keep the last two, report each verified one through a pipe."""
    io = VerifiedCheckpointIO(asynchronous=asynchronous)
    storage.remove_temporaries(folder)

    def saved(path: Path) -> None:
        for old in storage.saved_checkpoints(folder)[:-2]:
            io.remove_checkpoint(old.path)
        os.write(send, f"{int(path.stem[5:])}\n".encode())

    io.on_saved = saved
    for step in range(reached + 1, 10**6):
        io.save_checkpoint(content(step, size=50_000), checkpoint_path(folder, step))


SCRIPT = """
import sys, os, torch
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.storage import checkpoint_path
io = VerifiedCheckpointIO(asynchronous=True)
io.save_checkpoint({"a": torch.ones(4_000_000)}, checkpoint_path(sys.argv[1], 1))
"""


@pytest.mark.parametrize(
    ("ending", "code", "saved"),
    [
        ("raise SystemExit(75)", 75, True),
        ("os._exit(3)", 3, None),
    ],
)
def test_the_end_of_a_process_waits_for_a_background_save_or_leaves_nothing_half(
    tmp_path: Path, repository: Path, ending: str, code: int, saved: bool | None
) -> None:
    command = [sys.executable, "-c", SCRIPT + ending, str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, timeout=60, check=False)
    found, warnings = newest(tmp_path)
    assert done.returncode == code and warnings == []
    assert found == 1 if saved else found in (1, None)


# --- failing calls ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAVES)
@pytest.mark.parametrize(
    ("step", "number", "lasting"),
    [(100, errno.EIO, False), (200, errno.EIO, False), (100, errno.ENOSPC, True)],
    ids=["once-same-step", "once-next-step", "lasting-same-step"],
)
def test_an_error_of_every_file_system_call_keeps_the_old_one(
    tmp_path: Path, kind: str, step: int, number: int, lasting: bool
) -> None:
    save, at, failures = SAVES[kind], 0, 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        save(folder, 100)
        met = folder / "met"

        def failing(at: int = at, folder: Path = folder, met: Path = met) -> None:
            times = [0]

            def fault() -> None:
                times[0] += 1
                if times[0] == 1:
                    os.symlink("fault", met)
                if lasting or times[0] == 1:
                    raise OSError(number, os.strerror(number))

            meet_fault(at, fault, torn=False)
            save(folder, step, value=777)

        code = in_child(failing)
        assert code in (0, 3) or kind == "folder"  # whose files the test itself writes
        failures += code != 0
        found, warnings = newest(folder)
        assert warnings == [] and found in (100, step)
        value = value_of(checkpoint_path(folder, found))
        assert value == 777 if code == 0 else value in (100, 777)
        if not met.is_symlink():
            break
        at += 1
    assert at > 10 and failures > 5


# --- damage ----------------------------------------------------------------------------------


def test_no_flipped_bit_and_no_cut_goes_unseen(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = checkpoint_path(tmp_path, 1) / storage.STATE_FILE
    whole, chance = path.read_bytes(), random.Random(2)
    damaged = [whole[:length] for length in chance.sample(range(len(whole)), 100)]
    damaged += [whole + b"\0", whole + whole, bytes(len(whole))]
    for place in chance.sample(range(len(whole)), 300):
        byte = whole[place] ^ (1 << chance.randrange(8))
        damaged.append(whole[:place] + bytes([byte]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged"):
            storage.load_checkpoint(path.parent)
    path.write_bytes(whole)
    assert value_of(path.parent) == 1
