"""Callbacks of a pretraining run: seeds, guards, logs, progress, curves, export, W&B."""

from pretrain.callbacks.ended_early import EndedEarly
from pretrain.callbacks.evaluation_interval import EvaluationInterval
from pretrain.callbacks.export import BundleExport
from pretrain.callbacks.guards import Guards
from pretrain.callbacks.history import RunHistory
from pretrain.callbacks.predictions import PredictionsFile
from pretrain.callbacks.progress import RunProgressBar
from pretrain.callbacks.reporting import EvaluationRecord, EvaluationReport
from pretrain.callbacks.seeds import StepSeeds
from pretrain.callbacks.training_log import TrainingLog
from pretrain.callbacks.wandb_records import WandbRecords
from pretrain.callbacks.watchdog import Watchdog

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
