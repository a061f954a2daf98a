"""`trial`: one run and what follows it, as one command that may be stopped and started again.

Invariant: every trial has a folder of its own. Its name is given by `--run.name`, which `sweep`
adds, or follows from the run's id where `wandb agent` starts the command.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.interruption import say
from training.run_folder import is_first_process
from training.studies.options import FieldsParser
from training.studies.study import DOWNSTREAM_FOLDER, write_study
from training.studies.supervision import Supervisor

PACKAGES = ("pretrain", "finetune")
EVALUATIONS = ("validate", "test")
DEFAULT_ROOT = "runs"
_AGENT_VARIABLES = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
_DESCRIPTION = """\
Runs `fit` with the options after `--`, then what follows it, and writes study.json into the run's
folder: the last metrics of pretraining, and the scores of every downstream task. The same command
again goes on where it was stopped. Started by `wandb agent`, the run is called after the ids of
sweep and run, and --run.wandb online is added."""


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """One run and what follows it."""

    package: str = "pretrain"
    """Whose fit is run: pretrain or finetune."""
    follow: tuple[str, ...] = ()
    """What follows a pretraining run, in order; may be repeated: the YAML file of a fine-tuning
    grid, or validate or test (masked-LM and pair metrics at 15 % masks)."""
    data_folder: tuple[str, ...] = ()
    """Local copy of the downstream data, of all tasks (DIR) or of one (TASK=DIR); may be
    repeated."""
    fit: tuple[str, ...] = ()
    """The options of fit."""

    def __post_init__(self) -> None:
        """Check what follows."""
        if self.package == "finetune" and self.follow:
            raise ValueError("--follow is for pretraining runs; leave it out with finetune")
        for step in self.follow:
            if step not in EVALUATIONS and not Path(step).is_file():
                raise ValueError(
                    f"--follow {step}: no such file; give the YAML of a fine-tuning grid, or "
                    f"{' or '.join(EVALUATIONS)}"
                )


def parse_trial(arguments: Sequence[str]) -> TrialOptions:
    """The options of `trial`; those of its fit stand after `--`.

    Raises:
        ValueError: A mistake in an option.
    """
    given = list(arguments)
    if "--" in given:
        place = given.index("--")
        given, fit = given[:place], given[place + 1 :]
    else:
        fit = []
    options = trial_parser().parse_args(given)
    if not fit:
        raise ValueError("trial needs the options of fit after `--` (trial --help)")
    return TrialOptions(
        package=options.package,
        follow=tuple(options.follow),
        data_folder=tuple(options.data_folder),
        fit=tuple(fit),
    )


def trial_parser() -> argparse.ArgumentParser:
    """The parser of what stands before `--`."""
    parser = FieldsParser(
        "ponet-pretrain trial",
        usage="ponet-pretrain trial [options] -- FIT OPTIONS",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_options(TrialOptions, skip=("fit",), choices={"package": PACKAGES})
    return parser


def run_trial(arguments: Sequence[str]) -> int:
    """Run a trial; the exit code of what ended it, 0 if all of it is done.

    Raises:
        ValueError: A mistake in the options, or the run left no result.
    """
    options = parse_trial(arguments)
    fit, folder = with_run_folder(options.fit, os.environ)
    with Supervisor() as supervisor:
        if not _is_done(folder, options.package):
            code = supervisor.run(_python(options.package, "fit", *fit))
            if code or not is_first_process():
                return _shell_code(code)
        if options.package == "finetune":
            return 0
        for step in options.follow:
            command = follow_command(step, fit, folder, options.data_folder)
            say(f"after the fit: {' '.join(command[2:])}")
            code = supervisor.run(command, environment=_plain(os.environ), knows_every_signal=False)
            if supervisor.received is not None:
                return supervisor.exit_code
            if code:
                say(f"error: what follows the fit failed: {step}")
                return _shell_code(code)
        if supervisor.received is not None:
            return supervisor.exit_code
    write_study(folder)
    return 0


def with_run_folder(fit: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], Path]:
    """The options of `fit` with name and root of the run, and its folder.

    Args:
        fit: What was given. A root in a YAML file does not count: `runs` is taken.
        environment: Under `wandb agent` it holds the ids of sweep and run.

    Raises:
        ValueError: Nothing says what the run is called.
    """
    options = list(fit)
    name, root = option_value(options, "--run.name"), option_value(options, "--run.root")
    run_id = environment.get("WANDB_RUN_ID", "")
    if name is None and run_id:
        name = "/".join(part for part in (environment.get("WANDB_SWEEP_ID", ""), run_id) if part)
        options.append(f"--run.name={name}")
    if name is None:
        raise ValueError(
            "trial needs --run.name NAME among the options of fit, one for every trial: "
            "`python -m pretrain sweep` and `wandb agent` give it"
        )
    if environment.get("WANDB_SWEEP_ID") and option_value(options, "--run.wandb") is None:
        options.append("--run.wandb=online")
    if root is None:
        root = DEFAULT_ROOT
        options.append(f"--run.root={root}")
    return options, Path(root) / name


def option_value(options: Sequence[str], name: str) -> str | None:
    """The last value of an option, as `--name VALUE` or `--name=VALUE`; None: not given."""
    found = None
    for place, word in enumerate(options):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(options):
            found = options[place + 1]
    return found


def follow_command(
    step: str, fit: Sequence[str], folder: Path, data_folders: Sequence[str]
) -> list[str]:
    """The command line of what follows a fit.

    Args:
        step: validate, test, or the YAML file of a fine-tuning grid.
        fit: The options of the fit.
        folder: Of the run.
        data_folders: Local copies of downstream data.
    """
    if step in EVALUATIONS:
        return _python("pretrain", step, *fit, "--run.wandb=off")
    folders = [word for given in data_folders for word in ("--folder", given)]
    places = ["--encoder", str(folder), "--output", str(folder / DOWNSTREAM_FOLDER)]
    return _python("finetune", "grid", "--config", step, *places, *folders)


def _python(package: str, command: str, *options: str) -> list[str]:
    return [sys.executable, "-m", package, command, *options]


def _plain(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make W&B take another run for this one."""
    return {name: value for name, value in environment.items() if name not in _AGENT_VARIABLES}


def _is_done(folder: Path, package: str) -> bool:
    """Whether a fine-tuning run has its result; a pretraining fit finds that out by itself."""
    path = folder / "result.json"
    if package != "finetune" or not path.is_file():
        return False
    return not json.loads(path.read_text(encoding="utf-8")).get("diverged")


def _shell_code(code: int) -> int:
    """The exit code of a process, 128 + N where signal N ended it."""
    return 128 - code if code < 0 else code
