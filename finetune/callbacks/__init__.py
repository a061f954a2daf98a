"""Callbacks of a fit: seeds, logs with a look for divergence, the best one, going on, W&B."""

from finetune.callbacks.best import BestClassifier
from finetune.callbacks.progress import ProgressLines
from finetune.callbacks.resume import ResumePoint
from finetune.callbacks.seeds import TrainingSeeds
from finetune.callbacks.training_log import TrainingLog
from finetune.callbacks.wandb_records import WandbLineage, record_result

__all__ = [
    "BestClassifier",
    "ProgressLines",
    "ResumePoint",
    "TrainingLog",
    "TrainingSeeds",
    "WandbLineage",
    "record_result",
]
