"""What a run is given beside module and data: callbacks, loggers, and quiet libraries."""

import logging
import os
import sys
import warnings
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only

from finetune.callbacks import ProgressLines, TrainingLog, TrainingSeeds, WandbLineage
from finetune.run_config import RunConfig
from training.configuration import configuration_name, flatten
from training.wandb_run import logger_options


def fit_callbacks(run: RunConfig, *, seed: int, log_every_n_steps: int) -> list[Callback]:
    """Return the callbacks of `fit` that write no file, in the order in which they are called."""
    callbacks: list[Callback] = [TrainingSeeds(seed), TrainingLog(log_every_n_steps)]
    return callbacks if run.wandb == "off" else [*callbacks, WandbLineage()]


def progress_callbacks(show: bool, *, fits: bool) -> list[Callback]:
    """Return the progress bar, if one is wanted and there is a terminal; of a fit also lines."""
    bars: list[Callback] = [TQDMProgressBar(refresh_rate=10)] if sys.stderr.isatty() else []
    return [*bars, *([ProgressLines()] if fits else [])] if show else []


def leave_signals_alone(trainer: Trainer) -> None:
    """Keep Lightning from handling signals, which the run does itself, and from its broadcast."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check_trainer(trainer: Trainer) -> None:
    """Refuse options of the trainer that could give no result.

    Raises:
        ValueError: Names the option and what to give instead.
    """
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision is {trainer.precision}; fine-tuning has {', '.join(PRECISIONS)}, "
            "which keep the weights in 32 bits"
        )
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained; give 1 or more")
    if trainer.limit_val_batches == 0:
        raise ValueError(
            "trainer.limit_val_batches is 0: no epoch would be validated, so there would be no "
            "best classifier to keep; leave it out, or use --data.max_eval_rows for a quick look"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError(
            "trainer.overfit_batches has no effect on the order of the rows here; use "
            "--data.max_train_rows, with the training file as --data.validation"
        )


def wandb_logger(run: RunConfig, config: dict[str, Any], *, continues: bool) -> Any:
    """Return the logger of Weights & Biases where it is asked for, else None.

    Args:
        run: The run's options.
        config: The resolved configuration.
        continues: Whether an unfinished run goes on.
    """
    if run.wandb == "off":
        return None
    from pytorch_lightning.loggers import WandbLogger

    settings = flatten(config)
    group = configuration_name(
        settings, label_keys=("data.task",), also_without=("data.fold", "data.repeat")
    )
    options = logger_options(
        run,
        folder=run.folder,
        name=run.name,
        job_type="finetune",
        settings=settings,
        group=group,
        continues=continues,
        first_rank=rank_zero_only.rank == 0,  # type: ignore[attr-defined]
    )
    return WandbLogger(**options)


def quiet_libraries() -> None:
    """Keep the messages that concern nobody out of a run's output."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    for noise in (
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "LightningCLI's args parameter",
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*was not expecting any.*batch_size.*",
        "You're resuming from a checkpoint that ended before the epoch",  # the sampler goes on
    ):
        warnings.filterwarnings("ignore", message=noise)
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
