"""What a run is given beside module and data: callbacks, loggers, and quiet libraries."""

import logging
import os
import warnings
from typing import Any

from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from pytorch_lightning.utilities import rank_zero_only

from data_prep.shared.configuration import configuration_name, flatten
from data_prep.shared.wandb_run import logger_options
from finetune.callbacks import BestClassifier, TrainingLog, TrainingSeeds, WandbLineage
from finetune.metrics_file import MetricsFileLogger
from finetune.run_config import METRICS_FILE, RunConfig


def fit_callbacks(run: RunConfig, *, seed: int, log_every_n_steps: int) -> list[Callback]:
    """Return the callbacks of `fit`, in the order in which they are called."""
    best = BestClassifier(run.classifier)
    callbacks = [TrainingSeeds(seed), TrainingLog(log_every_n_steps), best]
    return callbacks if run.wandb == "off" else [*callbacks, WandbLineage()]


def progress_callbacks(show: bool) -> list[Callback]:
    """Return the progress bar, if one is wanted."""
    return [TQDMProgressBar(refresh_rate=10)] if show else []


def run_loggers(run: RunConfig, config: dict[str, Any]) -> list[Any]:
    """Return the run's metrics file, and Weights & Biases where it is asked for."""
    loggers: list[Any] = [MetricsFileLogger(run.folder / METRICS_FILE)]
    if run.wandb != "off":
        from pytorch_lightning.loggers import WandbLogger

        run.folder.mkdir(parents=True, exist_ok=True)
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
            continues=False,  # an interrupted run is started anew
            first_rank=rank_zero_only.rank == 0,  # type: ignore[attr-defined]
        )
        loggers.append(WandbLogger(**options))
    return loggers


def quiet_libraries() -> None:
    """Keep the messages that concern nobody out of a run's output."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    for noise in (
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "LightningCLI's args parameter",
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*was not expecting any.*batch_size.*",
    ):
        warnings.filterwarnings("ignore", message=noise)
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
