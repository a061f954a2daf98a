"""Faults while a checkpoint is saved: the old one stays valid, nothing half-written counts."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    content,
    failing,
    flip_bit,
    hidden,
    in_child,
    kill_points,
    make_folder,
    newest,
    save,
    seal,
)

from training.checkpoints import storage
from training.checkpoints.storage import STATE_FILE, CheckpointError, checkpoint_path


@pytest.mark.parametrize("step", [100, 200])
def test_a_kill_anywhere_in_a_save_leaves_the_old_or_the_new_one(tmp_path: Path, step: int) -> None:
    save(tmp_path, 100)
    new = {"step": step, "new": True, "big": torch.zeros(5000)}
    for _ in kill_points(lambda: storage.write_checkpoint(new, checkpoint_path(tmp_path, step))):
        found, warnings = newest(tmp_path)
        loaded = storage.load_checkpoint(checkpoint_path(tmp_path, found))
        assert found in (100, step) and warnings == []
        assert loaded.keys() in (content(1).keys(), new.keys()) and loaded["step"] == found
        storage.remove_temporaries(tmp_path)
        assert hidden(tmp_path) == []
    assert newest(tmp_path) == (step, [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_failing_call_is_an_error_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    path = save(tmp_path, 5)
    with monkeypatch.context() as patch:
        fault = failing(OSError(number, os.strerror(number)))
        patch.setattr(*((storage, "open") if call == "open" else (os, call)), fault, raising=False)
        for target in (path, checkpoint_path(tmp_path, 6)):
            with pytest.raises(CheckpointError, match=f"{target.name}.*could not be") as caught:
                storage.write_checkpoint(content(9), target)
            assert caught.value.errno == number
    assert newest(tmp_path) == (5, []) and storage.load_checkpoint(path)["step"] == 5
    assert hidden(tmp_path) == [] and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_how_much_is_needed_and_free(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    writer = torch.zeros(1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "full")))
        with pytest.raises(CheckpointError, match=r"4\.0 MiB are needed, [\d.]+ MiB are free"):
            storage.write_checkpoint({"a": writer, "b": writer[:5]}, path)


def test_a_file_size_limit_in_the_middle_of_writing_keeps_the_old_one(tmp_path: Path) -> None:
    path, said = save(tmp_path, 5), tmp_path / "said"

    def limited() -> None:
        limit = (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        try:
            storage.write_checkpoint({"big": torch.zeros(1 << 20)}, path)
        except CheckpointError as error:
            said.write_text(str(error))

    assert in_child(limited) == 0
    assert "File too large" in said.read_text() and hidden(tmp_path) == []
    assert storage.load_checkpoint(path)["step"] == 5


def test_what_reads_back_differently_is_never_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "measure", lambda path: {STATE_FILE: "0" * 64})
        with pytest.raises(CheckpointError, match="reads back differently"):
            storage.write_checkpoint(content(6), checkpoint_path(tmp_path, 6))
    assert newest(tmp_path) == (5, []) and hidden(tmp_path) == []


def test_a_sealed_folder_is_found_verified_and_removed(tmp_path: Path) -> None:
    save(tmp_path, 100)
    path = seal(tmp_path, 200)
    assert newest(tmp_path) == (200, []) and path.is_dir()
    with pytest.raises(CheckpointError, match="written by all ranks of a sharded run"):
        storage.load_checkpoint(path)
    storage.remove_checkpoint(path)
    assert newest(tmp_path) == (100, []) and len(list(tmp_path.iterdir())) == 1


def test_a_missing_additional_or_changed_file_of_a_folder_is_named(tmp_path: Path) -> None:
    path = seal(tmp_path, 200, files=3)
    (path / "sub" / "rank-0.pt").unlink()
    (path / "extra.pt").touch()
    flip_bit(path / "sub" / "rank-2.pt", 0.5)
    with pytest.raises(CheckpointError) as caught:
        storage.verify_checkpoint(path)
    said = str(caught.value)
    assert "missing: sub/rank-0.pt; not listed: extra.pt;" in said
    assert said.endswith("changed or cut short: sub/rank-2.pt")


@pytest.mark.parametrize("step", [100, 200])
def test_a_kill_anywhere_in_sealing_leaves_a_valid_folder(tmp_path: Path, step: int) -> None:
    seal(tmp_path, 100)
    make_folder(tmp_path, step, files=3)

    for _ in kill_points(lambda: storage.seal_folder(checkpoint_path(tmp_path, step))):
        found, warnings = newest(tmp_path)
        assert found in (100, step) and warnings == []
        storage.remove_temporaries(tmp_path)
        make_folder(tmp_path, step, files=3)
    assert newest(tmp_path) == (step, [])
    assert len(list((checkpoint_path(tmp_path, step) / "sub").iterdir())) == 3


@pytest.mark.parametrize(("call", "failing_one"), [("fsync", 3), ("replace", 2)])
def test_a_failed_sealing_keeps_the_old_folder_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failing_one: int
) -> None:
    seal(tmp_path, 100)
    path = checkpoint_path(tmp_path, 100)
    make_folder(tmp_path, 100, files=3)
    real, calls = getattr(os, call), []

    def once_fails(*args: object) -> object:
        calls.append(args)
        if len(calls) == failing_one:
            raise OSError(errno.EIO, "broken")
        return real(*args)

    monkeypatch.setattr(os, call, once_fails)
    with pytest.raises(CheckpointError, match="could not be written"):
        storage.seal_folder(path)
    assert newest(tmp_path) == (100, []) and len(list((path / "sub").iterdir())) == 2
    assert hidden(tmp_path) == []
    seal(tmp_path, 100, files=3)
    assert newest(tmp_path) == (100, []) and len(list((path / "sub").iterdir())) == 3


def test_an_empty_folder_is_not_sealed(tmp_path: Path) -> None:
    make_folder(tmp_path, 5, files=0)
    with pytest.raises(ValueError, match="holds no files"):
        storage.seal_folder(checkpoint_path(tmp_path, 5))
