"""The `ponet-pretrain` command: help and dispatch, without importing Lightning until it is needed.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import os
import sys
from collections.abc import Sequence

HELP = """usage: ponet-pretrain COMMAND ...     (also: python -m pretrain COMMAND ...)

  fit        pretrain an encoder: --config FILE.yaml [--config ...] [--run.name NAME] [options]
  validate   masked-LM and pair metrics on the fixed validation examples of a run
  test       the same on the whole validation split
  predict    write what a run's model says at every masked position to the run's folder
  fill       fill the [MASK]s of your own sentences from a bundle
  summary    print the table of one or more finished runs

`ponet-pretrain fit --help` lists every option of a command; `--print_config` shows the result of
all configs and options together. Set PONET_TRACEBACK=1 to see where an error comes from.
"""
LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 a mistake in the input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    try:
        _dispatch(arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _dispatch(arguments: list[str]) -> None:
    command = arguments[0]
    if command in LIGHTNING_COMMANDS:
        from pretrain.lightning_cli import run_command

        run_command(arguments)
    elif command == "fill":
        from pretrain.fill import run_fill

        run_fill(arguments[1:])
    elif command == "summary":
        from pretrain.summary import run_summary

        run_summary(arguments[1:])
    else:
        allowed = ", ".join((*LIGHTNING_COMMANDS, "fill", "summary"))
        raise ValueError(f"unknown command {command!r}; the commands are {allowed}")
