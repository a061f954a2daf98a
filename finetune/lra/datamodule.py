"""A task of Long Range Arena for a Trainer: read once, looked at, laid on the device.

Invariant: `mode` alone decides what of the published procedure's quirks is kept, and every result
says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from finetune.data.batches import accumulation_steps
from finetune.lra.batches import DeviceSplit, EvaluationBatches, Layout, LraBatch, TrainBatches
from finetune.lra.selection import LraSelection
from finetune.lra.sources import LraData
from finetune.lra.splits import token_entropy

STRICT_EVALUATIONS = 20


@dataclass(kw_only=True, eq=False)
class LraDataModule(LraSelection, pl.LightningDataModule):
    """One task; after `setup`: `spec`, `found` (its samples) and `inspection`."""

    batch_size: int = 0
    """Samples of an optimiser step; 0: the task's."""
    micro_batch_size: int = 0
    """Samples of a forward pass in training, a divisor of batch_size: each micro-batch is cut to
    its longest row, so small ones save time on a CPU. 0: a quarter of batch_size, on a GPU all."""
    eval_batch_size: int = 32
    """Samples of a forward pass in an evaluation; changes speed and memory alone."""
    cut_padding: bool = True
    """Cut micro-batches to their longest row where the encoder allows it; the same function, though
    dropout draws other numbers."""
    evaluations: int = 0
    """Validations, at equal distances from the first step on, one of self-pretraining too; 0: 20
    (strict) or the task's 40 to 200 (published)."""
    seed: int = 42
    """Seed of the order of the training samples."""

    def __post_init__(self) -> None:
        """Check the options."""
        pl.LightningDataModule.__init__(self)
        self.check_selection()
        for name in ("batch_size", "micro_batch_size", "evaluations"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name} is {getattr(self, name)}; 0 or more is needed")
        if self.eval_batch_size < 1:
            raise ValueError(f"data.eval_batch_size is {self.eval_batch_size}; give 1 or more")
        spec = self.task_spec()
        self.spec = replace(spec, batch_size=self.batch_size or spec.batch_size)
        quarter = max(1, self.spec.batch_size // 4)
        self.micro_batch_size = self.micro_batch_size or gcd(self.spec.batch_size, quarter)
        if self.spec.batch_size % self.micro_batch_size:
            raise ValueError(
                f"data.micro_batch_size is {self.micro_batch_size}, which does not divide the "
                f"batch of {self.spec.batch_size}"
            )
        self.sees_padding = True
        """Whether the encoder does, so that nothing may be cut; the model says so."""
        self.resume_at = (0, 0)
        """Epoch to begin with, and how many of its micro-batches to leave out."""
        self.inspection: dict[str, Any] = {}
        self.found: LraData
        self._on_device: dict[str, DeviceSplit] = {}

    @property
    def num_evaluations(self) -> int:
        """Validations of a run."""
        usual = self.spec.evaluations if self.mode == "published" else STRICT_EVALUATIONS
        return self.evaluations or usual

    def setup(self, stage: str) -> None:
        """Read the samples, once, and look at them."""
        if self.inspection:
            return
        self.found, self.inspection = self.load()
        count = len(self.found.splits["train"])
        if count < self.spec.batch_size:
            raise ValueError(
                f"{count} training samples fill no batch of {self.spec.batch_size}; give a smaller "
                "--data.batch_size"
            )

    @cached_property
    def frequency_loss(self) -> float:
        """What guessing hidden training tokens by their frequencies alone loses, in nats."""
        zeros_are_padding = not self.spec.is_pixels or self.layout().zeros_are_padding
        return token_entropy(self.found.splits["train"], zeros_are_padding=zeros_are_padding)

    def accumulation(self, num_devices: int) -> int:
        """Return the micro-batches of an optimiser step; a run has one device."""
        if num_devices > 1:
            raise ValueError(
                f"{num_devices} devices for one run; these models are small: give --trainer.devices"
                " 1, and run several seeds at once (python -m finetune lra grid --jobs)"
            )
        return accumulation_steps(self.spec.batch_size, self.micro_batch_size, 1)

    def layout(self) -> Layout:
        """Return how samples become batches."""
        spec = self.spec
        return Layout(
            num_segments=spec.num_segments,
            zeros_are_padding=self.mode == "published" and spec.is_pixels,
            cuts=self.cut_padding and not self.sees_padding and not spec.is_pixels,
        )

    @property
    def divisor(self) -> int | None:
        """What sums of states are divided by; None: the number of real tokens."""
        return self.spec.length if self.mode == "published" else None

    def on_device(self, name: str) -> DeviceSplit:
        """Return a split on the trainer's device; it is laid there once."""
        if name not in self._on_device:
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            split = DeviceSplit(self.found.splits[name], self.layout(), device)
            self._on_device[name] = split
        return self._on_device[name]

    def train_dataloader(self) -> TrainBatches:
        """Return the micro-batches of an epoch."""
        trainer = self.trainer
        assert trainer is not None
        return TrainBatches(
            self.on_device("train"),
            batch_size=self.spec.batch_size,
            micro_batch_size=self.micro_batch_size,
            seed=self.seed,
            epoch=lambda: trainer.current_epoch,
            resume_at=self.resume_at,
        )

    def val_dataloader(self) -> EvaluationBatches:
        """Return the validation samples."""
        return self._evaluated("validation")

    def test_dataloader(self) -> EvaluationBatches:
        """Return the test samples."""
        return self._evaluated("test")

    def _evaluated(self, name: str) -> EvaluationBatches:
        """All samples; as published those of whole batches, after a shuffle by the seed."""
        split = self.on_device(name)
        rows = np.arange(len(split))
        if self.mode == "published" and len(rows) >= self.spec.batch_size:
            shuffled = np.random.default_rng((self.seed, 1)).permutation(rows)
            rows = shuffled[: len(rows) - len(rows) % self.spec.batch_size]
        return EvaluationBatches(split, rows.tolist(), self.eval_batch_size)

    def transfer_batch_to_device(
        self, batch: LraBatch, device: torch.device, dataloader_idx: int
    ) -> LraBatch:
        """Return the batch: it was made on the device."""
        return batch

    def counts(self) -> Mapping[str, int]:
        """Return split -> samples that are used."""
        return {name: len(split) for name, split in self.found.splits.items()}
