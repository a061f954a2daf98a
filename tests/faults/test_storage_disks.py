"""Disks that are full, read-only, or gone: the old checkpoint stays valid, the fault is named."""

import errno
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.checkpoints import storage
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.storage import CheckpointError, checkpoint_path

pytestmark = pytest.mark.faults


def content(step: int, size: int = 3000) -> dict:
    return {"step": step, "a": torch.full((size,), float(step)), "b": torch.arange(size) * step}


def write(folder: Path, step: int, *, value: int | None = None) -> None:
    storage.write_checkpoint(content(value or step), checkpoint_path(folder, step))


def newest(folder: Path) -> tuple[int | None, list[str]]:
    warnings: list[str] = []
    found = storage.newest_valid(folder, warn=warnings.append)
    return (found.step if found else None), warnings


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.call(command, stderr=subprocess.DEVNULL):
        pytest.skip("a small tmpfs cannot be mounted here (needs root with CAP_SYS_ADMIN)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_keeps_the_old_one_and_a_later_save_works(
    small_disk: Path, asynchronous: bool
) -> None:
    io = VerifiedCheckpointIO(asynchronous=asynchronous)
    io.save_checkpoint(content(1, size=40_000), checkpoint_path(small_disk, 1))
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    for step in (1, 2):
        with pytest.raises(CheckpointError, match=r"full \(about .* MiB are needed, .* are free"):
            io.save_checkpoint(content(step, size=60_000), checkpoint_path(small_disk, step))
            io.wait()
        assert newest(small_disk) == (1, [])
        assert len(list(small_disk.iterdir())) == 2
    (small_disk / "ballast").unlink()
    io.save_checkpoint(content(2, size=60_000), checkpoint_path(small_disk, 2))
    io.teardown()
    assert newest(small_disk) == (2, [])


def test_a_disk_filled_to_any_degree_never_breaks_a_checkpoint(small_disk: Path) -> None:
    write(small_disk, 1)
    page, outcomes = os.sysconf("SC_PAGE_SIZE"), set()
    stat = os.statvfs(small_disk)
    for pages in range(30):
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(stat.f_bavail * stat.f_frsize - pages * page))
        for step in (1, 2):
            try:
                write(small_disk, step, value=pages + 10)
            except CheckpointError as error:
                assert error.errno == errno.ENOSPC
            found, warnings = newest(small_disk)
            assert warnings == []
            storage.verify_checkpoint(checkpoint_path(small_disk, 1))
            outcomes.add(found)
        storage.remove_checkpoint(checkpoint_path(small_disk, 2))
        ballast.unlink()
    assert outcomes == {1, 2}


def test_a_disk_that_turns_read_only_is_named_and_works_again_later(small_disk: Path) -> None:
    write(small_disk, 1)
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    for step in (1, 2):
        with pytest.raises(CheckpointError, match="Read-only file system"):
            write(small_disk, step)
    assert newest(small_disk) == (1, [])
    storage.remove_temporaries(small_disk)
    storage.point_to(small_disk / "last.ckpt", checkpoint_path(small_disk, 1))
    subprocess.run([part.format("rw") for part in remount], check=True)
    write(small_disk, 2)
    assert newest(small_disk) == (2, [])


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    write(tmp_path, 1)
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("permissions do not stop this user (root)")
        with pytest.raises(CheckpointError, match="Permission denied"):
            write(tmp_path, 2)
    finally:
        tmp_path.chmod(0o755)
    assert newest(tmp_path) == (1, [])


def test_a_temporary_folder_elsewhere_or_nowhere_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    for folder in (small_disk, tmp_path / "missing"):
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr("tempfile.tempdir", None)
        write(tmp_path, 1)
        assert newest(tmp_path) == (1, [])
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_keeps_vanishing_never_ends_in_a_broken_checkpoint(tmp_path: Path) -> None:
    folder, stop, chance = tmp_path / "checkpoints", threading.Event(), random.Random(1)

    def vanish() -> None:
        while not stop.wait(chance.uniform(0.0, 0.03)):
            shutil.rmtree(folder, ignore_errors=True)

    io = VerifiedCheckpointIO(retries=50, retry_wait_s=0.0)
    thread = threading.Thread(target=vanish)
    thread.start()
    try:
        for step in range(1, 60):
            io.save_checkpoint(content(step), checkpoint_path(folder, step))
    finally:
        stop.set()
        thread.join()
    io.save_checkpoint(content(60), checkpoint_path(folder, 60))
    assert newest(folder) == (60, [])
