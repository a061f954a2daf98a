"""Processes below this one: which there are, and how to end them."""

import multiprocessing
import os
import signal
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Processes below one, nearest first; without Linux's /proc only this process's workers."""
    if not Path("/proc/self/stat").exists():
        return [child.pid for child in multiprocessing.active_children() if child.pid]
    children: dict[int, list[int]] = {}
    for number in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with suppress(OSError):  # it has just ended
            stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(number)
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
