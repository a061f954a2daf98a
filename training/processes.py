"""Processes of this machine: how they are, which are below this one, and how to end those."""

import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path

_STATES = {
    "R": "running",
    "S": "alive, sleeping",
    "D": "alive, waiting for a disk or the network",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
}


def process_state(pid: int) -> str:
    """In words how a process of this machine is; `gone` if it has ended."""
    stat = _stat(pid)
    if stat is not None:
        return _STATES.get(stat[0], "gone" if stat[0] in "ZXx" else "alive")
    if Path("/proc/self/stat").exists():
        return "gone"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        return "alive"
    return "alive"


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process, from Linux's /proc; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent, *_ = text.rpartition(")")[2].split()
    return state, int(parent)


def descendants(pid: int) -> list[int]:
    """Processes below one, nearest first; without Linux's /proc only this process's workers."""
    if not Path("/proc/self/stat").exists():
        return [child.pid for child in multiprocessing.active_children() if child.pid]
    children: dict[int, list[int]] = {}
    for number in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        stat = _stat(number)
        if stat is not None:
            children.setdefault(stat[1], []).append(number)
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


def kill_descendants() -> None:
    """End every process below this one, also stopped ones and those that ignore signals."""
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def end_workers(patience_s: float) -> None:
    """End this process's data workers, which ignore signals; none may outlive the run.

    Args:
        patience_s: How long to wait for each to end by itself first.
    """
    for worker in multiprocessing.active_children():
        worker.join(patience_s)
        if worker.is_alive():
            worker.kill()
            worker.join()
