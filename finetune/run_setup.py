"""What a run is given beside module and data: callbacks, loggers, and quiet libraries."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from pytorch_lightning.callbacks import Callback, TQDMProgressBar

from finetune.callbacks import BestClassifier, TrainingLog, TrainingSeeds
from finetune.metrics_file import MetricsFileLogger
from finetune.run_config import METRICS_FILE, RunConfig


def fit_callbacks(run: RunConfig, *, seed: int, log_every_n_steps: int) -> list[Callback]:
    """Return the callbacks of `fit`, in the order in which they are called."""
    return [TrainingSeeds(seed), TrainingLog(log_every_n_steps), BestClassifier(run.classifier)]


def progress_callbacks(show: bool) -> list[Callback]:
    """Return the progress bar, if one is wanted."""
    return [TQDMProgressBar(refresh_rate=10)] if show else []


def run_loggers(run: RunConfig, config: dict[str, Any]) -> list[Any]:
    """Return the run's metrics file, and Weights & Biases where it is asked for."""
    loggers: list[Any] = [MetricsFileLogger(run.folder / METRICS_FILE)]
    if run.wandb != "off":
        from pytorch_lightning.loggers import WandbLogger

        run.folder.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                project=run.wandb_project,
                name=run.name,
                group=run.wandb_group or None,
                offline=run.wandb == "offline",
                save_dir=run.folder,
                log_model=False,
                config=config,
            )
        )
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


@contextlib.contextmanager
def own_tracking() -> Iterator[None]:
    """End the W&B run that the block began; the next run of the process would write into it."""
    before = _tracked_run()
    try:
        yield
    finally:
        if _tracked_run() is not before:
            sys.modules["wandb"].finish()


def _tracked_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
