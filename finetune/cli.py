"""The `ponet-finetune` command: help and dispatch, without importing torch for help.

Invariant: a user's mistake ends in one line on stderr and exit code 2, never in a traceback.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.quiet_output import output_is_closed, quiet_output
from training.command_line import announce
from training.interruption import (
    EXIT_GUARD,
    EXIT_INTERRUPT,
    EXIT_MISTAKE,
    RunInterrupted,
)
from training.processes import end_workers
from training.threads import wait_asleep

HELP = """usage: ponet-finetune COMMAND ...     (also: python -m finetune COMMAND ...)

  fit        train on a task: --data.task NAME --model.encoder FOLDER --run.name NAME [options];
             your own CSV, TSV or JSONL files: --data.train FILE --data.validation FILE
  validate   score a run's classifier on its validation rows: --run.name NAME
  test       the same on its test rows, where their labels are public
  predict    label new texts: --model runs/NAME --input FILE --output FILE
  submit     write the files of the GLUE leaderboard from finished runs
  grid       run tasks x encoders x learning rates x batch sizes x seeds
  report     tables and a figure of one or more grids
  tasks      list the tasks that are known by name

`ponet-finetune COMMAND --help` lists the options of a command; --config FILE.yaml sets the same
options. Class paths in options and YAML files may name this project's and Lightning's classes;
--allow_modules PACKAGE adds others. PONET_TRACEBACK=1 shows where an error comes from.

exit codes: 0 done, 2 a mistake in options or data, or a failed trial; of fit and grid also 75
stopped by a signal, 130 stopped by Ctrl-C; of fit also 74 a file could not be written, 77 the run
diverged
"""
LIGHTNING_COMMANDS = ("fit", "validate", "test")
COMMANDS = (*LIGHTNING_COMMANDS, "predict", "submit", "grid", "report", "tasks")


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, see `HELP`."""
    started = time.monotonic()
    wait_asleep()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else EXIT_MISTAKE
    try:
        return _dispatch(arguments, started)
    except RunInterrupted as stopped:
        end_workers(patience_s=5.0)
        if os.environ.get("LOCAL_RANK", "0") != "0" and stopped.launched_by_lightning:
            return 0  # at any other code Lightning would kill the first rank before it has ended
        print(f"stopped: {stopped.reason}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return EXIT_INTERRUPT
    except (ValueError, OSError) as error:
        if os.environ.get("PONET_TRACEBACK") or output_is_closed(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_MISTAKE


def _dispatch(arguments: list[str], started: float) -> int:
    command, options = arguments[0], arguments[1:]
    if command in LIGHTNING_COMMANDS:
        announce("ponet-finetune", arguments)
        return _run_lightning(arguments, started)
    if command == "predict":
        from finetune.predict import run_predict

        run_predict(options)
    elif command == "submit":
        from finetune.submit import run_submit

        run_submit(options)
    elif command == "grid":
        from finetune.grids.command import run_grid

        run_grid(options)
    elif command == "report":
        from finetune.reporting.command import run_report

        run_report(options)
    elif command == "tasks":
        _print_tasks(options)
    else:
        raise ValueError(f"unknown command {command!r}; the commands are {', '.join(COMMANDS)}")
    return 0


def _run_lightning(arguments: list[str], started: float) -> int:
    from finetune.lightning_cli import run_command

    cli = run_command(arguments, started=started)
    if not cli.diverged or os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    print(
        f"error: training has diverged: {cli.diverged}; give a smaller --model.optimizer.lr, some "
        "--model.optimizer.warmup_share, or another --seed_everything",
        file=sys.stderr,
    )
    return EXIT_GUARD


class _TaskLine(NamedTuple):
    name: str
    rows: str
    score: str
    segments: str
    source: str


def _print_tasks(options: Sequence[str]) -> None:
    if options and options[0] not in ("-h", "--help"):
        raise ValueError(f"tasks takes no options, but {' '.join(options)} was given")
    from finetune.tasks.registry import TASKS

    lines = [_TaskLine("task", "train / validation / test rows", "score", "segments", "from")]
    notes = []
    for name, spec in TASKS.items():
        rows = " / ".join(f"{spec.sizes.get(s, 0):,}" for s in ("train", "validation", "test"))
        sources = [spec.hub.id] if spec.hub else []
        sources += ["--data.folder"] if spec.read_folder else []
        score = " + ".join(spec.score)
        lines.append(_TaskLine(name, rows, score, spec.segments, ", ".join(sources)))
        if spec.carve_validation:
            notes.append(f"{name}: {spec.carve_validation:.0%} of the training rows are validation")
        if spec.num_folds:
            folds = f"{spec.num_folds} folds (--data.fold, --data.repeat)"
            notes.append(f"{name}: all rows together, without duplicates, are cut into {folds}")
        notes += [f"{name}: {spec.warning}"] if spec.warning else []
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    print("\nown: your own files, see --data.train, --data.validation, --data.test")
    print("\n".join(notes))
