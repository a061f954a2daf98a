"""`trial`: one run and what follows it, as one command that may be stopped and started again.

A sweep reads the command too, and starts the fit and what follows it by itself; as a command of
its own it is for `wandb agent`. Invariant: every trial has a folder of its own. Its name is given
by `--run.name`, which `sweep` adds, or follows from the run's id where `wandb agent` starts it.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.command_line import option_value
from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED
from training.run_folder import is_first_process
from training.studies.runner import LocalRunner
from training.studies.study import DOWNSTREAM_FOLDER
from training.studies.trials import Trial

PROGRAMS = ("pretrain", "ponet-pretrain")
"""What a command says before `trial`."""
EVALUATIONS = ("validate", "test")
Steps = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """Run `fit` with the options after `--`, then what follows it, and write study.json.

    It stands in the run's folder and has the last metrics of pretraining, and the scores of every
    downstream task. The same command again goes on where it was stopped. Started by `wandb agent`,
    the run is called after the ids of sweep and run, and --run.wandb online is added.
    """

    package: Literal["pretrain", "finetune"] = "pretrain"
    """Whose fit is run."""
    follow: tuple[str, ...] = ()
    """What follows a pretraining run, in order; may be repeated: the YAML file of a fine-tuning
    grid, or validate or test (masked-LM and pair metrics at 15 % masks)."""
    data_folder: tuple[str, ...] = ()
    """Local copy of the downstream data, of all tasks (DIR) or of one (TASK=DIR); may be
    repeated."""

    def __post_init__(self) -> None:
        if self.package == "finetune" and self.follow:
            raise ValueError("--follow is for pretraining runs; leave it out with finetune")
        for step in self.follow:
            if step not in EVALUATIONS and not Path(step).is_file():
                raise ValueError(
                    f"--follow {step}: no such file; give the YAML of a fine-tuning grid, or "
                    f"{' or '.join(EVALUATIONS)}"
                )


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before the first `--`, and what behind it."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def parse_trial(arguments: Sequence[str]) -> tuple[TrialOptions, list[str]]:
    """Return the options of `trial`, and those of its fit, which stand after `--`."""
    from training.parsing import parse_options

    given, fit = split_at_dashes(arguments)
    options = parse_options(
        TrialOptions,
        given,
        program="ponet-pretrain trial",
        repeated=("follow", "data_folder"),
    )
    if not fit:
        raise ValueError("trial needs the options of fit after `--` (trial --help)")
    return options, fit


def steps_of(command: Sequence[str], folder: Path) -> tuple[Steps, bool]:
    """Return the processes of a command, and whether they end in study.json.

    Args:
        command: Of a sweep's trial; where it is a `trial`, its fit and what follows are started by
            the sweep itself.
        folder: Of the run.
    """
    for place in range(1, len(command)):
        if command[place] == "trial" and Path(command[place - 1]).name in PROGRAMS:
            options, fit = parse_trial(command[place + 1 :])
            return own_steps(command[:place], options, fit, folder)
    return (tuple(command),), False


def own_steps(
    program: Sequence[str], options: TrialOptions, fit: Sequence[str], folder: Path
) -> tuple[Steps, bool]:
    """Return the processes of a trial, and whether they end in study.json.

    Args:
        program: What starts pretraining.
        options: Of the trial.
        fit: Options of its fit.
        folder: Of the run.
    """
    if options.package == "finetune":
        return ((sys.executable, "-m", "finetune", "fit", *fit),), False
    if not is_first_process():
        return ((*program, "fit", *fit),), False
    folders = [word for given in options.data_folder for word in ("--folder", given)]
    places = ["--encoder", str(folder), "--output", str(folder / DOWNSTREAM_FOLDER), *folders]
    steps = [(*program, "fit", *fit)]
    for step in options.follow:
        words = ["finetune", "grid", "--config", step, *places]
        if step in EVALUATIONS:
            words = ["pretrain", step, *fit, "--run.wandb=off"]
        steps.append((sys.executable, "-m", *words))
    return tuple(steps), True


def run_trial(arguments: Sequence[str]) -> int:
    """Run a trial; the exit code of what ended it, 0 if all of it is done."""
    options, fit = parse_trial(arguments)
    fit, folder = with_run_folder(fit, os.environ)
    program = (sys.executable, "-m", "pretrain")
    steps, makes_study = own_steps(program, options, fit, folder)
    trial = Trial(
        name=folder.name,
        folder=folder,
        command=(*program, "trial", *arguments),
        steps=steps,
        makes_study=makes_study,
        recorded=False,
    )
    runner = LocalRunner(max_starts=1)
    outcome = runner.run_one(trial)
    if runner.received is not None and outcome.exit_code:
        return EXIT_INTERRUPT if runner.received is signal.SIGINT else EXIT_STOPPED
    if outcome.error and not outcome.exit_code:
        raise ValueError(outcome.error)
    return 128 - outcome.exit_code if outcome.exit_code < 0 else outcome.exit_code


def with_run_folder(fit: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], Path]:
    """Return the options of `fit` with name and root of the run, and its folder.

    Args:
        fit: What was given. A root in a YAML file does not count: `runs` is taken.
        environment: Under `wandb agent` it holds the ids of sweep and run.
    """
    options = list(fit)
    ids = (environment.get("WANDB_SWEEP_ID", ""), environment.get("WANDB_RUN_ID", ""))
    name, root = option_value(options, "--run.name"), option_value(options, "--run.root")
    if name is None and ids[1]:
        name = "/".join(part for part in ids if part)
        options.append(f"--run.name={name}")
    if name is None:
        raise ValueError(
            "trial needs --run.name NAME among the options of fit, one for every trial: "
            "`python -m pretrain sweep` and `wandb agent` give it"
        )
    if ids[0] and option_value(options, "--run.wandb") is None:
        options.append("--run.wandb=online")
    if root is None:
        root = "runs"
        options.append(f"--run.root={root}")
    return options, Path(root) / name
