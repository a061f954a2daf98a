"""Callbacks of a fine-tuning run: seeds, logs with a look for divergence, the best classifier."""

from finetune.callbacks.best import BestClassifier
from finetune.callbacks.seeds import TrainingSeeds
from finetune.callbacks.training_log import TrainingLog

__all__ = ["BestClassifier", "TrainingLog", "TrainingSeeds"]
