"""`sweep`: run every trial of a sweep file that is not done yet, and say how far it is.

Invariant: the same command again goes on; what is done is never run twice.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_prep.files import file_lock, write_atomic
from training.studies.expansion import command_of, expand, folder_name, trial_names
from training.studies.options import FieldsParser
from training.studies.progress import Progress, Stream, count_text
from training.studies.runner import LocalRunner, gpu_names
from training.studies.sweep_file import Sweep, read_sweep
from training.studies.trial_command import RunTrial
from training.studies.trials import FORMAT_VERSION, Trial

SWEEP_FILE, SETTINGS_FILE = "sweep.yaml", "sweep.json"
_DECIDED = ("--run.name", "--run.root", "--run.overwrite")
_DESCRIPTION = """\
Runs a sweep file in W&B's format without W&B: every trial is the file's command with its ${args},
and a run name of its own. The same command again goes on where it was stopped; trials that are
done are skipped. What stands after `--` is added to every trial's command, and what the sweep
varies is repeated behind it: a config file there does not undo the sweep."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep file is run."""

    output: Path = Path()
    """Folder of the sweep, one run folder per trial below it; if not given: runs/<its name>."""
    jobs: int = 1
    """Trials at once; they share GPUs and cores. With --engine ray 0 means as many as fit."""
    engine: str = "local"
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
        """Check ranges."""
        least = 0 if self.engine == "ray" else 1
        if self.jobs < least:
            raise ValueError(f"--jobs is {self.jobs}; give {least} or more")
        if self.count < 0:
            raise ValueError(f"--count is {self.count}; give 1 or more")
        if self.cpus_per_trial < 0 or self.gpus_per_trial < 0:
            raise ValueError(
                f"--cpus_per_trial {self.cpus_per_trial} and --gpus_per_trial "
                f"{self.gpus_per_trial} must be 0 or more"
            )


def parse_sweep(arguments: Sequence[str]) -> tuple[Path, SweepOptions, list[str]]:
    """The sweep file, how to run it, and what is added to every command.

    Raises:
        ValueError: A mistake in an option.
    """
    given = list(arguments)
    extra: list[str] = []
    if "--" in given:
        place = given.index("--")
        given, extra = given[:place], given[place + 1 :]
    parser = FieldsParser(
        "ponet-pretrain sweep",
        usage="ponet-pretrain sweep FILE [options] [-- OPTIONS OF EVERY TRIAL]",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="sweep file in W&B's format (configs/sweeps/)")
    parser.add_options(SweepOptions, choices={"engine": ("local", "ray")})
    values = vars(parser.parse_args(given))
    file = values.pop("file")
    values |= {name: tuple(values[name]) for name in ("follow", "data_folder")}
    for word in extra:
        if word.partition("=")[0] in _DECIDED:
            raise ValueError(f"{word}: the sweep gives every trial a name and folder of its own")
    return file, SweepOptions(**values), extra


def run_sweep(arguments: Sequence[str]) -> None:
    """`sweep FILE [options] [-- OPTIONS]`.

    Raises:
        ValueError: A mistake in file or options, or a trial failed.
        RunInterrupted: The sweep was asked to stop.
    """
    file, options, extra = parse_sweep(arguments)
    sweep = read_sweep(file)
    folder = options.output if options.output != Path() else Path("runs") / folder_name(sweep)
    trials = planned_trials(sweep, folder, options, extra)
    for note in sweep.notes:
        print(f"note: {note}")
    if options.dry_run:
        print("\n".join(shlex.join(trial.command) for trial in trials))
        return
    prepare_folder(folder, sweep, seed=options.seed, extra=[*_trial_options(options), *extra])
    jobs = max(options.jobs, 1)
    progress = Progress(trials, folder, retry_failed=options.retry_failed, jobs=jobs)
    found = count_text(list(progress.states.values()))
    print(f"{sweep.name}: {len(trials)} trials in {folder}: {found}", flush=True)
    runner = LocalRunner(
        jobs=jobs,
        gpus=gpu_names() if jobs > 1 else (),
        retry_failed=options.retry_failed,
        wait=options.wait,
    )
    progress.watch(_stream(runner, progress.waiting(), options))
    progress.finish(runner.received)


def _stream(runner: LocalRunner, waiting: Sequence[Trial], options: SweepOptions) -> Stream:
    if options.engine == "local" or not waiting:
        return runner.run(waiting)
    from training.studies.ray_engine import run_on_ray

    return run_on_ray(
        waiting,
        jobs=options.jobs,
        resources={"num_cpus": options.cpus_per_trial, "num_gpus": options.gpus_per_trial},
        retry_failed=options.retry_failed,
        address=options.ray_address,
    )


def planned_trials(
    sweep: Sweep, folder: Path, options: SweepOptions, extra: Sequence[str]
) -> list[RunTrial]:
    """Return every trial of a sweep with its folder and command.

    Raises:
        ValueError: A mistake in the file's command, or in the number of trials.
    """
    chosen = expand(sweep, seed=options.seed, count=options.count)
    trials = []
    for name, parameters in zip(trial_names(sweep, chosen), chosen, strict=True):
        command = command_of(sweep, parameters, extra)
        own = [f"--run.name={name}", f"--run.root={folder}"]
        trials.append(
            RunTrial(
                name=name,
                folder=folder / name,
                parameters=parameters,
                command=(*with_trial_options(command, _trial_options(options)), *own),
                metric=sweep.metric,
            )
        )
    return trials


def _trial_options(options: SweepOptions) -> list[str]:
    follow = [word for step in options.follow for word in ("--follow", step)]
    return follow + [word for place in options.data_folder for word in ("--data_folder", place)]


def with_trial_options(command: Sequence[str], given: Sequence[str]) -> list[str]:
    """A command with options of `trial` put before its `--`.

    Raises:
        ValueError: It is not a `trial`.
    """
    words = list(command)
    if not given:
        return words
    if "trial" not in words or "--" not in words:
        raise ValueError(
            "--follow and --data_folder are for sweep files whose command is `trial … -- ${args}`, "
            f"but this one is {shlex.join(words)}"
        )
    place = words.index("--")
    return [*words[:place], *given, *words[place:]]


def prepare_folder(folder: Path, sweep: Sweep, *, seed: int, extra: Sequence[str]) -> None:
    """Keep the sweep's file and settings in its folder.

    Args:
        folder: Of the sweep; made if it is missing.
        sweep: The file.
        seed: Of method random.
        extra: What the command line adds to every trial.

    Raises:
        ValueError: The folder is of another file, seed or command line; says what differs.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "seed": seed if sweep.method == "random" else None,
        "extra": list(extra),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / Trial.lock_file, wait=True):
        if (folder / SWEEP_FILE).exists():  # written last: what has one has both
            _check_folder(folder, sweep, settings)
            return
        text = json.dumps(settings, indent=2) + "\n"
        write_atomic(folder / SETTINGS_FILE, text.encode("utf-8"))
        is_file = sweep.path.is_file()  # a pipe can be read only once
        given = (
            sweep.path.read_text(encoding="utf-8-sig") if is_file else yaml.safe_dump(sweep.content)
        )
        write_atomic(folder / SWEEP_FILE, given.encode("utf-8"))


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
