"""How a run ends early: its exit codes, and who asks for it (a signal, a time budget).

Invariant: a handler only takes a note. The run itself stops between two optimiser steps or two
validation batches, on all ranks at the same one, with a checkpoint.
"""

import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from data_prep.command import EXIT_INTERRUPT, EXIT_MISTAKE, EXIT_PIPE
from data_prep.stopping import EXIT_SIGTERM

EXIT_STORAGE = 74
EXIT_STOPPED = 75
EXIT_WATCHDOG = 76
EXIT_GUARD = 77

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
EXIT_CODES = {
    0: "done",
    EXIT_MISTAKE: "a mistake in the options, files or data; nothing was trained",
    EXIT_STORAGE: "a checkpoint or other file could not be written; earlier checkpoints are intact",
    EXIT_STOPPED: "stopped by a signal or the time budget, with a checkpoint: run it again",
    EXIT_WATCHDOG: "a rank or a data worker made no progress and was ended",
    EXIT_GUARD: "a loss, gradient or weight was not finite, or the loss jumped; no such state is "
    "saved",
    EXIT_INTERRUPT: "stopped by Ctrl-C: once with a checkpoint, twice at once",
    EXIT_PIPE: "nobody reads the output any more, as before `head`",
    EXIT_SIGTERM: "SIGTERM to a command that trains nothing",
}
"""Every exit code of `ponet-pretrain` with its meaning."""

RUNNER_VARIABLE = "PONET_SWEEP_RUNNER"
"""Environment variable with the process id of the sweep or grid that started a trial."""

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class RunInterrupted(Exception):
    """Training ended before its last step, for a reason that is no error of the program.

    Args:
        reason: One line for the user.
        exit_code: What the process ends with.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code
        self.launched_by_lightning = False
        """Whether Lightning started this process as one of several ranks."""


def parse_duration(text: str) -> float:
    """Seconds in `[DD:]HH:MM:SS` or a number with s, m, h or d.

    Raises:
        ValueError: Neither form, or not above zero.
    """
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+):(\d+)", text)
    amount = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = 0.0
    if clock:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60.0 + rest
    elif amount:
        seconds = float(amount[1]) * _UNITS_S[amount[2]]
    if seconds <= 0:
        raise ValueError(
            f"max_time {text!r} is no duration: give [DD:]HH:MM:SS, or a number with s, m, h or d "
            "such as 90m"
        )
    return seconds


def signal_named(name: str) -> signal.Signals:
    """The signal of a name such as SIGTERM.

    Raises:
        ValueError: No such signal here, or one that no process can handle.
    """
    known = {s.name: s for s in signal.valid_signals() if isinstance(s, signal.Signals)}
    if name not in known or name in ("SIGKILL", "SIGSTOP", "SIGINT"):
        raise ValueError(
            f"{name!r} cannot ask a run to stop; use names like SIGTERM, SIGUSR1, SIGUSR2, SIGHUP "
            "(SIGINT always does)"
        )
    return known[name]


class RunnerWatch:
    """Whether the sweep or grid that started this process has ended without stopping it."""

    def __init__(self) -> None:
        runner = os.environ.get(RUNNER_VARIABLE, "")
        self._runner = int(runner) if runner.isdecimal() and int(runner) == os.getppid() else 0

    @property
    def is_gone(self) -> bool:
        """Whether a runner started this process and does not live any more."""
        return self._runner != 0 and os.getppid() != self._runner


class StopRequest:
    """Whether somebody wants the run to stop, and why.

    Args:
        signals: Names of the signals that ask for a stop; SIGINT always does.
        budget_s: Seconds the run may take, counted from `started`.
        started: `time.monotonic()` of the start; None: now.
        again: What a stopped run goes on with.
    """

    def __init__(
        self,
        signals: Sequence[str] = ("SIGTERM", "SIGUSR1"),
        *,
        budget_s: float = math.inf,
        started: float | None = None,
        again: str = "the same command",
    ) -> None:
        self.again = again
        self._signals = [signal_named(name) for name in signals]
        self._budget_s = budget_s
        self._started = time.monotonic() if started is None else started
        self._runner = RunnerWatch()
        self._received: signal.Signals | None = None
        self._replaced: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take notes of the signals from now on; only in the main thread, where Python allows."""
        if threading.current_thread() is threading.main_thread():
            for number in (*self._signals, signal.SIGINT):
                previous = signal.signal(number, self._note)
                self._replaced.setdefault(number, previous)

    def uninstall(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._replaced.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._replaced.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        twice = self._received is signal.SIGINT  # Ctrl-C stays what counts
        if number == signal.SIGINT and twice:
            os.write(2, b"\nstopped without a checkpoint\n")
            kill_descendants()
            os._exit(EXIT_INTERRUPT)
        if number == signal.SIGINT:
            os.write(2, b"\nCtrl-C: stopping with a checkpoint; once more stops at once\n")
        self._received = signal.SIGINT if twice else signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """0 to go on; EXIT_STOPPED or EXIT_INTERRUPT to stop."""
        if self._received is signal.SIGINT:
            return EXIT_INTERRUPT
        over = time.monotonic() - self._started >= self._budget_s
        return EXIT_STOPPED if over or self._received or self._runner.is_gone else 0

    @property
    def reason(self) -> str:
        """What asked for the stop, in words."""
        if self._received is not None:
            return f"{self._received.name} was received"
        if self._runner.is_gone:
            return "the sweep that started this run is gone"
        if self.exit_code:
            return f"the time budget of {self._budget_s:.0f} s is used up"
        return "another rank was asked to stop"


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals that stop a run; processes that are started meanwhile inherit that.

    Data workers are started so: torch lets SIGTERM end them until `ignore_signals_in_worker` runs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_in_worker(worker_id: int) -> None:
    """`worker_init_fn` of the loaders: a signal to the whole process group must not end them.

    The training process decides; it ends its workers itself, and they notice if it dies.
    """
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


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
