"""The `run.*` options of a pretraining run, the files that it writes, and the trainer's options.

Invariant: no option of Lightning's Trainer is without effect and without a word.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.utilities import rank_zero_only

from pretrain.objectives import ObjectiveName, objective_named
from training import run_config
from training.command_line import check_monitors
from training.interruption import say
from training.ranks import CUTTING, RunStrategy
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    CONFIG_KEY,
    CURVES_FILE,
    EVALUATIONS_FILE,
    EVENTS_FILE,
    METRICS_FILE,
    NEEDLES_FILE,
    PREDICTIONS_FILE,
    RECORD_FILE,
    SKIPPED_FILE,
    STUDY_FILE,
)

if TYPE_CHECKING:
    from ponet import EncoderConfig
    from training.optim import PretrainOptimizer

RUN_FILES = (
    *(METRICS_FILE, EVENTS_FILE, SKIPPED_FILE, CONFIG_FILE, CURVES_FILE),
    *(BUNDLE_FOLDER, CHECKPOINT_FOLDER, EVALUATIONS_FILE),
    *(name.format(rank="*") + "*" for name in (PREDICTIONS_FILE, NEEDLES_FILE)),
    *("wandb", RECORD_FILE, STUDY_FILE),
)
"""Patterns of the names of all that a run has in its folder; an overwriting one replaces these."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(run_config.RunConfig):
    """Folder, tracking and reporting interval of one run."""

    files: ClassVar[tuple[str, ...]] = RUN_FILES
    job_type: ClassVar[str] = "pretrain"
    label_keys: ClassVar[tuple[str, ...]] = ("model.encoder", "model.objective")

    eval_every_n_steps: int = 1000
    """Optimiser steps between two validations, each followed by a checkpoint and a plot; > 0."""
    peak_tflops: float = 0.0
    """Rate of matrix products of one device, in 10^12 operations per second, that `train/mfu` is a
    share of; 0: from the data sheet of a known GPU, else measured for 0.1 s at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        run_config.check_numbers(self, "> 0", "eval_every_n_steps", group="run.")
        run_config.check_numbers(self, ">= 0", "peak_tflops", group="run.")


NewWords = Literal["pieces", "normal"]
STARTED_KEY = "started_from"
"""Where a checkpoint keeps what its run began with: source, digest and metadata of the weights."""
KEPT_KEY = "kept_optimizer"
"""What stands there as true where the optimiser of the weights was kept as well."""
MOST_UNUSED = 128
"""Vocabulary entries beyond the tokenizer's that may be there to round the number up."""
# A value of the trainer's that is given and would do nothing, or break the run: what to do instead.
_REFUSED: Mapping[str, str] = {
    "overfit_batches": (
        "has no effect on the stream of samples, which never comes back to a batch: build shards "
        "of a few documents and train on those, or rehearse with --trainer.fast_dev_run true"
    ),
    "barebones": "leaves out the metrics and checkpoints that every run writes: leave it out",
    "use_distributed_sampler": (
        "would replace the samplers of the data module, which know ranks: leave it out"
    ),
}
_WITHOUT_EFFECT: Mapping[str, tuple[tuple[bool, ...], str]] = {
    "logger": (
        (True, False),
        "metrics.jsonl is always written, and a logger is named by its class",
    ),
    "sync_batchnorm": ((True,), "no encoder has batch normalisation"),
    "model_registry": ((), "checkpoints stay in the run's folder"),
    "limit_test_batches": ((), "a fit does not test; `ponet-pretrain test` does"),
    "limit_predict_batches": ((), "a fit does not predict; `ponet-pretrain predict` does"),
}
_REFUSED_CALLBACKS = ("GradientAccumulationScheduler", "BatchSizeFinder", "LearningRateFinder")
_METRICS = ("loss", "mlm_loss", "mlm_accuracy", "perplexity")
_PAIR_METRICS = ("pair_loss", "pair_accuracy")


def check_trainer_options(trainer: Mapping[str, Any]) -> None:
    """Refuse the options of the trainer that a fit cannot follow.

    Args:
        trainer: Every option with its value; None: not given.
    """
    for name, reason in _REFUSED.items():
        if trainer.get(name):
            raise ValueError(f"trainer.{name} {trainer[name]} {reason}")
    if trainer.get("enable_checkpointing") is False:
        raise ValueError(
            "trainer.enable_checkpointing is false, but a run always saves at its end; use "
            "checkpoints.every_n_minutes 0 and checkpoints.at_validation false for no others"
        )
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained")
    if (interval := trainer.get("log_every_n_steps")) is not None and interval < 1:
        raise ValueError(f"trainer.log_every_n_steps is {interval}: a number above 0 is needed")
    run_config.check_gradient_clip(trainer.get("gradient_clip_val"))
    if str(precision := trainer.get("precision")).endswith("16-true"):
        raise ValueError(
            f"trainer.precision {precision} keeps the weights themselves in 16 bits, where most "
            "steps are lost to rounding; give bf16-mixed or 16-mixed, which multiply in 16 bits"
        )
    max_steps, min_steps = trainer.get("max_steps") or -1, trainer.get("min_steps") or 0
    if 0 < max_steps < min_steps:
        raise ValueError(f"trainer.min_steps {min_steps} is above trainer.max_steps {max_steps}")
    if max_steps < 0 and trainer.get("max_epochs") == -1:
        raise ValueError(
            "trainer.max_steps and trainer.max_epochs are -1: the run would have no end, and its "
            "learning rate no schedule; give one of them"
        )
    limit = trainer.get("limit_train_batches")
    if max_steps < 0 and isinstance(limit, int):
        raise ValueError(
            f"trainer.limit_train_batches {limit} counts micro-batches, so the steps of so many "
            "epochs would hang on data.micro_batch_size and the devices; give trainer.max_steps, "
            "or a share of an epoch such as 0.5"
        )


def check_evaluation(command: str, trainer: Mapping[str, Any]) -> None:
    """Refuse an evaluation, or a `predict`, that would read nothing and so say nothing.

    Args:
        command: `validate`, `test` or `predict`.
        trainer: Every option of the trainer with its value; None: not given.
    """
    name = f"limit_{command.replace('validate', 'val')}_batches"
    if trainer.get(name) == 0:
        raise ValueError(
            f"trainer.{name} is {trainer[name]}: nothing would be read; give 1 or more batches, a "
            "share such as 0.5, or leave it out for all"
        )


def remarks(trainer: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for every given option that changes nothing, or less than its name says."""
    for name, (values, reason) in _WITHOUT_EFFECT.items():
        given = trainer.get(name)
        if given is not None and (not values or any(given is value for value in values)):
            yield f"trainer.{name} changes nothing: {reason}"
    if trainer.get("limit_train_batches") is not None:
        yield (
            "trainer.limit_train_batches sets the length of an epoch only: the stream of samples "
            "goes on, and no batch comes again"
        )


def identity_in(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return objective and encoder of a checkpoint; newer fields stand at their defaults."""
    from ponet import EncoderConfig

    saved, beside = checkpoint.get(CONFIG_KEY, {}), ("config", STARTED_KEY)
    stored = {key: value for key, value in saved.items() if key not in beside}
    objective = {"objective": stored.pop("objective", None)}
    return objective | (EncoderConfig.from_dict(stored).to_dict() if stored else {})


def metric_names(objective: ObjectiveName) -> list[str]:
    """Return the metrics that a validation gives, which callbacks may look at."""
    pairs = _PAIR_METRICS if objective_named(objective).num_pair_classes else ()
    return [f"val/{name}" for name in (*_METRICS, *pairs)]


def check_callbacks(callbacks: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse callbacks that change the batches, or look at a metric which there is not."""
    for callback in callbacks:
        if type(callback).__name__ in _REFUSED_CALLBACKS:
            raise ValueError(
                f"trainer.callbacks has {type(callback).__name__}, which would change the batches "
                "that the run counts: leave it out; `ponet-pretrain tune` finds sizes and rates"
            )
    check_monitors(callbacks, names)


def check_strategy(
    strategy: Any, optimizer: "PretrainOptimizer", *, is_given: bool = False
) -> None:
    """Refuse the strategies that this run cannot have.

    They are Lightning's own sharded ones, those that give a device parts of matrices, for Muon, and
    ZeRO for an optimiser that begins with what another one remembers.

    Args:
        strategy: Of the trainer.
        optimizer: Its settings.
        is_given: Whether it begins so.
    """
    if isinstance(strategy, CUTTING) and not isinstance(strategy, RunStrategy):
        raise ValueError(
            f"trainer.strategy is Lightning's own {type(strategy).__name__}, under which gradients "
            "may be clipped by a part of their norm, and checkpoints are not a run's; use one of "
            "configs/strategy: fsdp.yaml, deepspeed_zero1.yaml, deepspeed_zero2.yaml, or ddp.yaml"
        )
    if optimizer.uses_muon and isinstance(strategy, CUTTING):
        raise ValueError(
            "model.optimizer.matrices is muon, which needs whole matrices, and "
            f"{type(strategy).__name__} cuts them into a part for each device; use "
            "configs/strategy/ddp.yaml, or --model.optimizer.matrices adamw"
        )
    if is_given and isinstance(strategy, DeepSpeedStrategy):
        raise ValueError(
            "model.keep_optimizer is true, but ZeRO takes over no optimiser of another run; use "
            "configs/strategy/ddp.yaml or fsdp.yaml, or leave model.keep_optimizer out"
        )


def check_encoder(encoder: "EncoderConfig", data: Any) -> None:
    """Check that an encoder has an embedding and a position for every token of the data module."""
    if encoder.fixed_places and encoder.max_positions != data.max_len:
        raise ValueError(
            f"data.max_len is {data.max_len}, but the encoder mixes exactly "
            f"{encoder.max_positions} places; give --data.max_len {encoder.max_positions}"
        )
    size, entries = encoder.vocab_size, data.vocab_size
    if size < entries:
        raise ValueError(
            f"the encoder has vocab_size {size}, but the tokenizer of {data.folder} has {entries} "
            f"entries; set the encoder's vocab_size to {entries} or more "
            f"(--model.encoder.vocab_size {entries})."
        )
    if size - entries >= MOST_UNUSED:
        rank_zero_only(say)(
            f"the encoder has {size:,} vocabulary entries and the tokenizer of {data.folder} "
            f"{entries:,}: {size - entries:,} are never used; --model.encoder.vocab_size {entries} "
            "leaves them out"
        )
    if encoder.max_positions < data.max_len:
        raise ValueError(
            f"data.max_len is {data.max_len}, but the encoder has {encoder.max_positions} "
            f"positions; give --model.encoder.max_positions {data.max_len}, or a smaller "
            "--data.max_len"
        )
