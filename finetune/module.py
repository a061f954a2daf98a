"""ClassifierModule: the LightningModule around `ponet.SequenceClassifier`. B batch, C labels."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from finetune.config import FinetuneConfig
from ponet import EncoderBatch, SequenceClassifier

LabelledBatch = tuple[EncoderBatch, Tensor]


def classification_metrics(num_labels: int) -> MetricCollection:
    """Return accuracy and macro F1 (labels in neither truth nor prediction are left out)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_labels, average="micro"),
            "macro_f1": MulticlassF1Score(num_labels, average="macro"),
        }
    )


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Return the factor on the peak learning rate at optimiser step `step` (from 0), in [0, 1].

    Source: BERT fine-tuning: linear from zero, then linear to zero.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


class ClassifierModule(LightningModule):
    """Trains one classifier.

    Args:
        classifier: Model to train in place.
        config: Optimiser settings.
        num_labels: C.
    """

    def __init__(
        self, classifier: SequenceClassifier, config: FinetuneConfig, *, num_labels: int
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = config
        self.metrics = classification_metrics(num_labels)
        self.mean_loss = MeanMetric(nan_strategy="disable")

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of one batch, in nats; in float32 also under mixed precision."""
        inputs, labels_B = batch
        loss = cross_entropy(self.classifier(inputs).float(), labels_B)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels_B))
        return loss

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Add one batch to the metrics."""
        inputs, labels_B = batch
        logits_BC = self.classifier(inputs).float()
        self.mean_loss.update(cross_entropy(logits_BC, labels_B), weight=len(labels_B))
        self.metrics.update(logits_BC.argmax(-1), labels_B)

    def on_validation_epoch_end(self) -> None:
        """Log loss, accuracy and macro F1 over all validation rows."""
        values = {"loss": self.mean_loss.compute(), **self.metrics.compute()}
        self.log_dict({f"val/{name}": value for name, value in values.items()}, prog_bar=True)
        self.mean_loss.reset()
        self.metrics.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, matrices with decay and vectors without, with warm-up and linear decay."""
        parameters = list(self.classifier.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=self.config.lr, weight_decay=self.config.weight_decay
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        warmup_steps = round(self.config.warmup_share * total_steps)

        def factor(step: int) -> float:
            return learning_rate_factor(step, warmup_steps=warmup_steps, total_steps=total_steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
