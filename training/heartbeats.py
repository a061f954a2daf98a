"""Heartbeats: each rank of a run leaves a small file that says where it is, for the others to read.

Invariant: a file is replaced whole, so a reader never sees half of one.
"""

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from training.processes import process_state

_PHASES = {
    "start": "is still starting and has no data yet",
    "data": "waits for data after step {step}",
    "step": "is inside step {done} (forward, backward or a collective)",
    "validation": "is inside a validation batch after step {step}",
    "save": "saves a checkpoint at step {step}",
    "end": "is finishing after step {step}",
}
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Where a rank is; the content of `heartbeats/rank-<r>.json`."""

    rank: int
    pid: int
    host: str
    step: int
    """Optimiser steps done."""
    phase: str
    """What it does: a key of `_PHASES`."""
    place: str
    """Innermost Python function of its main thread."""
    beat: float
    """When this was written, seconds since 1970."""

    def state(self, silent_s: float) -> str:
        """`gone`, `stopped ...` or `silent ...` if the process cannot be at work, else empty."""
        if self.host == socket.gethostname():
            state = process_state(self.pid)
            if state == "gone" or state.startswith("stopped"):
                return state
        silence = time.time() - self.beat
        return f"silent for {in_words(silence)}" if silence > silent_s else ""

    def __str__(self) -> str:
        """Which process is where."""
        doing = _PHASES[self.phase].format(step=self.step, done=self.step + 1)
        return f"rank {self.rank} (pid {self.pid} on {self.host}) {doing}, in {self.place}"


def read_heartbeats(folder: Path, world_size: int) -> list[Heartbeat]:
    """The newest heartbeat of every rank that left one."""
    found = []
    for rank in range(world_size):
        with suppress(OSError, ValueError, TypeError):
            text = (folder / f"rank-{rank}.json").read_text(encoding="utf-8")
            found.append(Heartbeat(**json.loads(text)))
    return found


def lagging(own: Heartbeat, peers: list[Heartbeat], *, world_size: int, silent_s: float) -> str:
    """Which other rank is behind this one: not at work at all, or fewer steps done.

    Args:
        own: This rank.
        peers: All ranks known; this one may be among them.
        world_size: Number of ranks that should be known.
        silent_s: Age of a heartbeat from which its process counts as silent.
    """
    absent = sorted({*range(world_size)} - {own.rank, *(peer.rank for peer in peers)})
    if absent:
        return (
            f"The rank that lags: rank {absent[0]} left no heartbeat, it has ended or never began"
        )
    others = [peer for peer in peers if peer.rank != own.rank]
    if not others:
        return ""
    for peer in others:
        if state := peer.state(silent_s):
            return f"The rank that lags: rank {peer.rank} is {state}; last seen: {peer}"
    order = list(_PHASES)

    def place(beat: Heartbeat) -> tuple[int, int]:
        return beat.step, order.index(beat.phase)

    slowest = min(others, key=place)
    if place(slowest) < place(own):
        return f"The rank that lags: {slowest}"
    level = [str(peer) for peer in others if place(peer) == place(own)]
    return "; ".join(
        ["No rank is behind it", *(f"level with it: {p}" for p in level[:_MOST_NAMED])]
    )


def main_thread_place() -> str:
    """Function, file and line that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return "no Python function"
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"


def in_words(seconds: float) -> str:
    """A time span for people."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.1f} s"
