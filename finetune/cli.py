"""The `ponet-finetune` command: help and dispatch, without importing torch for help."""

from collections.abc import Sequence

from data_prep.command import quiet_output
from training.command_line import run_main

HELP = """usage: ponet-finetune COMMAND ...     (also: python -m finetune COMMAND ...)

  fit        train on a task: --data.task NAME --model.encoder FOLDER --run.name NAME [options];
             your own CSV, TSV or JSONL files: --data.train FILE --data.validation FILE
  validate   score a run's classifier on its validation rows: --run.name NAME
  test       the same on its test rows, where their labels are public
  predict    label new texts: --model runs/NAME --input FILE --output FILE
  explain    which words decided: --model runs/NAME --input FILE --output FILE.html
  submit     write the files of the GLUE leaderboard from finished runs
  grid       run tasks x encoders x learning rates x batch sizes x seeds
  report     tables and a figure of one or more grids
  baseline   score a linear model on a task, without an encoder: the data options of fit
  tasks      list the tasks that are known by name
  lra        Long Range Arena: fit, grid, baseline (python -m finetune lra --help)

`ponet-finetune COMMAND --help` lists the options of a command; --config FILE.yaml sets the same
options. Class paths in options and YAML files may name this project's and Lightning's classes;
--allow_modules PACKAGE adds others. PONET_TRACEBACK=1 shows where an error comes from.

exit codes: 0 done, 2 a mistake in options or data, or a failed trial, 130 stopped by Ctrl-C; of fit
and grid also 75 stopped by a signal, of other commands 143 stopped by SIGTERM; of fit also 74 a
file could not be written, 77 the run diverged
"""
TRAINS = ("finetune.lightning_cli:run_and_judge", ("fit", "validate", "test"))
COMMANDS = {
    "predict": "finetune.predict:run_predict",
    "explain": "finetune.explain:run_explain",
    "submit": "finetune.submit:run_submit",
    "grid": "finetune.grid:run_grid",
    "report": "training.reports.command:run_finetuning_report",
    "baseline": "finetune.baselines.command:run_baseline",
    "tasks": "finetune.cli:print_tasks",
    "lra": "finetune.lra.command:run_lra",
}


@quiet_output
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, see `HELP`."""
    return run_main("ponet-finetune", argv, help=HELP, trains=TRAINS, commands=COMMANDS)


def print_tasks(options: Sequence[str]) -> None:
    """List the tasks that are known by name."""
    if options and options[0] not in ("-h", "--help"):
        raise ValueError(f"tasks takes no options, but {' '.join(options)} was given")
    from finetune.tasks.registry import TASKS

    lines = [("task", "train / validation / test rows", "score", "segments", "from")]
    notes = []
    for name, spec in TASKS.items():
        rows = " / ".join(f"{spec.sizes.get(s, 0):,}" for s in ("train", "validation", "test"))
        sources = [spec.hub.id] if spec.hub else []
        sources += ["--data.folder"] if spec.read_folder else []
        score = " + ".join(spec.score) or "frame_em"  # of tagged texts it follows from the data
        lines.append((name, rows, score, spec.segments, ", ".join(sources)))
        if spec.carve_validation:
            notes.append(f"{name}: {spec.carve_validation:.0%} of the training rows are validation")
        if spec.num_folds:
            folds = f"{spec.num_folds} folds (--data.fold, --data.repeat)"
            notes.append(f"{name}: all rows together, without duplicates, are cut into {folds}")
        notes += [f"{name}: {spec.warning}"] if spec.warning else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
    print("\nown: your own files, see --data.train, --data.validation, --data.test")
    print("frame_em: a text counts where every tag and its label are right")
    print("\n".join(notes))
