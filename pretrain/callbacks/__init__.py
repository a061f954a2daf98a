"""Callbacks of a pretraining run: seeds, guards, logs, progress, curves, export, W&B."""

from pretrain.callbacks.guards import Guards
from pretrain.callbacks.predictions import PredictionsFile
from pretrain.callbacks.progress import RunProgressBar
from pretrain.callbacks.seeds import StepSeeds
from pretrain.callbacks.training_log import TrainingLog
from pretrain.callbacks.wandb_records import WandbRecords
from pretrain.export import BundleExport
from training.callbacks.ended_early import EndedEarly
from training.callbacks.evaluation_interval import EvaluationInterval
from training.callbacks.history import RunHistory
from training.callbacks.reporting import EvaluationRecord, EvaluationReport
from training.callbacks.watchdog import Watchdog

__all__ = [
    "BundleExport",
    "EndedEarly",
    "EvaluationInterval",
    "EvaluationRecord",
    "EvaluationReport",
    "Guards",
    "PredictionsFile",
    "RunHistory",
    "RunProgressBar",
    "StepSeeds",
    "TrainingLog",
    "WandbRecords",
    "Watchdog",
]
