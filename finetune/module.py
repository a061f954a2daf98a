"""FinetuneModule: the LightningModule around `ponet.SequenceClassifier`.

B rows of a batch, N rows of a split, C outputs. Invariant: the gradient of an optimiser step is
that of the mean loss over the step's rows, whatever the number of micro-batches and devices; a
split's scores come from all of its rows, each counted once.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy, mse_loss

from finetune.artifact import (
    EncoderSource,
    PretrainedEncoder,
    load_classifier,
    load_pretrained,
)
from finetune.data.batches import ScoreScale, TaskBatch, balanced_weights, score_scale
from finetune.data.datamodule import TaskDataModule
from finetune.fit_module import FitModule
from finetune.metrics import scores
from finetune.tasks.spec import TaskSpec
from ponet import BertConfig, SequenceClassifier
from ponet.tokenizer import check_tokenizer
from training.optim import FinetuneOptimizer, scheduled_optimizer


def row_losses(
    outputs_BC: Tensor,
    targets_B: Tensor,
    *,
    is_regression: bool,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Return the loss of each row, float32 (B,): cross-entropy in nats, or the squared error.

    Args:
        outputs_BC: Logits, or (B, 1) scores of a regression.
        targets_B: int64 classes, or scores.
        is_regression: Which of the two.
        class_weights_C: What the loss of a row of each class is multiplied by; None: 1.
    """
    outputs_BC = outputs_BC.float()
    if is_regression:
        return mse_loss(outputs_BC[:, 0], targets_B.float(), reduction="none")
    return cross_entropy(outputs_BC, targets_B, weight=class_weights_C, reduction="none")


def log_prefix(split: str) -> str:
    """Return what a split is called in logs: `val`, `val_mismatched`, `test`, ..."""
    return split.replace("validation", "val")


class FinetuneModule(FitModule):
    """Fine-tunes one encoder on one task.

    Args:
        encoder: Folder of a bundle, of the run that holds bundle/, of the authors' released weights
            with a tokenizer.json beside them, or of a fine-tuned run: its encoder with a new last
            layer, or with the old one where the labels are the same.
        random_init: Take sizes and tokenizer from there but no weights: what pretraining is worth.
        positions: How a position table shorter than data.max_len is made longer: repeated (as the
            released code) or stretched.
        gradient_checkpointing: Recompute each block in the backward pass: less memory, more time,
            the same numbers.
        optimizer: AdamW and its schedule.
        dropout_prob: Dropout of encoder and head in training, in [0, 1).
        class_weights: balanced: in training, the loss of a row is multiplied by rows / (classes x
            rows of its class), so that rare classes count as much as frequent ones.
    """

    spec: TaskSpec
    classifier: SequenceClassifier

    def __init__(  # noqa: PLR0917
        self,
        encoder: str,
        random_init: bool = False,
        positions: Literal["tile", "interpolate"] = "tile",
        gradient_checkpointing: bool = False,
        optimizer: FinetuneOptimizer = FinetuneOptimizer(),  # noqa: B008 (frozen)
        dropout_prob: float = 0.1,
        class_weights: Literal["none", "balanced"] = "none",
    ) -> None:
        super().__init__()
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"dropout_prob is {dropout_prob}; it must be in [0, 1)")
        self.encoder_path = encoder
        self.random_init = random_init
        self.positions = positions
        self.gradient_checkpointing = gradient_checkpointing
        self.optimizer_config = optimizer
        self.dropout_prob = dropout_prob
        self.class_weights = class_weights
        self.class_weights_C: Tensor | None = None
        """float32 (C,); None: all 1."""
        self.scale = ScoreScale()
        """Of the scores of a regression."""
        self.trained: Path | None = None
        """Folder of a trained classifier to evaluate; None: start from the encoder."""
        self.source: EncoderSource | None = None
        """Where it started, after `setup` for a fit."""
        self._evaluated: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    @property
    def datamodule(self) -> TaskDataModule:
        """The data module of the trainer."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, TaskDataModule)
        return datamodule

    def setup(self, stage: str) -> None:
        """Build the classifier once the data module knows the task."""
        if hasattr(self, "classifier"):
            return
        self.spec = self.datamodule.spec
        if self.trained is not None:
            self.classifier = self._trained_classifier(self.trained)
        else:
            self._start()
        self.datamodule.equal_lengths = self.classifier.encoder.config.sees_padding

    def _start(self) -> None:
        """Build what is trained: from the encoder, on the scale of the training rows."""
        self.scale = score_scale(self.spec, self.datamodule.loaded.splits["train"])
        if self.class_weights == "balanced":
            counts = self.datamodule.inspection["splits"]["train"]["labels"]
            self.class_weights_C = torch.tensor(balanced_weights(counts))
        pretrained = load_pretrained(self.encoder_path)
        self.source, sizes = pretrained.source, pretrained.model.encoder.config
        check_tokenizer(self.source.tokenizer_json, vocab_size=sizes.vocab_size)
        if self.spec.has_pair and sizes.type_vocab_size < 2:
            raise ValueError(f"{self.encoder_path} has one token type; pairs of texts need two")
        torch.manual_seed(self.datamodule.seed)  # the new layers, whatever was drawn before
        self.classifier = self._new_classifier(pretrained)
        self.classifier.encoder.gradient_checkpointing = self.gradient_checkpointing

    def _trained_classifier(self, folder: Path) -> SequenceClassifier:
        loaded = load_classifier(folder, max_len=self.datamodule.max_len, positions=self.positions)
        if loaded.info.labels != self.spec.labels:
            raise ValueError(
                f"{folder} was trained on {loaded.info.title} with the labels "
                f"{', '.join(loaded.info.labels) or 'none'}; the data have "
                f"{', '.join(self.spec.labels) or 'scores'}"
            )
        self.scale = loaded.info.scale
        return loaded.model

    def _new_classifier(self, pretrained: PretrainedEncoder) -> SequenceClassifier:
        model = pretrained.model
        prob, config = self.dropout_prob, model.encoder.config
        config = dataclasses.replace(config, dropout_prob=prob)
        if isinstance(config, BertConfig):
            config = dataclasses.replace(config, attention_dropout_prob=prob)
        max_positions = max(self.datamodule.max_len, config.max_positions)
        if self.random_init:  # positions of their own: a repeated random table would say less
            config = dataclasses.replace(config, max_positions=max_positions)
        num_labels = self.spec.num_outputs
        classifier = SequenceClassifier(config, num_labels=num_labels, dropout_prob=prob)
        if not self.random_init:
            classifier.encoder.load_state_dict(model.encoder.state_dict())
            if model.pooler is not None:
                classifier.pooler.load_state_dict(model.pooler.state_dict())
            if isinstance(model, SequenceClassifier) and pretrained.labels == self.spec.labels:
                classifier.classifier.load_state_dict(model.classifier.state_dict())
                if self.spec.is_regression:
                    self.scale.take_over(classifier.classifier, pretrained.scale)
            if max_positions > config.max_positions:
                classifier.encoder.extend_positions(max_positions, method=self.positions)
        return classifier

    def forward(self, batch: TaskBatch) -> Tensor:
        """Outputs (B, C) of one batch."""
        outputs_BC: Tensor = self.classifier(batch.inputs)
        return outputs_BC

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the rows' losses.

        The weights are micro-batches of the step / rows of the step, and 0 for rows that only fill
        a batch: Lightning's division by the accumulation and the mean over ranks then give the mean
        over the step's rows.
        """
        weights_C = self.class_weights_C
        losses_B = row_losses(
            self(batch),
            self.scale.inner(batch.targets_B) if self.spec.is_regression else batch.targets_B,
            is_regression=self.spec.is_regression,
            class_weights_C=None if weights_C is None else weights_C.to(self.device),
        )
        loss = (losses_B * batch.weights_B).sum()
        self._open_loss.append(loss.detach())
        return loss

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep what one batch gave."""
        outputs_BC = self(batch).float()
        if self.spec.is_regression:
            outputs_BC = self.scale.outer(outputs_BC)
        kept = self._evaluated.setdefault(dataloader_idx, [])
        kept.append((batch.row_ids_B, outputs_BC, batch.targets_B))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score every validation split."""
        self._score(self.datamodule.loaded.validation_splits)

    def on_test_epoch_end(self) -> None:
        """Score every labelled test split."""
        self._score(self.datamodule.loaded.test_splits)

    def _score(self, splits: tuple[str, ...]) -> None:
        for loader, split in enumerate(splits):
            outputs_NC, targets_N = self._all_rows(self._evaluated.get(loader, []))
            losses_N = row_losses(outputs_NC, targets_N, is_regression=self.spec.is_regression)
            losses_N = losses_N / self.scale.std**2  # in the unit of the training loss
            self.evaluation[split] = {
                **scores(self.spec, outputs_NC, targets_N),
                "loss": float(losses_N.double().mean()),
                "num_rows": len(targets_N),
            }
            found = {f"{log_prefix(split)}/{k}": v for k, v in self.evaluation[split].items()}
            del found[f"{log_prefix(split)}/num_rows"]
            self.log_dict(found, logger=False)
            for logger in self.trainer.loggers:  # with the number of optimiser steps, as train/loss
                logger.log_metrics(found, step=self.trainer.global_step)
        self._evaluated = {}

    def _all_rows(self, kept: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Outputs (N, C) and targets (N,) of a split, on the CPU, in the order of its rows.

        The ranks' shares may differ in size, so they travel as objects.
        """
        own = [torch.cat(parts).cpu() for parts in zip(*kept, strict=True)]
        shares = [own]
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(gathered, own)
            shares = [share for share in gathered if share]
        ids_N, outputs_NC, targets_N = (torch.cat(parts) for parts in zip(*shares, strict=True))
        order_N = ids_N.argsort()
        return outputs_NC[order_N], targets_N[order_N]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, and its learning rate as a function of the optimiser step."""
        # Lightning clips no gradients of a fused kernel under any mixed precision.
        fusable = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        if self.trainer.estimated_stepping_batches == math.inf:
            raise ValueError("the run has no end; give --trainer.max_epochs, 1 or more")
        steps = int(self.trainer.estimated_stepping_batches)
        config = self.optimizer_config
        return scheduled_optimizer(self.classifier, config, total_steps=steps, fusable=fusable)
