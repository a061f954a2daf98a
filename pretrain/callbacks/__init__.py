"""Callbacks of a pretraining run: log, progress bar, curves, bundle export, predictions."""

from pretrain.callbacks.evaluation_interval import EvaluationInterval
from pretrain.callbacks.export import BundleExport
from pretrain.callbacks.predictions import PredictionsFile
from pretrain.callbacks.progress import RunProgressBar
from pretrain.callbacks.reporting import EvaluationReport
from pretrain.callbacks.training_log import TrainingLog

__all__ = [
    "BundleExport",
    "EvaluationInterval",
    "EvaluationReport",
    "PredictionsFile",
    "RunProgressBar",
    "TrainingLog",
]
