"""`grid`: task x encoder x learning rate x batch x seed, as trials of `training.studies`.

Invariant: the same command again goes on. A trial is done when its result.json is there; one that
was done with other settings, data or weights is never taken for done. Seeds come first in the
order, so that a grid which is stopped early has compared everything on equal seeds.
"""

import contextlib
import itertools
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from data_prep.command import EXIT_INTERRUPT, counted
from finetune.grid_trials import GridTrial, check_fits, refuse_decided, with_modules
from finetune.tasks.selection import Selection
from training.command_line import merged, parse_options
from training.configuration import RUN_PARTS
from training.interruption import EXIT_STOPPED
from training.parsing import with_allowed_modules
from training.run_config import TRIAL_CONFIG_FILE, largest_divisor
from training.studies.progress import Progress, count_text
from training.studies.runner import LocalRunner, gpu_names

FIT_COMMAND = (sys.executable, "-m", "finetune", "fit", "--config")
BASELINE_COMMAND = (*FIT_COMMAND[:3], "baseline", "--config")
BASELINE_FOLDER = "linear-baseline"
RANDOM_PREFIX, OWN_TASK = "random:", "own"
SEARCHED: Mapping[str, tuple[type, Callable[[Any], bool], str]] = {
    "lrs": (float, lambda lr: lr > 0, "learning rates, > 0"),
    "batch_sizes": (int, lambda size: size >= 1, "numbers of examples, >= 1"),
    "seeds": (int, lambda seed: 0 <= seed < 2**32, "seeds, in [0, 2^32)"),
}
"""What a grid searches, which a task may have of its own: type, range, and both in words."""
# What the grid itself decides; keys of `fit` that would be overwritten without a word.
DECIDED_BY = {
    "model.encoder": "encoders",
    "model.random_init": f"encoders ({RANDOM_PREFIX}PATH)",
    "model.optimizer.lr": "lrs",
    "data.task": "tasks",
    "data.encoder": "encoders",
    "data.seed": "seeds",
    "data.global_batch_size": "batch_sizes",
    "data.fold": "seeds (the k-th seed is the k-th fold)",
    "data.repeat": "seeds (a seed beyond the folds is another repeat)",
    "seed_everything": "seeds",
    "run.root": "--output",
    "run.name": "--output",
    "run.overwrite": "--retry_failed",
}
MICRO_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Fine-tune every encoder on every task with every setting and seed.

    The same command again goes on: what is done is skipped.
    """

    tasks: tuple[str, ...] = ()
    """Tasks, as `python -m finetune tasks` lists them."""
    encoders: tuple[str, ...] = ()
    """Folders of runs, bundles or released weights (also --encoder, which may be repeated);
    random:PATH takes sizes and tokenizer only."""
    lrs: tuple[float, ...] = ()
    """Peak learning rates to search, > 0."""
    batch_sizes: tuple[int, ...] = (32,)
    """Examples per optimiser step to search, >= 1."""
    seeds: tuple[int, ...] = (42,)
    """Seeds; every setting is trained with each. With folds (of own files: fit.data.num_folds), the
    k-th seed trains the k-th fold."""
    folder: tuple[str, ...] = ()
    """Local copy of the data (data.folder): DIR of all tasks, or TASK=DIR; may be repeated. Empty:
    the Hub, or what `fit` says."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Options of `fit` for every trial, nested as in its YAML files; --fit.data.max_len 64, …"""
    task_fit: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per task: options of `fit` laid over those; lrs, batch_sizes and seeds may stand here too."""
    baseline: bool = False
    """Also score a linear model on every task (`baseline`), once, or once for each fold."""
    output: Path = Path("runs/grid")
    """Folder of the grid: task/encoder/setting-and-seed, each with result.json."""
    jobs: int = 0
    """Trials at once, each in a process of its own; 0: one per GPU, one where there is none."""
    in_process: bool = False
    """One trial after the other in this very process, for a debugger."""
    dry_run: bool = False
    """Only say what would be run, and whether `fit` knows the options."""
    retry_failed: bool = False
    """Run again what failed in an earlier start."""
    keep: Literal["best", "all", "none"] = "best"
    """Classifiers that stay: best (of a task and encoder, on validation), all, or none."""

    def __post_init__(self) -> None:
        for name, option in (("tasks", "--tasks"), ("encoders", "--encoder PATH")):
            _check_list(name, getattr(self, name), f"{option}, or a key of --config GRID.yaml")
        for task, own in self.task_fit.items():
            if not isinstance(own, Mapping):
                raise ValueError(f"task_fit of {task} is {own!r}; give options, nested as in `fit`")
        for name, task in itertools.product(SEARCHED, ("", *self.task_fit)):
            self.searched(name, task)
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give 1 or more, or 0 for one per GPU")

    def searched(self, name: str, task: str) -> Sequence[Any]:
        """Return the values of one of `SEARCHED` for a task."""
        (kind, is_right, what), given = SEARCHED[name], self.task_fit.get(task, {}).get(name)
        given = getattr(self, name) if given is None else given
        given = given if isinstance(given, list | tuple) else (given,)
        values: list[Any] = []
        with contextlib.suppress(ValueError):
            values = [kind(str(value)) for value in given]
        place = f"{name} of {task}" if task else name
        _check_list(place, values if all(map(is_right, values)) else (), what, given)
        return values


def _check_list(name: str, values: Sequence[Any], what: str, given: Sequence[Any] = ()) -> None:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name} is {list(given or values)}; give one or more, each once: {what}")


def parse_grid(arguments: Sequence[str]) -> Grid:
    """Return the grid of the command line and its YAML file."""
    return parse_options(
        Grid,
        arguments,
        program="ponet-finetune grid",
        aliases={"encoder": "encoders"},
        repeated=("encoders", "folder"),
    )


def run_grid(arguments: Sequence[str]) -> None:
    """`grid --config GRID.yaml --encoder PATH [--encoder PATH ...]`."""
    allowed, arguments = with_allowed_modules(arguments)
    grid = parse_grid(arguments)
    trials = with_modules(plan(grid), allowed)
    run_trials(
        trials,
        output=grid.output,
        jobs=grid.jobs,
        retry_failed=grid.retry_failed,
        dry_run=grid.dry_run,
        in_process=grid.in_process,
    )
    if grid.dry_run:
        from finetune.lightning_cli import FinetuneCLI  # loads torch

        check_fits(trials, FinetuneCLI)


def run_trials(
    trials: Sequence[GridTrial],
    *,
    output: Path,
    jobs: int,
    retry_failed: bool,
    dry_run: bool,
    in_process: bool = False,
) -> None:
    """Say what is to be run, and run it; the options are those of `Grid`."""
    gpus = gpu_names()
    runner = LocalRunner(jobs or len(gpus) or 1, gpus, retry_failed=retry_failed, wait=False)
    progress = Progress(trials, output, runner)
    print("\n".join(plan_lines(trials, progress.states)), flush=True)
    if dry_run:
        return

    def fit_here(command: Sequence[str]) -> int:
        from finetune.cli import main

        code = main(command[3:])
        if code in (EXIT_INTERRUPT, EXIT_STOPPED):  # meant for the whole grid
            runner.received = signal.SIGINT if code == EXIT_INTERRUPT else signal.SIGTERM
        return code

    runner.here = fit_here if in_process else None
    print(f"the table, at any time: python -m finetune report {output}", flush=True)
    progress.run()


def plan(grid: Grid) -> list[GridTrial]:
    """Return every trial of a grid with its folder; checks tasks and encoders."""
    from finetune.baselines.models import check_packages
    from finetune.tasks.registry import task_named

    if grid.baseline:
        check_packages()
    for path in (text.removeprefix(RANDOM_PREFIX) for text in grid.encoders):
        if not Path(path).exists():
            raise ValueError(
                f"--encoder {path}: no such folder; give a pretraining run, a bundle or "
                "released weights, or random:PATH to take no weights"
            )
    for task in set(grid.task_fit) - {*grid.tasks, OWN_TASK}:
        print(
            f"note: task_fit of {task_named(task).name} counts for nothing: it is not among tasks"
        )
    num_folds = {task: _num_folds(grid, task) for task in grid.tasks}
    for task, folds in num_folds.items():
        if (num_seeds := len(grid.searched("seeds", task))) < folds:
            print(
                f"note: {task} has {folds} folds but is given {counted(num_seeds, 'seed(s)')}, the "
                f"k-th of which trains the k-th fold: give {folds} to train all folds"
            )
    return expand(grid, num_folds)


def _num_folds(grid: Grid, task: str) -> int:
    """Return the folds of a task, 0: none; own files have as many as `fit` is to cut."""
    from finetune.tasks.folds import check_num_folds
    from finetune.tasks.registry import task_named

    if task != OWN_TASK:
        return task_named(task).num_folds
    num_folds = (_fit_of(grid, task).get("data") or {}).get("num_folds", 0)
    check_num_folds(num_folds)
    return int(num_folds)


def plan_lines(trials: Sequence[GridTrial], states: Mapping[str, str]) -> list[str]:
    """Return one line per task and encoder: settings, seeds, and how far it is."""
    groups: dict[str, list[GridTrial]] = defaultdict(list)
    for trial in trials:
        groups[f"{trial.parameters['task']} {trial.parameters['encoder']}"].append(trial)
    width = max(map(len, groups))
    lines = []
    for group, found in groups.items():
        settings = {(t.parameters["lr"], t.parameters["batch_size"]) for t in found}
        seeds = {trial.parameters["seed"] for trial in found}
        text = count_text([states[trial.name] for trial in found])
        sizes = f"{counted(len(settings), 'setting(s)')} x {counted(len(seeds), 'seed(s)')}"
        lines.append(f"{group:<{width}}  {sizes}: {text}")
    return [*lines, f"{counted(len(trials), 'trial(s)')}: {count_text(list(states.values()))}"]


def expand(grid: Grid, num_folds: Mapping[str, int]) -> list[GridTrial]:
    """Return every trial of a grid, seed by seed.

    Args:
        grid: The grid.
        num_folds: Folds of each task that is cross-validated; others may be missing or 0.
    """
    trials = []
    encoders = encoder_names(grid.encoders)
    for task in grid.tasks:
        fit = _fit_of(grid, task)
        lrs, batch_sizes, seeds = (grid.searched(name, task) for name in SEARCHED)
        axes = itertools.product(enumerate(seeds), encoders.items(), batch_sizes, lrs)
        for (number, seed), (encoder, path), batch, lr in axes:
            folds = num_folds.get(task, 0)
            repeat, fold = divmod(number, folds) if folds else (0, 0)
            values = {"task": task, "encoder": encoder, "seed": seed, "fold": fold}
            values |= {"repeat": repeat, "batch_size": batch, "lr": lr}
            name = f"lr{lr:.12g}-bs{batch}-seed{seed}" + (f"-fold{fold}" if folds else "")
            name += f"-repeat{repeat}" if repeat else ""
            folder = grid.output / task / encoder / name
            trial = GridTrial(
                name=f"{task}/{encoder}/{name}",
                folder=folder,
                command=(*FIT_COMMAND, str(folder / TRIAL_CONFIG_FILE)),
                parameters=values,
                settings=merged(fit, _decided(values, path, fit, folder)),
                keep=grid.keep,
            )
            trials.append((number, trial))
        if grid.baseline:
            trials += _baselines(grid, task, fit, len(seeds), num_folds.get(task, 0))
    return [trial for _, trial in sorted(trials, key=lambda numbered: numbered[0])]


def _baselines(
    grid: Grid, task: str, fit: Mapping[str, Any], num_seeds: int, num_folds: int
) -> list[tuple[int, GridTrial]]:
    """The linear models of a task, one for every fold that is trained, with their place."""
    trials = []
    known = {field.name for field in fields(Selection)}
    data = {name: value for name, value in fit.get("data", {}).items() if name in known}
    if task == OWN_TASK:
        data = {**_common_language(grid.encoders), **data}
    for number in range(num_seeds if num_folds else 1):
        repeat, fold = divmod(number, num_folds) if num_folds else (0, 0)
        name = f"fold{fold}" + (f"-repeat{repeat}" if repeat else "") if num_folds else "whole"
        folder = grid.output / task / BASELINE_FOLDER / name
        place = {"task": task, "fold": fold, "repeat": repeat}
        values = {"encoder": BASELINE_FOLDER, "seed": 0, "batch_size": 0, "lr": 0.0}
        trial = GridTrial(
            name=f"{task}/{BASELINE_FOLDER}/{name}",
            folder=folder,
            command=(*BASELINE_COMMAND, str(folder / TRIAL_CONFIG_FILE)),
            parameters={**place, **values},
            settings={
                "data": {**data, **place},
                "run": {"root": str(folder.parent), "name": folder.name},
            },
        )
        trials.append((number, trial))
    return trials


def _common_language(encoders: Sequence[str]) -> dict[str, str]:
    """Return the language by whose rules all fits cut own texts, as an option, unless English."""
    from finetune.encoder_file import language_of  # loads torch

    languages = {language_of(path.removeprefix(RANDOM_PREFIX)) for path in encoders}
    return {"language": min(languages)} if len(languages) == 1 and languages != {"en"} else {}


def _fit_of(grid: Grid, task: str) -> dict[str, Any]:
    """The options of `fit` that all trials of a task share."""
    own = {key: value for key, value in grid.task_fit.get(task, {}).items() if key not in SEARCHED}
    folders: dict[str, dict[str, Any]] = {}
    for text in grid.folder:
        name, equals, place = text.partition("=")
        is_of_task = equals and name in grid.tasks
        if equals and not is_of_task and not Path(text).expanduser().exists():
            raise ValueError(f"folder {text}: {name} is none of the tasks {', '.join(grid.tasks)}")
        folders[name if is_of_task else ""] = {"data": {"folder": place if is_of_task else text}}
    fit = merged(merged(grid.fit, folders.get("", {})), merged(own, folders.get(task, {})))
    refuse_decided(fit, DECIDED_BY, task)
    return merged({"trainer": {"devices": 1, "enable_progress_bar": False}}, fit)


def _decided(
    values: Mapping[str, Any], path: str, fit: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The options of `fit` that the grid decides."""
    micro, batch = (
        (fit.get("data") or {}).get("micro_batch_size", MICRO_BATCH),
        values["batch_size"],
    )
    encoder = path.removeprefix(RANDOM_PREFIX)
    return {
        "seed_everything": values["seed"],
        "model": {
            "encoder": encoder,
            "random_init": path != encoder,
            "optimizer": {"lr": values["lr"]},
        },
        "data": {
            "task": values["task"],
            "global_batch_size": batch,
            "micro_batch_size": largest_divisor(batch, micro),
            "fold": values["fold"],
            "repeat": values["repeat"],
        },
        "run": {"root": str(folder.parent), "name": folder.name},
    }


def encoder_names(paths: Sequence[str]) -> dict[str, str]:
    """Return name -> path of the encoders of a grid; each is called after its run's folder."""

    def name_of(text: str) -> str:
        given = Path(text.removeprefix(RANDOM_PREFIX)).absolute()
        folder = given.parent if given.name in RUN_PARTS else given
        name = folder.stem if given.is_file() else folder.name
        return name + ("-random" if text.startswith(RANDOM_PREFIX) else "")

    remedy = "name one of the folders differently (an encoder is called after its run's folder)"
    return by_name(paths, name_of, remedy)


def by_name(paths: Sequence[str], name_of: Callable[[str], str], remedy: str) -> dict[str, str]:
    """Return name -> path of encoders; two of one name, which would share a folder, are refused."""
    found: dict[str, str] = {}
    for path in paths:
        name = name_of(path)
        if name in found:
            raise ValueError(
                f"encoders {found[name]} and {path} are both called {name!r}: {remedy}"
            )
        found[name] = path
    return found
