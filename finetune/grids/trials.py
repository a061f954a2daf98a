"""Which trials a grid has: task x encoder x learning rate x batch x seed, and each one's settings.

Invariant: pure; the trials follow from the grid alone. Seeds come first in the order, so that a
grid which is stopped early has compared everything on equal seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.grids import files
from finetune.grids.config import SEARCHED, GridConfig, merged
from finetune.grids.files import TRIAL_FILE, GridTrial
from training.configuration import flatten
from training.inputs import RUN_PARTS

RANDOM_PREFIX = "random:"
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
DEFAULT_MICRO_BATCH = 32
TRAINER = {"devices": 1, "enable_progress_bar": False}


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """An encoder of the grid."""

    path: str
    """Folder of a bundle, of the run that holds bundle/, or of released weights."""
    name: str
    """What folders and tables call it."""
    random_init: bool
    """Whether only its sizes and tokenizer are taken, and no weights."""


def expand(
    config: GridConfig,
    num_folds: Mapping[str, int],
    *,
    output: Path = Path("runs/grid"),
    keep: str = "all",
) -> list[GridTrial]:
    """Return every trial of a grid, seed by seed.

    Args:
        config: The grid.
        num_folds: Folds of each task that is cross-validated; others may be missing or 0.
        output: Folder of the grid.
        keep: Which classifiers stay.

    Raises:
        ValueError: Two encoders of one name, or an option under `fit` that the grid decides.
    """
    trials = []
    for task in config.tasks:
        own = {k: v for k, v in config.task_fit.get(task, {}).items() if k not in SEARCHED}
        folder = {"data": {"folder": config.folder}} if config.folder else {}
        fit = merged(merged(config.fit, folder), own)
        reject_decided_values(fit, task)
        fit = merged({"trainer": dict(TRAINER)}, fit)
        lrs, batch_sizes, seeds = (config.searched(name, task) for name in SEARCHED)
        for number, seed in enumerate(seeds):
            fold = _fold(number, num_folds.get(task, 0))
            for encoder in encoder_choices(config.encoders):
                chosen = {"task": task, "encoder": encoder.name, "seed": seed, **fold}
                for batch in batch_sizes:
                    for lr in lrs:
                        values = {**chosen, "batch_size": batch, "lr": lr}
                        settings = merged(fit, _decided(values, encoder, fit))
                        trials.append((number, _trial(values, settings, output, keep)))
    return [trial for _, trial in sorted(trials, key=lambda numbered: numbered[0])]


def _fold(number: int, folds: int) -> dict[str, Any]:
    """Fold and repeat of the k-th seed, and what its folder is called after them."""
    repeat, fold = divmod(number, folds) if folds else (0, 0)
    name = (f"-fold{fold}" if folds else "") + (f"-repeat{repeat}" if repeat else "")
    return {"fold": fold, "repeat": repeat, "fold_name": name}


def _decided(
    values: Mapping[str, Any], encoder: EncoderChoice, fit: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of `fit` that the grid decides."""
    micro = (fit.get("data") or {}).get("micro_batch_size", DEFAULT_MICRO_BATCH)
    return {
        "seed_everything": values["seed"],
        "model": {
            "encoder": encoder.path,
            "random_init": encoder.random_init,
            "optimizer": {"lr": values["lr"]},
        },
        "data": {
            "task": values["task"],
            "global_batch_size": values["batch_size"],
            "micro_batch_size": largest_divisor(values["batch_size"], micro),
            "fold": values["fold"],
            "repeat": values["repeat"],
        },
    }


def _trial(
    values: Mapping[str, Any], settings: Mapping[str, Any], output: Path, keep: str
) -> GridTrial:
    setting = f"lr{values['lr']:.12g}-bs{values['batch_size']}-seed{values['seed']}"
    setting += values["fold_name"]
    name = f"{values['task']}/{values['encoder']}/{setting}"
    folder = output / name
    run = {**(settings.get("run") or {}), "root": str(folder.parent), "name": setting}
    return GridTrial(
        name=name,
        folder=folder,
        command=(*files.FIT_COMMAND, str(folder / TRIAL_FILE)),
        parameters=values,
        settings={**settings, "run": run},
        keep=keep,
    )


def largest_divisor(number: int, at_most: int) -> int:
    """Return the largest divisor of a batch size that a micro-batch may have."""
    return next(size for size in range(min(number, max(at_most, 1)), 0, -1) if number % size == 0)


def encoder_choices(given: Sequence[str]) -> list[EncoderChoice]:
    """Return the encoders of a grid; `random:PATH` is one without its weights.

    Raises:
        ValueError: Two have the same name, so that their results could not be told apart.
    """
    choices: dict[str, EncoderChoice] = {}
    for text in given:
        path = text.removeprefix(RANDOM_PREFIX)
        random_init = path != text
        name = encoder_name(path) + ("-random" if random_init else "")
        if name in choices:
            raise ValueError(
                f"encoders {choices[name].path} and {path} are both called {name!r}: name one of "
                "the folders differently (an encoder is called after its run's folder)"
            )
        choices[name] = EncoderChoice(path=path, name=name, random_init=random_init)
    return list(choices.values())


def encoder_name(path: str) -> str:
    """Return the name of the run a path belongs to: the folder's, or its parent's for a part."""
    given = Path(path).absolute()
    folder = given.parent if given.name in RUN_PARTS else given
    return folder.stem if given.is_file() else folder.name


def reject_decided_values(fit: Mapping[str, Any], task: str) -> None:
    """Refuse an option of `fit` that the grid sets itself.

    Raises:
        ValueError: Names the option and the key of the grid to set instead.
    """
    for key in flatten(fit):
        if key in DECIDED_BY:
            raise ValueError(
                f"fit (or task_fit of {task}) sets {key}, which the grid decides: "
                f"set {DECIDED_BY[key]} instead"
            )
