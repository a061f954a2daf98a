"""Running a process on behalf of another: signals are passed on, and it never outlives its runner.

Invariant: a run that is asked to stop gets to save its checkpoint; nothing is killed here.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, say
from training.studies.trials import RUNNER_VARIABLE

PATIENCE_S = 1.0
"""How often a process looks whether the runner that started it still lives."""
_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")


class Supervisor:
    """Runs one process after the other and passes on what asks for a stop.

    Use it as a context: signals are given back at its end.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """What asked for a stop first."""
        self._process: subprocess.Popen[bytes] | None = None
        self._passes_as_is = True
        self._has_passed = False
        self._replaced: dict[signal.Signals, Any] = {}
        runner = os.environ.get(RUNNER_VARIABLE, "")
        self._runner = int(runner) if runner.isdecimal() and int(runner) == os.getppid() else 0

    def __enter__(self) -> "Supervisor":
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._replaced[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    @property
    def exit_code(self) -> int:
        """What to end with when a stop was asked for: the caller may start again."""
        return EXIT_INTERRUPT if self.received is signal.SIGINT else EXIT_STOPPED

    def run(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        knows_every_signal: bool = True,
    ) -> int:
        """Run a process to its end; the exit code, below 0 if a signal ended it.

        Args:
            command: Program and arguments.
            environment: Of the process; this process's own if it is not given.
            knows_every_signal: Pass SIGUSR1 and SIGHUP on as they are, else as SIGTERM.
        """
        if self.received is not None:
            return self.exit_code
        self._passes_as_is, self._has_passed = knows_every_signal, False
        # Its own session, so that Ctrl-C reaches it once. Descriptors stay open for the sake of
        # the trial's lock: Python makes no other one inheritable.
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=False,
        )
        if self.received is not None and not self._has_passed:  # it came during the start
            self._send(self.received)
        while True:
            try:
                return self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._stop_without_runner()

    def _stop_without_runner(self) -> None:
        if self._runner and os.getppid() != self._runner:
            self._runner = 0
            say("the sweep that started this run is gone: stopping with a checkpoint")
            self._pass_on(signal.SIGTERM, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        asked = signal.Signals(number)
        self.received = self.received or asked
        self._send(asked)

    def _send(self, asked: signal.Signals) -> None:
        is_plain = asked in (signal.SIGINT, signal.SIGTERM)
        if self._process is not None and self._process.returncode is None:
            sent = asked if is_plain or self._passes_as_is else signal.SIGTERM
            self._process.send_signal(sent)
            self._has_passed = True
