"""`trial`: one run and what follows it, as one command that may be stopped and started again.

A sweep reads the command too, and starts the fit and what follows it by itself; as a command of
its own it is for `wandb agent`. Invariant: every trial has a folder of its own. Its name is given
by `--run.name`, which `sweep` adds, or follows from the run's id where `wandb agent` starts it.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED
from training.run_folder import is_first_process
from training.studies.options import FieldsParser
from training.studies.runner import LocalRunner
from training.studies.study import DOWNSTREAM_FOLDER, RESULT_FILE, write_study
from training.studies.trials import Trial

PACKAGES = ("pretrain", "finetune")
PROGRAMS = ("pretrain", "ponet-pretrain")
"""What a command says before `trial`."""
EVALUATIONS = ("validate", "test")
DEFAULT_ROOT = "runs"
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


@dataclass(frozen=True, kw_only=True)
class RunTrial(Trial):
    """A trial whose command may be a `trial`: its fit and what follows it are started by us."""

    def _own(self) -> tuple[Sequence[str], TrialOptions] | None:
        """What stands before `trial` in its command, and what behind it; None: it is another."""
        for place in range(1, len(self.command)):
            before = Path(self.command[place - 1]).name
            if self.command[place] == "trial" and before in PROGRAMS:
                return self.command[:place], parse_trial(self.command[place + 1 :])
        return None

    def steps(self) -> list[Sequence[str]]:
        """Return the fit and what follows it; without the fit of a finished fine-tuning run.

        Raises:
            ValueError: A mistake in the options of `trial`.
        """
        own = self._own()
        if own is None:
            return [self.command]
        program, options = own
        if options.package == "finetune":
            fit = [sys.executable, "-m", "finetune", "fit", *options.fit]
            return [] if _has_result(self.folder) else [fit]
        follow = options.follow if is_first_process() else ()
        commands = [follow_command(step, options, self.folder) for step in follow]
        return [[*program, "fit", *options.fit], *commands]

    def conclude(self) -> None:
        """Write study.json.

        Raises:
            ValueError: The run left no metrics.
        """
        own = self._own()
        if own is not None and own[1].package == "pretrain" and is_first_process():
            write_study(self.folder)


@dataclass(frozen=True, kw_only=True)
class AgentsTrial(RunTrial):
    """One that somebody else keeps a record of."""

    def record(self) -> dict[str, object]:
        """Return nothing: it is always run."""
        return {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[TextIO | None]:
        """Give a file in place of a lock: its fit locks the folder itself."""
        with open(os.devnull, encoding="utf-8") as stream:
            yield stream

    @contextlib.contextmanager
    def open_log(self) -> Iterator[TextIO | None]:
        """Let its processes print where this one does."""
        yield None

    def write_start(self) -> None:
        """Keep no record."""

    def write_end(self, exit_code: int, *, interrupted: bool) -> str:
        """Write study.json where all ended well; returns why it failed, or nothing."""
        if not exit_code:
            self.conclude()
        return f"exit code {exit_code}" if exit_code else ""


def parse_trial(arguments: Sequence[str]) -> TrialOptions:
    """Return the options of `trial`; those of its fit stand after `--`.

    Raises:
        ValueError: A mistake in an option.
    """
    given = list(arguments)
    place = given.index("--") if "--" in given else len(given)
    parser = FieldsParser(
        "ponet-pretrain trial",
        usage="ponet-pretrain trial [options] -- FIT OPTIONS",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_options(TrialOptions, skip=("fit",), choices={"package": PACKAGES})
    options = parser.parse_args(given[:place])
    fit = tuple(given[place + 1 :])
    if not fit:
        raise ValueError("trial needs the options of fit after `--` (trial --help)")
    return TrialOptions(
        package=options.package,
        follow=tuple(options.follow),
        data_folder=tuple(options.data_folder),
        fit=fit,
    )


def run_trial(arguments: Sequence[str]) -> int:
    """Run a trial; the exit code of what ended it, 0 if all of it is done.

    Raises:
        ValueError: A mistake in the options, or the run left no result.
    """
    options = parse_trial(arguments)
    fit, folder = with_run_folder(options.fit, os.environ)
    before = arguments[: len(arguments) - len(options.fit)]
    command = (sys.executable, "-m", "pretrain", "trial", *before, *fit)
    trial = AgentsTrial(name=folder.name, folder=folder, command=command)
    runner = LocalRunner(max_starts=1)
    code = runner.run_one(trial).exit_code
    if runner.received is not None and code:
        return EXIT_INTERRUPT if runner.received is signal.SIGINT else EXIT_STOPPED
    return 128 - code if code < 0 else code


def with_run_folder(fit: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], Path]:
    """Return the options of `fit` with name and root of the run, and its folder.

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
    """Return the last value of an option, as `--name VALUE` or `--name=VALUE`; None: not given."""
    found = None
    for place, word in enumerate(options):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name and place + 1 < len(options):
            found = options[place + 1]
    return found


def follow_command(step: str, options: TrialOptions, folder: Path) -> list[str]:
    """Return the command line of what follows a fit.

    Args:
        step: validate, test, or the YAML file of a fine-tuning grid.
        options: Of the trial.
        folder: Of the run.
    """
    python = [sys.executable, "-m"]
    if step in EVALUATIONS:
        return [*python, "pretrain", step, *options.fit, "--run.wandb=off"]
    folders = [word for given in options.data_folder for word in ("--folder", given)]
    places = ["--encoder", str(folder), "--output", str(folder / DOWNSTREAM_FOLDER)]
    return [*python, "finetune", "grid", "--config", step, *places, *folders]


def _has_result(folder: Path) -> bool:
    """Whether a fine-tuning run has ended; a pretraining fit finds that out by itself."""
    path = folder / RESULT_FILE
    return path.is_file() and not json.loads(path.read_text(encoding="utf-8")).get("diverged")
