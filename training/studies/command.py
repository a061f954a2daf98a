"""`sweep`: run every trial of a sweep file that is not done yet, and say how far it is.

Invariant: the same command again goes on; what is done is never run twice.
"""

import shlex
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, RunInterrupted
from training.studies.expansion import command_of, expand, folder_name, trial_names
from training.studies.options import FieldsParser
from training.studies.reading import Sweep, read_sweep
from training.studies.running import LocalRunner, Outcome, gpu_names
from training.studies.trials import LOG_FILE, Trial, prepare_folder
from training.studies.trials import State as TrialState

ALIKE_FAILURES = 3
"""So many first trials that fail with the same words stop the sweep: it is a mistake in it."""
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
    states = {trial.name: trial.state() for trial in trials}
    print(_plan_line(sweep, folder, states), flush=True)
    Progress(sweep=sweep, folder=folder, trials=trials, options=options).run(states)


def planned_trials(
    sweep: Sweep, folder: Path, options: SweepOptions, extra: Sequence[str]
) -> list[Trial]:
    """Every trial of a sweep with its folder and command.

    Raises:
        ValueError: A mistake in the file's command, or in the number of trials.
    """
    chosen = expand(sweep, seed=options.seed, count=options.count)
    trials = []
    for name, parameters in zip(trial_names(sweep, chosen), chosen, strict=True):
        command = command_of(sweep, parameters, extra)
        own = [f"--run.name={name}", f"--run.root={folder}"]
        trials.append(
            Trial(
                name=name,
                folder=folder / name,
                parameters=parameters,
                command=(*with_trial_options(command, _trial_options(options)), *own),
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


def _plan_line(sweep: Sweep, folder: Path, states: dict[str, TrialState]) -> str:
    found = Counter(states.values())
    return (
        f"{sweep.name}: {len(states)} trials in {folder}: {found['done']} done, "
        f"{found['failed']} failed, {found['open']} to run"
    )


@dataclass
class Progress:
    """A sweep while it runs."""

    sweep: Sweep
    """Its file."""
    folder: Path
    """Its folder."""
    trials: Sequence[Trial]
    """All trials."""
    options: SweepOptions
    """How it is run."""

    def run(self, states: dict[str, TrialState]) -> None:
        """Run what is open and say how each trial ended.

        Raises:
            ValueError: A trial failed.
            RunInterrupted: The sweep was asked to stop.
        """
        wanted = ("open", "failed") if self.options.retry_failed else ("open",)
        waiting = [trial for trial in self.trials if states[trial.name] in wanted]
        runner = LocalRunner(
            jobs=max(self.options.jobs, 1),
            gpus=gpu_names() if self.options.jobs > 1 else (),
            retry_failed=self.options.retry_failed,
            wait=self.options.wait,
        )
        outcomes: dict[str, Outcome] = {}
        with closing(self._stream(runner, waiting)) as stream:  # type: ignore[type-var]
            for trial, outcome in stream:
                outcomes[trial.name] = outcome
                print(self._line(trial, outcome, len(outcomes), len(waiting)), flush=True)
                if _fail_alike(outcomes) and len(outcomes) < len(waiting):
                    raise ValueError(
                        f"the first {ALIKE_FAILURES} trials failed alike, so the others were not "
                        f"run: {outcome.error}"
                    )
        self._finish(outcomes, runner.received)

    def _stream(
        self, runner: LocalRunner, waiting: Sequence[Trial]
    ) -> Iterator[tuple[Trial, Outcome]]:
        if self.options.engine == "local" or not waiting:
            return runner.run(waiting)
        from training.studies.ray_engine import run_on_ray

        options = self.options
        return run_on_ray(
            waiting,
            self.folder,
            jobs=options.jobs,
            resources={"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial},
            retry_failed=options.retry_failed,
            address=options.ray_address,
        )

    def _line(self, trial: Trial, outcome: Outcome, number: int, total: int) -> str:
        texts = {"failed": f"failed: {outcome.error}", "elsewhere": "left to another runner"}
        text = texts.get(outcome.state, outcome.state)
        value = (
            trial.record()["metrics"].get(self.sweep.metric) if outcome.state == "done" else None
        )
        if isinstance(value, int | float):
            text = f"{self.sweep.metric} {value:.4f}"
        spent = f" ({outcome.elapsed_s:,.0f} s)" if outcome.elapsed_s else ""
        return f"[{number}/{total}] {trial.name}: {text}{spent}"

    def _finish(self, outcomes: dict[str, Outcome], received: signal.Signals | None) -> None:
        states = {trial.name: trial.state() for trial in self.trials}
        found = Counter(states.values())
        failed = [trial for trial in self.trials if states[trial.name] == "failed"]
        for trial in failed:
            error = trial.record().get("error", "")
            print(f"failed: {trial.name}: {error} (see {trial.folder / LOG_FILE})")
        print(f"{found['done']} of {len(states)} trials are done, in {self.folder}", flush=True)
        if received is not None or any(o.state == "interrupted" for o in outcomes.values()):
            code = EXIT_INTERRUPT if received is signal.SIGINT else EXIT_STOPPED
            left = found["open"]
            raise RunInterrupted(f"{left} trials are left; the same command goes on", code)
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(states)} trials failed; each folder's {LOG_FILE} says why; "
                "--retry_failed true runs them again"
            )


def _fail_alike(outcomes: dict[str, Outcome]) -> bool:
    run_now = [outcome for outcome in outcomes.values() if outcome.elapsed_s]
    return (
        len(run_now) == ALIKE_FAILURES
        and all(outcome.state == "failed" for outcome in run_now)
        and len({outcome.error for outcome in run_now}) == 1
    )
