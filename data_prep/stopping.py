"""SIGTERM as an exception, as Ctrl-C is: files that were begun are removed, and a line is said."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.command import EXIT_INTERRUPT

EXIT_SIGTERM = 143
"""As a shell reports a program that SIGTERM ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise Terminated at SIGTERM, where it would end this process and nobody else handles it.

    Processes that are forked meanwhile end by it as ever.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def terminate(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped_by(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return what has stopped a command, in words, and the exit code for it."""
    if isinstance(stop, Terminated):
        return "SIGTERM", EXIT_SIGTERM
    return "Ctrl-C", EXIT_INTERRUPT
