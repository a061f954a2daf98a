"""What every run has: its folder, callbacks, loggers and plugins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

from pretrain.callbacks import (
    BundleExport,
    EndedEarly,
    EvaluationRecord,
    EvaluationReport,
    Guards,
    PredictionsFile,
    RunHistory,
    RunProgressBar,
    StepSeeds,
    TrainingLog,
    WandbRecords,
    Watchdog,
)
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.schedule import RunCheckpoints
from training.checkpoints.storage import newest_valid
from training.configuration import configuration_name, flatten
from training.guards import GuardConfig
from training.interruption import StopRequest, say
from training.metrics_file import MetricsFileLogger
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    CheckpointConfig,
    PreemptionConfig,
    RunConfig,
)
from training.slurm import requeue
from training.wandb_run import logger_options


def automatic_precision() -> str:
    """`bf16-mixed` where the device multiplies bfloat16 in hardware, else `32-true`.

    On a CPU that means AMX: without it bfloat16 matrix products are no faster than float32.
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu._is_amx_tile_supported() else "32-true"


def checkpoint_to_evaluate(run: RunConfig) -> Path:
    """The run's newest valid checkpoint; an untrained model is never evaluated by mistake."""
    folder = run.folder / CHECKPOINT_FOLDER
    found = newest_valid(folder, warn=say)
    if found is None:
        raise ValueError(
            f"no checkpoint in {folder}: give the run with --run.name, or a file with --ckpt_path"
        )
    return found.path


def evaluation_callbacks(run: RunConfig, *, show: bool) -> list[Callback]:
    """The callbacks of `validate`, `test` and `predict`."""
    callbacks: list[Callback] = [EvaluationRecord(run.folder), PredictionsFile(run.folder)]
    return [*callbacks, RunProgressBar()] if show else callbacks


def fit_callbacks(
    run: RunConfig,
    checkpoints: CheckpointConfig,
    preemption: PreemptionConfig,
    guards: GuardConfig,
    *,
    stop: StopRequest,
    resumed_from: Path | None,
    tracker: Callable[[], Any],
    show: bool,
) -> list[Callback]:
    """The callbacks of `fit`, in the order in which they are called."""
    folder = run.folder / CHECKPOINT_FOLDER
    guard = Guards(guards)
    watchdog = Watchdog(guards.watchdog_minutes)

    def before_stop(trainer: Trainer, pl_module: LightningModule) -> None:
        if preemption.requeue and trainer.is_global_zero:
            requeue()

    history = {"resumed_from": resumed_from, "overwrite": run.overwrite, "tracker": tracker}
    callbacks: list[Callback] = [
        RunHistory(run.folder, folder, **history),
        StepSeeds(),
        EndedEarly(run.folder),
        watchdog,
        EvaluationReport(run.folder),
        TrainingLog(run.peak_tflops),
        guard,
        BundleExport(run.folder / BUNDLE_FOLDER),
        *tracking_callbacks(run),
        RunCheckpoints(
            folder,
            config=checkpoints,
            stop=stop,
            poll_every_n_steps=preemption.poll_every_n_steps,
            eval_every_n_steps=run.eval_every_n_steps,
            before_save=guard.check_before_save,
            before_stop=before_stop,
            around_save=watchdog.saving,
        ),
    ]
    return [*callbacks, RunProgressBar()] if show else callbacks


def rehearsal_callbacks(run: RunConfig, guards: GuardConfig, *, show: bool) -> list[Callback]:
    """The callbacks of a `fit` that is a rehearsal: none of them writes a file."""
    callbacks: list[Callback] = [
        StepSeeds(),
        EvaluationReport(run.folder, draws=False),
        TrainingLog(run.peak_tflops),
        Guards(guards),
    ]
    return [*callbacks, RunProgressBar()] if show else callbacks


def tracking_callbacks(run: RunConfig) -> list[Callback]:
    """What Weights & Biases gets besides metrics, where it is asked for.

    It comes after what draws the curves and writes the bundle.
    """
    if run.wandb == "off":
        return []
    return [WandbRecords(run.folder, artifacts=run.wandb_artifacts)]


def run_plugins(checkpoints: CheckpointConfig) -> list[Any]:
    """Trusted checkpoint files, and SLURM without Lightning's own signal handling."""
    plugins: list[Any] = [VerifiedCheckpointIO(asynchronous=checkpoints.asynchronous)]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def take_over_signals(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: under DDP its handler waits for ranks that never come.

    With it goes a broadcast before every micro-batch, which made a GPU finish its work first.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def metrics_logger(run: RunConfig) -> MetricsFileLogger:
    """The logger of a fit; an evaluation has none, since it is no part of the training record."""
    return MetricsFileLogger(run.folder / METRICS_FILE)


def wandb_logger(run: RunConfig, config: dict[str, Any], *, continues: bool) -> Any:
    """Lightning's logger for Weights & Biases, noted in the run's folder; None: not asked for.

    Args:
        run: The run's options.
        config: The resolved configuration.
        continues: Whether it goes on from a checkpoint.
    """
    if run.wandb == "off":
        return None
    from pytorch_lightning.loggers import WandbLogger

    run.folder.mkdir(parents=True, exist_ok=True)
    settings = flatten(config)
    options = logger_options(
        run,
        folder=run.folder,
        name=run.name,
        job_type="pretrain",
        settings=settings,
        group=configuration_name(settings, label_keys=("model.encoder", "model.objective")),
        continues=continues,
        first_rank=rank_zero_only.rank == 0,
    )
    return WandbLogger(**options)
