"""Which trials a grid has: task x encoder x learning rate x batch x seed, and each one's settings.

Invariant: pure; the trials follow from the grid alone. Seeds come first in the order, so that a
grid which is stopped early has compared everything on equal seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.grids.config import GridConfig, merged
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


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One fit of the grid."""

    task: str
    """Task, as `--data.task` calls it."""
    encoder: EncoderChoice
    """Where it starts from."""
    lr: float
    """Peak learning rate."""
    batch_size: int
    """Examples per optimiser step."""
    seed: int
    """Seed of the fit."""
    fold: int
    """Fold of the cross-validation; 0 where there is none."""
    repeat: int
    """Repeat of the cross-validation; 0 where there is none."""
    name: str
    """Folder below the grid's: task / encoder / setting and seed."""
    settings: Mapping[str, Any]
    """The options of `fit`, nested as in its YAML files, without `run`."""


def expand(config: GridConfig, num_folds: Mapping[str, int]) -> list[Trial]:
    """Every trial of a grid, seed by seed.

    Args:
        config: The grid.
        num_folds: Folds of each task that is cross-validated; others may be missing or 0.

    Raises:
        ValueError: Two encoders of one name, or an option under `fit` that the grid decides.
    """
    encoders = encoder_choices(config.encoders)
    trials = []
    for task in config.tasks:
        own = config.task_fit.get(task, {})
        lrs, batch_sizes, seeds = (
            own.get(name, getattr(config, name)) for name in ("lrs", "batch_sizes", "seeds")
        )
        fit = {k: v for k, v in own.items() if k not in ("lrs", "batch_sizes", "seeds")}
        fit = merged(with_folder(config.fit, config.folder), fit)
        reject_decided_values(fit, task)
        folds = num_folds.get(task, 0)
        trials += [
            (
                number,
                _trial(task, encoder, fit, lr=lr, batch_size=batch, seed=(number, seed, folds)),
            )
            for number, seed in enumerate(seeds)
            for encoder in encoders
            for batch in batch_sizes
            for lr in lrs
        ]
    return [trial for _, trial in sorted(trials, key=lambda numbered: numbered[0])]


def _trial(
    task: str,
    encoder: EncoderChoice,
    fit: Mapping[str, Any],
    *,
    lr: float,
    batch_size: int,
    seed: tuple[int, int, int],
) -> Trial:
    number, seed_value, folds = seed
    repeat, fold = divmod(number, folds) if folds else (0, 0)
    setting = f"lr{lr:.12g}-bs{batch_size}-seed{seed_value}"
    if folds:
        setting += f"-fold{fold}" + (f"-repeat{repeat}" if repeat else "")
    micro = (fit.get("data") or {}).get("micro_batch_size", DEFAULT_MICRO_BATCH)
    decided: dict[str, Any] = {
        "seed_everything": seed_value,
        "model": {
            "encoder": encoder.path,
            "random_init": encoder.random_init,
            "optimizer": {"lr": lr},
        },
        "data": {
            "task": task,
            "global_batch_size": batch_size,
            "micro_batch_size": largest_divisor(batch_size, micro),
            "fold": fold,
            "repeat": repeat,
        },
    }
    return Trial(
        task=task,
        encoder=encoder,
        lr=lr,
        batch_size=batch_size,
        seed=seed_value,
        fold=fold,
        repeat=repeat,
        name=f"{task}/{encoder.name}/{setting}",
        settings=merged(merged({"trainer": dict(TRAINER)}, fit), decided),
    )


def largest_divisor(number: int, at_most: int) -> int:
    """The largest divisor of a batch size that a micro-batch may have."""
    return next(size for size in range(min(number, max(at_most, 1)), 0, -1) if number % size == 0)


def encoder_choices(given: Sequence[str]) -> list[EncoderChoice]:
    """The encoders of a grid; `random:PATH` is one without its weights.

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
    """Name of the run a path belongs to: the folder's, or its parent's where that is a part."""
    given = Path(path).absolute()
    folder = given.parent if given.name in RUN_PARTS else given
    return folder.stem if given.is_file() else folder.name


def with_folder(fit: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The options of `fit` with the folder of the data, if one is given."""
    return merged(fit, {"data": {"folder": folder}}) if folder else dict(fit)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as dotted names."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def reject_decided_values(fit: Mapping[str, Any], task: str) -> None:
    """Refuse an option of `fit` that the grid sets itself.

    Raises:
        ValueError: Names the option and the key of the grid to set instead.
    """
    for key in flat(fit):
        if key in DECIDED_BY:
            raise ValueError(
                f"fit (or task_fit of {task}) sets {key}, which the grid decides: "
                f"set {DECIDED_BY[key]} instead"
            )
