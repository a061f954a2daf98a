"""`sweep`: run every trial of a sweep file that is not done yet, and say how far it is.

Invariant: the same command again goes on; what is done is never run twice.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.files import file_lock, write_atomic
from training.studies.progress import Progress, count_text
from training.studies.runner import LocalRunner, gpu_names, run_on_ray
from training.studies.sweep_file import Sweep, command_of, expand, read_sweep, trial_names
from training.studies.trial_command import split_at_dashes, steps_of
from training.studies.trials import FORMAT_VERSION, LOCK_FILE, Trial

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
    from training.parsing import parse_options

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
    progress = Progress(trials, folder, retry_failed=options.retry_failed, jobs=options.jobs)
    found = count_text(list(progress.states.values()))
    print(f"{sweep.name}: {len(trials)} trials in {folder}: {found}", flush=True)
    runner = LocalRunner(
        jobs=options.jobs,
        gpus=gpu_names() if options.jobs > 1 else (),
        retry_failed=options.retry_failed,
        wait=options.wait,
    )
    stream = runner.run(progress.waiting)
    if options.engine == "ray" and progress.waiting:
        stream = run_on_ray(
            progress.waiting,
            jobs=options.jobs,
            resources={"num_cpus": options.cpus_per_trial, "num_gpus": options.gpus_per_trial},
            retry_failed=options.retry_failed,
            address=options.ray_address,
        )
    progress.watch(stream)
    progress.finish(runner.received)


def planned_trials(
    sweep: Sweep, folder: Path, options: SweepOptions, extra: Sequence[str]
) -> list[Trial]:
    """Return every trial of a sweep with its folder and processes."""
    chosen = expand(sweep, seed=options.seed, count=options.count)
    trials = []
    for name, parameters in zip(trial_names(sweep, chosen), chosen, strict=True):
        words = with_trial_options(command_of(sweep, parameters, extra), options.of_trials)
        command = (*words, f"--run.name={name}", f"--run.root={folder}")
        steps, makes_study = steps_of(command, folder / name)
        trials.append(
            Trial(
                name=name,
                folder=folder / name,
                parameters=parameters,
                command=command,
                steps=steps,
                makes_study=makes_study,
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
    settings = {"format_version": FORMAT_VERSION, "seed": seed_of, "extra": list(extra)}
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / LOCK_FILE, wait=True):
        if (folder / SWEEP_FILE).exists():  # written last: what has one has both
            _check_folder(folder, sweep, settings)
            return
        text = json.dumps(settings, indent=2) + "\n"
        write_atomic(folder / SETTINGS_FILE, text.encode("utf-8"))
        is_file = sweep.path.is_file()  # a pipe can be read only once
        text = sweep.path.read_text("utf-8-sig") if is_file else yaml.safe_dump(sweep.content)
        write_atomic(folder / SWEEP_FILE, text.encode("utf-8"))


def _check_folder(folder: Path, sweep: Sweep, settings: Mapping[str, Any]) -> None:
    stored = yaml.safe_load((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    before = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    if stored != sweep.content:
        keys = [k for k in {**stored, **sweep.content} if stored.get(k) != sweep.content.get(k)]
        what = f"another sweep file than {sweep.path} ({', '.join(keys)} differ)"
    elif before["seed"] != settings["seed"]:
        what = f"--seed {before['seed']}, not {settings['seed']}"
    elif before["extra"] != settings["extra"]:
        words = shlex.join(before["extra"]) or "nothing"
        what = f"other additions to the command: {words}, not {shlex.join(settings['extra'])!r}"
    else:
        return
    raise ValueError(f"{folder} holds trials of {what}: give another --output")
