"""LraModule: a classifier of Long Range Arena, first pretrained on its own inputs if asked for.

B rows of a batch, L places, C classes. Invariant: the gradient of an optimiser step is that of the
mean loss over its samples, however they are cut; of self-pretraining, where every text of every
micro-batch gives the mean over its hidden tokens and counts by its tokens.
"""

import dataclasses
from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from finetune.fit_module import FitModule
from finetune.lra.batches import LraBatch
from finetune.lra.datamodule import LraDataModule
from finetune.lra.encoders import EncoderFile, make_encoder, read_lra_encoder, sees_padding
from finetune.lra.schedule import OneCycle, set_beta1
from finetune.lra.self_pretraining import TokenGuesser
from ponet.heads import MeanClassifier
from training.optim import build_optimizer


class LraModule(FitModule):
    """Trains one encoder on one task, from scratch.

    Args:
        encoder: Encoder file, such as configs/encoder/lra_ponet.yaml; its class may be any
            torch.nn.Module that maps ids and mask (B, L) to states (B, L, D).
        optimizer: AdamW and its schedule.
        head_size: Width of the classifier's hidden layer.
        dropout_prob: Dropout of the encoder in training, in [0, 1); null: as its file says.
        self_pretrain_steps: Optimiser steps of guessing hidden tokens of the training inputs,
            before those of trainer.max_steps; the labels are not seen. Source: Amos et al. 2024.
    """

    classifier: MeanClassifier

    def __init__(
        self,
        encoder: str,
        optimizer: OneCycle = OneCycle(),  # noqa: B008 (frozen)
        head_size: int = 128,
        dropout_prob: float | None = None,
        self_pretrain_steps: int = 0,
    ) -> None:
        super().__init__()
        if self_pretrain_steps < 0:
            raise ValueError(f"self_pretrain_steps is {self_pretrain_steps}; give 0 or more")
        if dropout_prob is not None and not 0 <= dropout_prob < 1:
            raise ValueError(f"dropout_prob is {dropout_prob}; it must be in [0, 1)")
        if head_size < 1:
            raise ValueError(f"head_size is {head_size}; give 1 or more")
        self.file: EncoderFile = read_lra_encoder(encoder)
        self.optimizer_config = optimizer
        self.head_size = head_size
        self.dropout_prob = dropout_prob
        self.self_pretrain_steps = self_pretrain_steps
        self.guesser: TokenGuesser | None = None
        self.pretrain_loss: float | None = None
        """Mean loss of the last tenth of self-pretraining, in nats; None: there was none yet."""
        self._pretrain_losses: list[Tensor] = []
        self._sums: list[tuple[Tensor, Tensor, int]] = []

    @property
    def datamodule(self) -> LraDataModule:
        """The data module of the trainer."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, LraDataModule)
        return datamodule

    def setup(self, stage: str) -> None:
        """Build the classifier once the data module knows the task."""
        if hasattr(self, "classifier"):
            return
        self._val_batches = self.trainer.limit_val_batches
        spec, beta1 = self.datamodule.spec, self.optimizer_config.beta1
        if self.datamodule.mode == "published" and beta1 != OneCycle.beta1:
            raise ValueError(
                f"model.optimizer.beta1 is {beta1}: mode published cycles it; leave it out, or "
                "give --data.mode strict"
            )
        torch.manual_seed(self.datamodule.seed)
        made = make_encoder(self.file, spec, dropout_prob=self.dropout_prob)
        self.classifier = MeanClassifier(
            made, num_labels=len(spec.labels), hidden_size=self.head_size, has_pair=spec.has_pair
        )
        if self.self_pretrain_steps:
            self.guesser = TokenGuesser(self.classifier.encoder, spec)
        self.datamodule.sees_padding = sees_padding(made)
        if self.optimizer_config.warmup_share < 0:
            share = spec.warmup_steps / spec.steps
            self.optimizer_config = dataclasses.replace(self.optimizer_config, warmup_share=share)

    @property
    def is_pretraining(self) -> bool:
        """Whether the next optimiser step is one of self-pretraining."""
        return self.trainer.global_step < self.self_pretrain_steps

    @property
    def renamed_after(self) -> int:
        """Step after which `loss_name` is another one: the last of self-pretraining."""
        return self.self_pretrain_steps

    @property
    def loss_name(self) -> str:
        """What the loss of the newest steps is called in logs."""
        is_over = self.trainer.global_step > self.self_pretrain_steps
        return super().loss_name if is_over else "self_pretrain/loss"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was found of self-pretraining."""
        losses = [float(loss) for loss in self._pretrain_losses]
        checkpoint["self_pretraining"] = {"losses": losses, "mean": self.pretrain_loss}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with it."""
        self._pretrain_losses = [torch.tensor(x) for x in checkpoint["self_pretraining"]["losses"]]
        self.pretrain_loss = checkpoint["self_pretraining"]["mean"]

    def on_train_batch_start(self, batch: LraBatch, batch_idx: int) -> None:
        """Begin the classifier with a fresh optimiser, and validate from then on."""
        steps = self.self_pretrain_steps
        if not steps:
            return
        self.trainer.limit_val_batches = 0 if self.is_pretraining else self._val_batches
        if self.trainer.global_step == steps and self._pretrain_losses:
            last = self._pretrain_losses[-max(1, steps // 10) :]
            self.pretrain_loss = float(torch.stack(last).mean())
            self._pretrain_losses = []
            optimizer = self.optimizers()
            assert not isinstance(optimizer, list)
            optimizer.state.clear()

    def training_step(self, batch: LraBatch, batch_idx: int) -> Tensor:
        """Mean loss of a micro-batch, in nats."""
        if self.is_pretraining:
            assert self.guesser is not None
            sides = [side for side in (batch.inputs, batch.other) if side is not None]
            pairs = zip(sides, batch.token_shares, strict=True)
            loss = torch.stack([self.guesser(side) * share for side, share in pairs]).sum()
        else:
            loss = cross_entropy(self(batch).float(), batch.targets_B)
        self._open_loss.append(loss.detach())
        return loss

    def forward(self, batch: LraBatch) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.classifier(batch.inputs, batch.other, divisor=self.datamodule.divisor)
        return logits

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the micro-batches together; cycle beta1 where the published run does."""
        super().on_before_optimizer_step(optimizer)
        step, start = self.trainer.global_step, self.self_pretrain_steps
        if step < start:
            assert self.step_loss is not None
            self._pretrain_losses.append(self.step_loss)
        elif self.datamodule.mode == "published":
            total = int(self.trainer.max_steps) - start
            beta1 = self.optimizer_config.beta1_at(step - start, total_steps=total)
            set_beta1(optimizer, beta1)

    def validation_step(self, batch: LraBatch, batch_idx: int) -> None:
        """Keep what one batch gave."""
        logits_BC, targets_B = self(batch).float(), batch.targets_B
        losses = cross_entropy(logits_BC, targets_B, reduction="sum")
        self._sums.append((losses, (logits_BC.argmax(1) == targets_B).sum(), len(targets_B)))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score the validation split."""
        self._score("validation", "val")

    def on_test_epoch_end(self) -> None:
        """Score the test split."""
        self._score("test", "test")

    def _score(self, split: str, prefix: str) -> None:
        count = sum(n for _, _, n in self._sums)
        loss = sum(float(loss) for loss, _, _ in self._sums) / count
        accuracy = sum(int(hits) for _, hits, _ in self._sums) / count
        self._sums = []
        scores = {"accuracy": accuracy, "score": accuracy, "loss": loss}
        self.evaluation[split] = {**scores, "num_rows": count}
        found = {f"{prefix}/{name}": value for name, value in scores.items()}
        self.log_dict(found, logger=False, sync_dist=True)  # equal on all ranks already
        for logger in self.trainer.loggers:
            logger.log_metrics(found, step=self.trainer.global_step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, and its learning rate as a function of the optimiser step."""
        fusable = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        config, start = self.optimizer_config, self.self_pretrain_steps
        total = int(self.trainer.max_steps) - start

        def factor(step: int) -> float:
            if step < start:
                return config.pretrain_factor(step, total_steps=start)
            return config.schedule_factor(step - start, total_steps=total)

        optimizer = build_optimizer(self, config, fusable=fusable)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }
