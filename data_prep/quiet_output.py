"""Output that never ends a command by itself: a closed pipe is no error, nor a plain locale."""

import contextlib
import functools
import io
import os
import select
import sys
from collections.abc import Callable
from typing import ParamSpec, TextIO

EXIT_PIPE = 141
"""As a shell reports a program that SIGPIPE ended: the reader of its output has gone."""
EXIT_UNWRITABLE = 2
P = ParamSpec("P")


def quiet_output(main: Callable[P, int]) -> Callable[P, int]:
    """Return the main function of a command whose reader may stop reading.

    Characters that the terminal's encoding lacks are shown as question marks.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
                stream.reconfigure(errors="replace")
        try:
            try:
                return main(*args, **kwargs)
            finally:
                if sys.stdout:
                    sys.stdout.flush()
        except OSError as error:
            gone = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
            if not gone and os.environ.get("PONET_TRACEBACK"):
                raise
            if not gone:
                print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
            for stream in gone or [sys.stdout]:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            return EXIT_PIPE if gone else EXIT_UNWRITABLE

    return run


def output_is_closed(error: BaseException) -> bool:
    """Return whether an error means that nobody reads the output any more."""
    return isinstance(error, BrokenPipeError) and any(map(_is_closed, (sys.stdout, sys.stderr)))


def _is_closed(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False
