"""Callbacks of a fine-tuning run: seeds, logs with a look for divergence, the best one, W&B."""

from finetune.callbacks.best import BestClassifier
from finetune.callbacks.seeds import TrainingSeeds
from finetune.callbacks.training_log import TrainingLog
from finetune.callbacks.wandb_records import WandbLineage, record_result

__all__ = ["BestClassifier", "TrainingLog", "TrainingSeeds", "WandbLineage", "record_result"]
