"""`sweep` runs every trial of a sweep file that is not done yet; `trial` is one of them.

A trial is one run and what follows it. A sweep reads that command too, and starts the fit and what
follows by itself; as a command of its own it is for `wandb agent`. Invariant: the same command
again goes on; what is done is never run twice. Every trial has a folder of its own: its name is
given by `--run.name`, which `sweep` adds, or follows from the run's id where the agent starts it.
"""

import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from data_prep.command import EXIT_INTERRUPT, counted
from data_prep.files import file_lock, write_atomic, write_json
from training.command_line import option_value, parse_options
from training.interruption import EXIT_STOPPED
from training.run_folder import is_first_process
from training.studies.progress import Progress, count_text
from training.studies.runner import LocalRunner, gpu_names, run_on_ray
from training.studies.sweep_file import Sweep, command_of, expand, read_sweep, trial_names
from training.studies.trials import DOWNSTREAM_FOLDER, FORMAT_VERSION, LOCK_FILE, Trial

SWEEP_FILE, SETTINGS_FILE = "sweep.yaml", "sweep.json"
_DECIDED = ("--run.name", "--run.root", "--run.overwrite")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Run a sweep file in W&B's format without W&B.

    Every trial is the file's command with its ${args}, and a run name of its own. The same command
    again goes on where it was stopped; trials that are done are skipped. What stands after `--` is
    added to every trial's command, and what the sweep varies is repeated behind it: a config file
    there does not undo the sweep.
    """

    file: Path
    """Sweep file in W&B's format (configs/sweeps/)."""
    output: Path = Path()
    """Folder of the sweep, one run folder per trial below it; if not given: runs/<its name>."""
    jobs: int = 1
    """Trials at once; they share GPUs and cores. With --engine ray 0 means as many as fit."""
    engine: Literal["local", "ray"] = "local"
    """local: processes on this machine; ray: a Ray cluster whose machines share the disk."""
    dry_run: bool = False
    """Only print the command of every trial."""
    retry_failed: bool = False
    """Run again what failed in an earlier start."""
    wait: bool = True
    """Wait for trials that another runner has, and take over what it leaves; false: leave them."""
    count: int = 0
    """At most so many trials, the first ones; a larger number later adds to them. 0: the file's
    run_cap, or all of a grid (in which seeds vary slowest); method random needs one of the two."""
    seed: int = 42
    """Seed of method random."""
    follow: tuple[str, ...] = ()
    """For commands that are `trial`: what else follows each run (see `trial --help`)."""
    data_folder: tuple[str, ...] = ()
    """For commands that are `trial`: local copy of downstream data, [TASK=]DIR."""
    ray_address: str = ""
    """Of a running Ray cluster (host:port), or auto; empty: start one on this machine alone."""
    cpus_per_trial: float = 1.0
    """With --engine ray: CPUs that a trial takes."""
    gpus_per_trial: float = 0.0
    """With --engine ray: GPUs that a trial takes."""

    def __post_init__(self) -> None:
        least = {"jobs": int(self.engine == "local")}
        for name in ("jobs", "count", "cpus_per_trial", "gpus_per_trial"):
            if (value := getattr(self, name)) < least.get(name, 0):
                raise ValueError(f"--{name} is {value}; give {least.get(name, 0)} or more")

    @property
    def of_trials(self) -> list[str]:
        """The options of `trial` among these."""
        follow = [word for step in self.follow for word in ("--follow", step)]
        return follow + [word for place in self.data_folder for word in ("--data_folder", place)]


def parse_sweep(arguments: Sequence[str]) -> tuple[SweepOptions, list[str]]:
    """How to run a sweep file, and what is added to every command."""
    given, extra = split_at_dashes(arguments)
    options = parse_options(
        SweepOptions,
        given,
        program="ponet-pretrain sweep",
        repeated=("follow", "data_folder"),
        positional="file",
    )
    for word in extra:
        if word.partition("=")[0] in _DECIDED:
            raise ValueError(f"{word}: the sweep gives every trial a name and folder of its own")
    return options, extra


def run_sweep(arguments: Sequence[str]) -> None:
    """`sweep FILE [options] [-- OPTIONS]`."""
    options, extra = parse_sweep(arguments)
    sweep = read_sweep(options.file)
    folder = options.output if options.output != Path() else Path("runs") / sweep.folder_name
    trials = planned_trials(sweep, folder, options, extra)
    for note in sweep.notes:
        print(f"note: {note}")
    if options.dry_run:
        print("\n".join(shlex.join(trial.command) for trial in trials))
        return
    prepare_folder(folder, sweep, seed=options.seed, extra=[*options.of_trials, *extra])
    gpus = gpu_names() if options.jobs > 1 else ()
    retry_failed = options.retry_failed
    runner = LocalRunner(options.jobs, gpus, retry_failed=retry_failed, wait=options.wait)
    progress = Progress(trials, folder, runner)
    found, stream = count_text(list(progress.states.values())), None
    print(f"{sweep.name}: {counted(len(trials), 'trial(s)')} in {folder}: {found}", flush=True)
    if options.engine == "ray" and progress.waiting:
        stream = run_on_ray(
            progress.waiting,
            jobs=options.jobs,
            resources={"num_cpus": options.cpus_per_trial, "num_gpus": options.gpus_per_trial},
            retry_failed=retry_failed,
            address=options.ray_address,
        )
    progress.run(stream)


def planned_trials(
    sweep: Sweep, folder: Path, options: SweepOptions, extra: Sequence[str]
) -> list[Trial]:
    """Return every trial of a sweep with its folder and processes."""
    chosen = expand(sweep, seed=options.seed, count=options.count)
    trials = []
    for name, parameters in zip(trial_names(sweep, chosen), chosen, strict=True):
        words = with_trial_options(command_of(sweep, parameters, extra), options.of_trials)
        command = (*words, f"--run.name={name}", f"--run.root={folder}")
        trials.append(
            Trial(
                name=name,
                folder=folder / name,
                parameters=parameters,
                command=command,
                steps=steps_of(command, folder / name),
                metric=sweep.metric,
            )
        )
    return trials


def with_trial_options(words: Sequence[str], given: Sequence[str]) -> list[str]:
    """A command with options of `trial` put before its `--`."""
    if given and not {"trial", "--"} <= set(words):
        raise ValueError(
            "--follow and --data_folder are for sweep files whose command is `trial … -- ${args}`, "
            f"but this one is {shlex.join(words)}"
        )
    place = words.index("--") if given else 0
    return [*words[:place], *given, *words[place:]]


def prepare_folder(folder: Path, sweep: Sweep, *, seed: int, extra: Sequence[str]) -> None:
    """Keep the sweep's file and settings in its folder.

    Args:
        folder: Of the sweep; made if it is missing.
        sweep: The file.
        seed: Of method random.
        extra: What the command line adds to every trial.
    """
    seed_of = seed if sweep.method == "random" else None
    now = {"format_version": FORMAT_VERSION, "seed": seed_of, "extra": list(extra)}
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / LOCK_FILE, wait=True):
        if not (folder / SWEEP_FILE).exists():  # written last: what has one has both
            write_json(folder / SETTINGS_FILE, now)
            is_file = sweep.path.is_file()  # a pipe can be read only once
            text = sweep.path.read_text("utf-8-sig") if is_file else yaml.safe_dump(sweep.content)
            write_atomic(folder / SWEEP_FILE, text.encode("utf-8"))
            return
    stored = yaml.safe_load((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    before = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    keys = [k for k in {**stored, **sweep.content} if stored.get(k) != sweep.content.get(k)]
    what = [f"another sweep file than {sweep.path} ({', '.join(keys)} differ)"] if keys else []
    for name, text in (("seed", "--seed"), ("extra", "other additions to the command:")):
        if before[name] != now[name]:
            what.append(f"{text} {before[name]}, not {now[name]}")
    if what:
        raise ValueError(f"{folder} holds trials of {'; '.join(what)}: give another --output")


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


def steps_of(command: Sequence[str], folder: Path) -> Steps:
    """Return what a sweep starts itself where the command of a run is a `trial`."""
    for place in range(1, len(command)):
        if command[place] == "trial" and Path(command[place - 1]).name in PROGRAMS:
            options, fit = parse_trial(command[place + 1 :])
            return own_steps(command[:place], options, fit, folder)
    return ()


def own_steps(
    program: Sequence[str], options: TrialOptions, fit: Sequence[str], folder: Path
) -> Steps:
    """Return the processes of a trial in the folder of its run; `program` starts pretraining."""
    if options.package == "finetune":
        return ((sys.executable, "-m", "finetune", "fit", *fit),)
    folders = [word for given in options.data_folder for word in ("--folder", given)]
    places = ["--encoder", str(folder), "--output", str(folder / DOWNSTREAM_FOLDER), *folders]
    steps = [(*program, "fit", *fit)]
    for step in options.follow if is_first_process() else ():
        words = ["finetune", "grid", "--config", step, *places]
        if step in EVALUATIONS:
            # What ends a fit early ends no evaluation, which would refuse it.
            words = ["pretrain", step, *without_option(fit, "--max_time"), "--run.wandb=off"]
        steps.append((sys.executable, "-m", *words))
    return tuple(steps)


def without_option(options: Sequence[str], name: str) -> list[str]:
    """Return options without one that takes a value, given as `--name VALUE` or `--name=VALUE`."""
    kept, is_value = [], False
    for word in options:
        if not is_value and word != name and not word.startswith(f"{name}="):
            kept.append(word)
        is_value = word == name and not is_value
    return kept


def run_trial(arguments: Sequence[str]) -> int:
    """Run a trial; the exit code of what ended it, 0 if all of it is done."""
    options, fit = parse_trial(arguments)
    fit, folder = with_run_folder(fit, os.environ)
    program = (sys.executable, "-m", "pretrain")
    trial = Trial(
        name=folder.name,
        folder=folder,
        command=(*program, "trial", *arguments),
        steps=own_steps(program, options, fit, folder),
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
