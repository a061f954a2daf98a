"""The `ponet-pretrain` command: help and dispatch, without importing Lightning until it is needed.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import os
import sys
import time
from collections.abc import Sequence

from data_prep.quiet_output import output_is_closed, quiet_output
from training.command_line import announce
from training.interruption import (
    EXIT_CODES,
    EXIT_INTERRUPT,
    EXIT_MISTAKE,
    RunInterrupted,
)
from training.processes import end_workers
from training.threads import wait_asleep

HELP = """usage: ponet-pretrain COMMAND ...     (also: python -m pretrain COMMAND ...)

  fit        pretrain an encoder: --config FILE.yaml [--config ...] [--run.name NAME] [options]
  validate   masked-LM and pair metrics on the fixed validation examples of a run
  test       the same on the whole validation split
  predict    write what a run's model says at every masked position to the run's folder
  fill       fill the [MASK]s of your own sentences from a bundle
  export     turn a checkpoint (also a sharded one) into a bundle or an ordinary checkpoint
  summary    print the table of one or more finished runs
  report     one self-contained HTML page about runs or a sweep: report RUNS... --out FOLDER
  compare    two runs side by side, in configuration, curves and results: compare A B
  sweep      run every trial of a sweep file in W&B's format, with or without W&B: sweep FILE.yaml
  tune       find a learning rate or a micro-batch size for a configuration: tune lr|batch_size ...
  trial      one fit and what follows it (validation, fine-tuning grids): --follow FILE.yaml -- ...

`ponet-pretrain fit --help` lists every option of a command; `--print_config` shows the result of
all configs and options together. A fit that was stopped goes on when its command is run again
(--resume auto). Class paths in options and YAML files may name this project's and Lightning's
classes; --allow_modules PACKAGE adds others. PONET_TRACEBACK=1 shows where an error comes from.

exit codes:
"""
LIGHTNING_COMMANDS = ("fit", "validate", "test", "predict")


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns one of `EXIT_CODES`."""
    started = time.monotonic()
    wait_asleep()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP + "".join(f"  {code:3d}  {text}\n" for code, text in EXIT_CODES.items()), end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        return _dispatch(arguments, started)
    except RunInterrupted as stopped:
        return _end(stopped)
    except KeyboardInterrupt:
        return EXIT_INTERRUPT
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK") or output_is_closed(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_MISTAKE


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


def _dispatch(arguments: list[str], started: float) -> int:
    """Run a command; its exit code where it ends without an exception."""
    command = arguments[0]
    if command in LIGHTNING_COMMANDS:
        announce("ponet-pretrain", arguments)
        from pretrain.lightning_cli import run_command

        run_command(arguments, started=started)
    elif command == "export":
        from pretrain.export import run_export

        run_export(arguments[1:])
    elif command == "fill":
        from pretrain.fill import run_fill

        run_fill(arguments[1:])
    elif command == "summary":
        from training.summary import run_summary

        run_summary(arguments[1:])
    elif command == "report":
        from training.reports.command import run_pretraining_report

        run_pretraining_report(arguments[1:])
    elif command == "compare":
        from training.reports.compare import run_compare

        run_compare(arguments[1:])
    elif command == "sweep":
        from training.studies.command import run_sweep

        run_sweep(arguments[1:])
    elif command == "tune":
        from pretrain.tuning.command import run_tune

        run_tune(arguments[1:])
    elif command == "trial":
        from training.studies.trial_command import run_trial

        return run_trial(arguments[1:])
    else:
        others = ("fill", "export", "summary", "report", "compare", "sweep", "tune", "trial")
        allowed = ", ".join((*LIGHTNING_COMMANDS, *others))
        raise ValueError(f"unknown command {command!r}; the commands are {allowed}")
    return 0
