"""A command with subcommands: dispatch, and how it ends, without importing torch for help.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from data_prep.command import output_is_closed
from training.interruption import EXIT_INTERRUPT, EXIT_MISTAKE, RunInterrupted, end_workers

DECIDED_BY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Whoever sets one of these has decided how threads of OpenMP wait."""
SPINS = "1000"
"""Of GNU's OpenMP, whose default spins for milliseconds; some microseconds."""


def run_main(
    program: str,
    argv: Sequence[str] | None,
    *,
    help: str,
    trains: tuple[str, Sequence[str]],
    commands: Mapping[str, str],
) -> int:
    """Run one command of a program; returns its exit code.

    Args:
        program: For instance `ponet-pretrain`.
        argv: Command and options; None: those of the process.
        help: What `--help` prints.
        trains: `module:function` of the commands that need Lightning, and their names; it is called
            with the whole command line and `started`, the time at which the command was.
        commands: Other commands: name -> `module:function`, called with the options.
    """
    started = time.monotonic()
    wait_briefly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help, end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        command, target = arguments[0], trains[0]
        if command in trains[1]:
            announce(program, arguments)
            return _code(_found(target)(arguments, started=started))
        if command in commands:
            return _code(_found(commands[command])(arguments[1:]))
        known = ", ".join((*trains[1], *commands))
        raise ValueError(f"unknown command {command!r}; the commands are {known}")
    except RunInterrupted as stopped:
        return _end(stopped)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return EXIT_INTERRUPT
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK") or output_is_closed(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_MISTAKE


def _found(target: str) -> Callable[..., object]:
    module, _, name = target.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), name)
    return function


def _code(returned: object) -> int:
    return returned if isinstance(returned, int) else 0


def _end(stopped: RunInterrupted) -> int:
    """Say why a run ended early; the exit code.

    A rank that Lightning itself started ends with 0: at any other code Lightning would kill the
    first rank, which has yet to end with the real one.
    """
    end_workers(patience_s=5.0)
    if os.environ.get("LOCAL_RANK", "0") != "0" and stopped.launched_by_lightning:
        return 0
    print(f"stopped: {stopped.reason}", file=sys.stderr)
    return stopped.exit_code


def wait_briefly() -> None:
    """Let threads that wait spin for a moment and then sleep, here and in processes started here.

    Two threads that spin beside other programs keep the cores from the very threads that they wait
    for. A short spin keeps the speed of a quiet machine, which sleeping at once does not
    (`python -m benchmarks.busy_machine`, docs/results/busy_machine.json). It has no effect once
    torch is imported, because OpenMP reads its settings when it is loaded.
    """
    if not any(name in os.environ for name in DECIDED_BY):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def announce(program: str, arguments: Sequence[str]) -> None:
    """Say on stderr what a command is busy with before it can say more; on the first rank."""
    if "torch" in sys.modules:
        return
    is_first = os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("RANK", "0") == "0"
    if is_first and not {"-h", "--help"} & set(arguments):
        text = f"{program} {arguments[0]}: loading PyTorch and Lightning, which takes some seconds"
        print(text, file=sys.stderr, flush=True)
