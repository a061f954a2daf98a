"""A run's folder has one writer, and an earlier run in it is replaced whole or not at all."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from training.callbacks.history import _last_end
from training.run_folder import (
    LOCK_FILE,
    add_event,
    append_record,
    own_files,
    read_events,
    replacing,
    sole_writer,
)

OWN = ("metrics.jsonl", "checkpoints", "bundle", "predictions-*.jsonl", "wandb")
HOLD = """
import os, sys, time
from training.run_folder import sole_writer
with sole_writer(sys.argv[1], own=(), doing="fit"):
    if "fork" not in sys.argv or os.fork() == 0:  # the child speaks when its hooks have run
        print("held", flush=True)
    time.sleep(60)
    os._exit(0)
"""


def tree(folder: Path) -> dict[str, bytes | None]:
    """Names and bytes of all that is in a folder, without the lock."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.name != LOCK_FILE}
    return {name: path.read_bytes() if path.is_file() else None for name, path in found.items()}


def write(folder: Path, *names: str, text: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text} {name}")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run with all it can have, files of the user, and a run nested below its name."""
    folder = tmp_path / "exp"
    own = ("metrics.jsonl", "checkpoints/step-1.ckpt", "bundle/config.json", "predictions-0.jsonl")
    write(folder, *own, "notes.txt", "a1/metrics.jsonl", "a1/checkpoints/step-9.ckpt", text="old")
    return folder


@contextlib.contextmanager
def holder(folder: Path, *options: str):
    command = [sys.executable, "-c", HOLD, str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_writer_is_told_who_holds_the_folder_and_a_killed_one_never_blocks(tmp_path):
    with holder(tmp_path / "run") as process:
        with pytest.raises(ValueError, match=rf"run is in use: fit \(process {process.pid} on "):
            with sole_writer(tmp_path / "run", own=(), doing="fit"):
                pass
        process.kill()
        process.wait()
        with sole_writer(tmp_path / "run", own=(), doing="fit"):
            assert str(os.getpid()) in (tmp_path / "run" / LOCK_FILE).read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_that_outlives_a_killed_writer_does_not_hold_the_folder(tmp_path):
    with holder(tmp_path / "run", "fork") as process:
        process.kill()  # its child goes on
        process.wait()
        with sole_writer(tmp_path / "run", own=(), doing="fit"):
            pass


def test_the_same_process_holds_a_folder_once_and_leaves_nothing_of_its_own(tmp_path):
    folder = tmp_path / "runs" / "exp" / "a1"
    with sole_writer(folder, own=(), doing="fit"):
        with pytest.raises(ValueError, match="in use"):
            with sole_writer(folder, own=(), doing="fit"):
                pass
        with sole_writer(folder.parent, own=(), doing="fit"):  # another run: another folder
            pass
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)
    with sole_writer(folder, own=(), doing="fit"):
        pass
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_a_replacement_takes_the_runs_own_files_and_nothing_else(earlier):
    before = tree(earlier)
    with sole_writer(earlier, own=OWN, doing="fit"), replacing(earlier, own=OWN):
        assert own_files(earlier, own=OWN) == []
        write(earlier, "metrics.jsonl", text="new")
    kept = {name: content for name, content in before.items() if name.startswith(("a1", "notes"))}
    assert tree(earlier) == {**kept, "metrics.jsonl": b"new metrics.jsonl"}


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_beginning_that_fails_leaves_the_earlier_run_as_it_was(error, earlier):
    before = tree(earlier)
    with pytest.raises(error), sole_writer(earlier, own=OWN, doing="fit"):
        with replacing(earlier, own=OWN):
            write(earlier, "metrics.jsonl", "wandb/run/log", text="new")
            raise error
    assert tree(earlier) == before


def test_a_run_inside_the_runs_own_folders_is_never_taken(earlier):
    write(earlier, "checkpoints/metrics.jsonl", text="another run")
    before = tree(earlier)
    with pytest.raises(ValueError, match="checkpoints is a run of its own"):
        with sole_writer(earlier, own=OWN, doing="fit"), replacing(earlier, own=OWN):
            pytest.fail("was replaced")
    assert tree(earlier) == before


def _replace_and_die(folder: Path, call: int, *, by_restoring: bool) -> None:
    """In a forked child: end like a killed process before the given change of the file system."""
    count = 0

    def dying(change):
        def changed(*arguments, **options):
            nonlocal count
            count += 1
            if count == call:
                os._exit(9)
            return change(*arguments, **options)

        return changed

    for module, name in ((os, "replace"), (Path, "mkdir"), (Path, "unlink"), (Path, "rmdir")):
        setattr(module, name, dying(getattr(module, name)))
    shutil.rmtree = dying(shutil.rmtree)
    with contextlib.suppress(OSError), sole_writer(folder, own=OWN, doing="fit"):
        with replacing(folder, own=OWN):
            write(folder, "metrics.jsonl", "wandb/log", text="new")
            if by_restoring:
                raise OSError
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("by_restoring", [False, True])
def test_killed_at_any_moment_the_earlier_run_is_back_or_the_new_one_has_begun(
    by_restoring, earlier, tmp_path
):
    old = tree(earlier)
    kept = {name: content for name, content in old.items() if name.startswith(("a1", "notes"))}
    new = {
        **kept,
        "metrics.jsonl": b"new metrics.jsonl",
        "wandb": None,
        "wandb/log": b"new wandb/log",
    }
    ends, call = [], 0
    while not ends or ends[-1] != 0:
        call += 1
        folder = shutil.copytree(earlier, tmp_path / f"copy-{call}")
        child = os.fork()
        if child == 0:
            _replace_and_die(folder, call, by_restoring=by_restoring)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with sole_writer(folder, own=OWN, doing="fit"):
            pass
        assert tree(folder) in ([old] if by_restoring else [old, new]), f"killed at change {call}"
    assert len(ends) > 8
    assert set(ends[:-1]) == {9}


def test_records_are_lines_with_the_time_first_and_make_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "records.jsonl"
    for step in (1, 2):
        append_record(path, {"step": step})
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(record) for record in found] == [["time", "step"]] * 2
    assert [record["step"] for record in found] == [1, 2]
    assert datetime.fromisoformat(found[0]["time"]).utcoffset() == timedelta(0)


def test_an_event_that_a_kill_has_cut_short_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    assert (read_events(tmp_path), _last_end(tmp_path)) == ([], -1)
    add_event(tmp_path, "started", command="ponet-pretrain fit")
    assert _last_end(tmp_path) == -1
    add_event(tmp_path, "finished", step=7)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026-01-0')
    assert [event["event"] for event in read_events(tmp_path)] == ["started", "finished"]
    assert _last_end(tmp_path) == 7
    add_event(tmp_path, "resumed", step=7)
    assert [event["event"] for event in read_events(tmp_path)][2:] == ["resumed"]
