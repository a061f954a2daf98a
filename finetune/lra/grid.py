"""`lra grid`: task x mode x encoder x self-pretraining x seed, as trials of `training.studies`.

Invariant: as of `finetune.grid`: the same command goes on, seeds come first in the order, and what
was done with other settings or data is never taken for done.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.grid import SEARCHED, by_name, run_trials
from finetune.grid_trials import GridTrial, check_fits, refuse_decided, with_modules
from finetune.lra.baselines import BASELINES
from finetune.lra.encoders import read_lra_encoder
from finetune.lra.tasks import TASKS, Mode
from training.command_line import merged, parse_options
from training.parsing import with_allowed_modules
from training.run_config import TRIAL_CONFIG_FILE

_COMMAND = (sys.executable, "-m", "finetune", "lra")
DECIDED_BY = {
    "model.encoder": "encoders",
    "model.self_pretrain_steps": "self_pretrain_steps",
    "data.task": "tasks",
    "data.mode": "modes",
    "data.folder": "folder",
    "data.seed": "seeds",
    "seed_everything": "seeds",
    "run.root": "output",
    "run.name": "output",
    "run.overwrite": "retry_failed",
}


@dataclass(frozen=True, kw_only=True)
class LraGrid:
    """Train every encoder on every task with every seed. The same command again goes on."""

    tasks: tuple[str, ...] = ()
    """Tasks: listops, text, retrieval, image, pathfinder32, path_x."""
    modes: tuple[Mode, ...] = ("strict",)
    """strict, published or both; each is a column of its own."""
    encoders: tuple[str, ...] = ()
    """Encoder files (also --encoder, which may be repeated)."""
    self_pretrain_steps: tuple[int, ...] = (0,)
    """Steps of self-pretraining; several make an encoder several rows."""
    seeds: tuple[int, ...] = (42,)
    """Seeds; all trials of the first one come first."""
    folder: tuple[str, ...] = ()
    """TASK=DIR, the files of a task; may be repeated. A task without one is made."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Options of `lra fit` for every trial, nested as in its YAML files."""
    task_fit: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per task: options of `lra fit` laid over those."""
    baselines: bool = True
    """Also score what needs no training (`lra baseline`), once per task and mode."""
    output: Path = Path("runs/lra")
    """Folder: task-mode/encoder/seed, each with result.json."""
    jobs: int = 0
    """Trials at once, each in a process of its own; 0: one per GPU, one where there is none."""
    dry_run: bool = False
    """Only say what would be run, and whether `lra fit` knows the options."""
    retry_failed: bool = False
    """Run again what failed in an earlier start."""
    keep: Literal["best", "all", "none"] = "best"
    """Classifiers that stay: best (of a task, mode and encoder, on validation), all, or none."""

    def __post_init__(self) -> None:
        for name in ("tasks", "modes", "encoders", "seeds", "self_pretrain_steps"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}; give one or more, each once")
        _, is_seed, what = SEARCHED["seeds"]
        if not all(map(is_seed, self.seeds)) or min(self.self_pretrain_steps) < 0:
            raise ValueError(f"seeds are {what}, self_pretrain_steps whole numbers, >= 0")
        if unknown := {*self.tasks, *self.task_fit} - {*TASKS}:
            raise ValueError(f"unknown task {min(unknown)!r}; allowed: {', '.join(TASKS)}")
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give 1 or more, or 0 for one per GPU")

    def folder_of(self, task: str) -> str:
        """Return the files of a task; empty: it is made."""
        found = ""
        for text in self.folder:
            name, equals, place = text.partition("=")
            if not equals or name not in TASKS:
                raise ValueError(f"folder {text}: give TASK=DIR, a task of {', '.join(TASKS)}")
            found = place if name == task else found
        return found


def parse_lra_grid(arguments: Sequence[str]) -> LraGrid:
    """Return the grid of the command line and its YAML file."""
    return parse_options(
        LraGrid,
        arguments,
        program="ponet-finetune lra grid",
        aliases={"encoder": "encoders"},
        repeated=("encoders", "folder"),
    )


def check_folders(grid: LraGrid) -> None:
    """Refuse tasks whose files are not there, before the first trial."""
    for task in grid.tasks:
        folder = grid.folder_of(task)
        if not folder and not TASKS[task].has_generator:
            raise ValueError(
                f"{task} cannot be made: give --folder {task}=DIR, its files, or leave it out by "
                "--tasks"
            )
        if folder and not Path(folder).expanduser().is_dir():
            raise ValueError(f"folder {task}={folder}: no such folder")


def run_lra_grid(arguments: Sequence[str]) -> None:
    """`lra grid --config FILE.yaml`."""
    allowed, arguments = with_allowed_modules(arguments)
    grid = parse_lra_grid(arguments)
    check_folders(grid)
    for task in sorted({*grid.task_fit} - {*grid.tasks}):
        print(f"note: task_fit of {task} counts for nothing: it is not among tasks")
    trials = with_modules(expand(grid), allowed)
    run_trials(
        trials,
        output=grid.output,
        jobs=grid.jobs,
        retry_failed=grid.retry_failed,
        dry_run=grid.dry_run,
    )
    if grid.dry_run:
        from finetune.lra.lightning_cli import LraCLI  # loads torch

        check_fits(trials, LraCLI)


def expand(grid: LraGrid) -> list[GridTrial]:
    """Return every trial of a grid: baselines first, then seed by seed."""
    trials = _baselines(grid) if grid.baselines else []
    remedy = "rename one of the files"
    files = by_name(grid.encoders, lambda path: read_lra_encoder(path).name, remedy)
    axes = (grid.seeds, grid.tasks, grid.modes, files.items(), grid.self_pretrain_steps)
    for seed, task, mode, (stem, encoder), steps in itertools.product(*axes):
        name = stem + (f"-pretrained{steps}" if steps else "")
        folder = grid.output / f"{task}-{mode}" / name / f"seed{seed}"
        options = _options(grid, task, mode)
        settings = {
            "seed_everything": seed,
            "model": {"encoder": encoder, "self_pretrain_steps": steps},
            "run": {"root": str(folder.parent), "name": folder.name},
        }
        trials.append(_trial(grid, "fit", folder, merged(options, settings), encoder=name))
    return trials


def _options(grid: LraGrid, task: str, mode: Mode) -> dict[str, Any]:
    options = merged(grid.fit, grid.task_fit.get(task, {}))
    refuse_decided(options, DECIDED_BY, task)
    decided = {"task": task, "mode": mode, "folder": grid.folder_of(task)}
    return merged({"trainer": {"enable_progress_bar": False}}, merged(options, {"data": decided}))


def _baselines(grid: LraGrid) -> list[GridTrial]:
    trials = []
    for task, mode in itertools.product(grid.tasks, grid.modes):
        for name in BASELINES[task]:
            folder = grid.output / f"{task}-{mode}" / f"baseline-{name}" / "whole"
            data = _options(grid, task, mode)["data"]
            kept = ("task", "mode", "folder", "cache", "generator_seed", "max_len",
                    "max_train_rows", "max_eval_rows")  # fmt: skip
            settings = {
                "name": name,
                "data": {key: data[key] for key in kept if key in data},
                "run": {"root": str(folder.parent), "name": folder.name},
            }
            trials.append(_trial(grid, "baseline", folder, settings, encoder=name))
    return trials


def _trial(
    grid: LraGrid, command: str, folder: Path, settings: Mapping[str, Any], *, encoder: str
) -> GridTrial:
    data, seed = settings["data"], settings.get("seed_everything", 0)
    task = f"{data['task']}-{data['mode']}"
    return GridTrial(
        name=folder.relative_to(grid.output).as_posix(),
        folder=folder,
        command=(*_COMMAND, command, "--config", str(folder / TRIAL_CONFIG_FILE)),
        parameters={"task": task, "encoder": encoder, "seed": seed, "lr": 0.0, "batch_size": 0},
        settings=settings,
        keep=grid.keep,
    )
