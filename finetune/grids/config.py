"""The options of a grid: a YAML file, and the command line over it.

Invariant: an unknown key, a wrong type or an empty list stops the grid before anything is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from data_prep.command import field_help
from training.command_line import read_config_file
from training.studies.options import FieldsParser

_FIT_PREFIX = "--fit."
SEARCHED: Mapping[str, Callable[[Any], Any]] = {"lrs": float, "batch_sizes": int, "seeds": int}
"""What a grid searches, which a task may have of its own."""
_LISTS: Mapping[str, Callable[[Any], Any]] = {"tasks": str, "encoders": str, **SEARCHED}


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """A grid: task x encoder x learning rate x batch x seed."""

    tasks: tuple[str, ...]
    """Tasks, as `python -m finetune tasks` lists them."""
    encoders: tuple[str, ...]
    """Folders of runs, bundles or released weights; random:PATH takes sizes and tokenizer only."""
    lrs: tuple[float, ...]
    """Peak learning rates to search, > 0."""
    batch_sizes: tuple[int, ...] = (32,)
    """Examples per optimiser step to search, >= 1."""
    seeds: tuple[int, ...] = (42,)
    """Seeds; every setting is trained with each. With folds, the k-th seed trains the k-th fold."""
    folder: str = ""
    """Local copy of the data (data.folder), of all tasks or of the TASK; empty: the Hub, or what
    `fit` says."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Options of `fit` for every trial, nested as in its YAML files."""
    task_fit: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per task: options of `fit` laid over those; lrs, batch_sizes and seeds may stand here too."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("tasks", "encoders"):
            _check_list(name, getattr(self, name))
        for task in self.task_fit:
            if task not in self.tasks:
                raise ValueError(f"task_fit has {task!r}; the tasks are {', '.join(self.tasks)}")
        for task in ("", *self.task_fit):
            self._check_searched(task)

    def searched(self, name: str, task: str) -> Sequence[Any]:
        """Return the values of one of `SEARCHED` for a task."""
        values: Sequence[Any] = self.task_fit.get(task, {}).get(name, getattr(self, name))
        return values

    def _check_searched(self, task: str) -> None:
        lrs, batches, seeds = (self.searched(name, task) for name in SEARCHED)
        for name, values in zip(SEARCHED, (lrs, batches, seeds), strict=True):
            _check_list(name, values)
        if not all(lr > 0 for lr in lrs):
            raise ValueError(f"lrs is {list(lrs)}; learning rates must be > 0")
        if not all(batch >= 1 for batch in batches):
            raise ValueError(f"batch_sizes is {list(batches)}; a batch has 1 example or more")
        if not all(0 <= seed < 2**32 for seed in seeds):
            raise ValueError(f"seeds is {list(seeds)}; a seed is in [0, 2^32)")


def _check_list(name: str, values: Sequence[Any]) -> None:
    if not values:
        how = " (--encoder PATH, which may be repeated)" if name == "encoders" else ""
        raise ValueError(f"{name} is empty; give one or more{how}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} is {list(values)}; a value stands there twice")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a grid is run; none of these changes a result."""

    output: Path = Path("runs/grid")
    """Folder of the grid: task/encoder/setting-and-seed, each with result.json."""
    jobs: int = 0
    """Trials at once, each in a process of its own; 0: one per GPU, one where there is none."""
    in_process: bool = False
    """One trial after the other in this very process, for a debugger."""
    dry_run: bool = False
    """Only say what would be run."""
    retry_failed: bool = False
    """Run again what failed in an earlier start."""
    keep: str = "best"
    """Classifiers that stay: best (of a task and encoder, on validation), all, or none."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.jobs < 0:
            raise ValueError(f"jobs is {self.jobs}; give 1 or more, or 0 for one per GPU")


def parse_grid(arguments: Sequence[str]) -> tuple[GridConfig, RunOptions]:
    """Return the grid and how to run it, from the command line and its YAML file.

    Raises:
        ValueError: A mistake in an option or in the file.
    """
    options, rest = _parser().parse_known_args(list(arguments))
    run = RunOptions(**{f.name: getattr(options, f.name) for f in fields(RunOptions)})
    values = read_grid_yaml(Path(options.config)) if options.config else {}
    given = {name: getattr(options, name) for name in _LISTS}
    if given["tasks"]:  # the file's options of tasks that are left out count for nothing
        left_out = {*values.get("tasks", ())} - {*given["tasks"]}
        own = values.get("task_fit", {})
        values["task_fit"] = {task: own[task] for task in own if task not in left_out}
    values.update({name: tuple(value) for name, value in given.items() if value is not None})
    for name in ("tasks", "lrs"):
        if name not in values:
            raise ValueError(f"{name} is missing: give --config GRID.yaml or --{name}")
    config = GridConfig(**{"encoders": (), **values})
    config = replace(config, fit=_with_fit_options(config.fit, rest))
    for text in options.folder or ():
        task, equals, folder = text.partition("=")
        if equals and task in config.tasks:
            own = merged(config.task_fit.get(task, {}), {"data": {"folder": folder}})
            config = replace(config, task_fit={**config.task_fit, task: own})
        else:
            config = replace(config, folder=text)
    return config, run


def read_grid_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a grid's file, with lists as tuples of the right type.

    Raises:
        ValueError: It is missing, is no grid, has an unknown key, or a value of another type.
    """
    content = read_config_file(path)
    if not isinstance(content, dict) or "tasks" not in content:
        raise ValueError(f"{path}: is no grid, it has no `tasks:`; configs/finetune/ has examples")
    allowed = [f.name for f in fields(GridConfig)]
    for key in content:
        if key not in allowed:
            raise ValueError(f"{path}: unknown key {key!r}; the keys are {', '.join(allowed)}")
    values = {key: value for key, value in content.items() if value is not None}
    values = _typed(values, _LISTS, path)
    for name in ("fit", "task_fit"):
        values[name] = _checked_mapping(values.get(name, {}), name, path)
    values["task_fit"] = {
        task: _typed(_checked_mapping(own, f"task_fit of {task}", path), SEARCHED, path, task)
        for task, own in values["task_fit"].items()
    }
    return values


def _typed(
    values: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], Any]], path: Path, task: str = ""
) -> dict[str, Any]:
    """The same with every list of `kinds` as a tuple of its type."""
    result = dict(values)
    for name in set(kinds) & set(values):
        items = values[name] if isinstance(values[name], list) else [values[name]]
        try:
            result[name] = tuple(kinds[name](str(item)) for item in items)
        except ValueError as error:
            place = f"{path}: {name}" + (f" of {task}" if task else "")
            kind = kinds[name].__name__
            raise ValueError(f"{place} is {values[name]!r}; give a list of {kind}") from error
    return result


def _checked_mapping(value: Any, name: str, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name} is {value!r}; give options, nested as in a fit's YAML")
    return value


def _with_fit_options(fit: Mapping[str, Any], rest: Sequence[str]) -> dict[str, Any]:
    """`--fit.data.max_len 64` and `--fit.data.max_len=64` laid over the file's `fit`."""
    result, remaining = dict(fit), list(rest)
    while remaining:
        name, equals, value = remaining.pop(0).partition("=")
        if not name.startswith(_FIT_PREFIX):
            raise ValueError(f"unknown option {name!r} (ponet-finetune grid --help lists them)")
        if not equals:
            if not remaining:
                raise ValueError(f"{name} has no value")
            value = remaining.pop(0)
        nested: Any = yaml.safe_load(value)
        for key in reversed(name.removeprefix(_FIT_PREFIX).split(".")):
            nested = {key: nested}
        result = merged(result, nested)
    return result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another laid over it, group by group."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def _parser() -> FieldsParser:
    parser = FieldsParser(
        "ponet-finetune grid",
        allow_abbrev=False,
        description="Fine-tune every encoder on every task with every setting and seed. The same "
        "command again goes on: what is done is skipped.",
        epilog="Options of every fit: --fit.data.max_len 64, --fit.trainer.max_epochs 2, …",
    )
    texts = {name: text.replace("%", "%%") for name, text in field_help(GridConfig).items()}
    add = parser.add_argument
    add("--config", help="YAML file of a grid (configs/finetune/glue.yaml)")
    add("--encoder", dest="encoders", metavar="PATH", help=texts["encoders"], action="append")
    add("--tasks", nargs="+", help=texts["tasks"])
    for name, kind in SEARCHED.items():
        add(f"--{name}", nargs="+", type=kind, help=texts[name])
    add("--folder", metavar="[TASK=]DIR", help=texts["folder"], action="append")
    parser.add_options(RunOptions, choices={"keep": ("best", "all", "none")})
    return parser
