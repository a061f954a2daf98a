"""What every run has: its folder, callbacks, loggers and plugins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from pretrain.callbacks import (
    EvaluationRecord,
    EvaluationReport,
    TrainingLog,
    dropout_seed,
    step_loss,
)
from pretrain.export import BundleExport
from pretrain.records import PredictionsFile, WandbRecords
from pretrain.run_config import RunConfig
from training.callbacks.history import RunHistory
from training.callbacks.steps import RunProgressBar, StepSeeds
from training.callbacks.watchdog import Watchdog
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.schedule import RunCheckpoints
from training.checkpoints.storage import newest_valid
from training.guards import GuardConfig, Guards
from training.interruption import StopRequest, say
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CheckpointConfig,
    PreemptionConfig,
)
from training.slurm import requeue


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
    return [*callbacks, RunProgressBar("pretrain")] if show else callbacks


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
    guard = Guards(guards, step_loss)
    watchdog = Watchdog(guards.watchdog_minutes)

    def before_stop(trainer: Trainer, pl_module: LightningModule) -> None:
        if preemption.requeue and trainer.is_global_zero:
            requeue()

    callbacks: list[Callback] = [
        RunHistory(run, resumed_from=resumed_from, tracker=tracker),
        StepSeeds(dropout_seed),
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
    return [*callbacks, RunProgressBar("pretrain")] if show else callbacks


def rehearsal_callbacks(run: RunConfig, guards: GuardConfig, *, show: bool) -> list[Callback]:
    """The callbacks of a `fit` that is a rehearsal: none of them writes a file."""
    callbacks: list[Callback] = [
        StepSeeds(dropout_seed),
        EvaluationReport(run.folder, draws=False),
        TrainingLog(run.peak_tflops),
        Guards(guards, step_loss),
    ]
    return [*callbacks, RunProgressBar("pretrain")] if show else callbacks


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
