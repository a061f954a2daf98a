"""Heartbeats and processes: who is behind the others, and how it is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.heartbeats import Heartbeat, lagging, read_heartbeats
from training.processes import descendants, process_state

LINUX = Path("/proc/self/stat").exists()
needs_proc = pytest.mark.skipif(not LINUX, reason="states of processes are read from /proc")
BOUND_S = 60.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that comes soon; the bound is generous, so that it never decides."""
    end = time.monotonic() + BOUND_S
    while not (result := condition()):
        assert time.monotonic() < end, f"still waiting: {what}"
        time.sleep(0.02)
    return result


def beat(rank: int, step: int, phase: str, *, age: float = 0.0, pid: int = 0) -> Heartbeat:
    host = "elsewhere" if not pid else os.uname().nodename
    return Heartbeat(
        rank=rank,
        pid=pid or 1,
        host=host,
        step=step,
        phase=phase,
        place="f (a.py:1)",
        beat=time.time() - age,
    )


def named(own: Heartbeat, *others: Heartbeat, world_size: int = 3) -> str:
    return lagging(own, [own, *others], world_size=world_size, silent_s=30)


def test_the_rank_behind_is_named_and_one_without_data_before_one_in_a_step() -> None:
    own = beat(0, 8, "step")
    assert "rank 2" in named(own, beat(1, 8, "data"), beat(2, 7, "step"))
    assert "rank 1 (pid 1 on elsewhere) waits for data after step 8" in named(
        own, beat(1, 8, "data"), beat(2, 8, "step")
    )
    level = named(own, beat(1, 8, "step"), beat(2, 9, "data"))
    assert level.startswith("No rank is behind it; level with it: rank 1") and "rank 2" not in level
    assert level.endswith("in f (a.py:1)")
    assert named(own, world_size=1) == ""


def test_a_rank_that_is_silent_or_absent_comes_first() -> None:
    own = beat(0, 8, "step")
    assert "rank 2 is silent for 50" in named(own, beat(1, 3, "step"), beat(2, 9, "step", age=50))
    assert "rank 1 left no heartbeat" in named(own, beat(2, 3, "step"))


def test_half_a_file_and_a_foreign_one_are_no_heartbeat(tmp_path: Path) -> None:
    for rank, content in enumerate(['{"rank": 0, "pi', '{"other": 1}', "[]"]):
        (tmp_path / f"rank-{rank}.json").write_text(content, encoding="utf-8")
    whole = vars(beat(3, 1, "data"))
    (tmp_path / "rank-3.json").write_text(json.dumps(whole), encoding="utf-8")
    assert [found.rank for found in read_heartbeats(tmp_path, 5)] == [3]


@needs_proc
def test_processes_below_this_one_are_found_with_their_states() -> None:
    code = "import subprocess; subprocess.run(['sleep', '1000'])"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: len(descendants(child.pid)) == 1, "its child")
        (grandchild,) = descendants(child.pid)
        assert {child.pid, grandchild} <= set(descendants(os.getpid()))
        os.kill(grandchild, signal.SIGSTOP)
        until(lambda: process_state(grandchild) == "stopped by a signal", "the stop")
        os.kill(grandchild, signal.SIGKILL)
        until(lambda: process_state(grandchild) == "gone", "the end")
    finally:
        child.kill()
        child.wait()
    assert process_state(child.pid) == "gone" and process_state(os.getpid()) != "gone"
