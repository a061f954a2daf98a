"""Guards: no bad optimiser step goes unnoticed, and none reaches a checkpoint.

Invariant: the numbers stay on the device until somebody looks, and all ranks see the same ones.
"""

from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from pretrain.module import LossSums, sum_dtype
from training.callbacks.agreement import ranks_agree
from training.guards import BadStep, GuardConfig, SpikeDetector, first_bad_step, nonfinite_names
from training.interruption import EXIT_GUARD, RunInterrupted


class BadState(RunInterrupted):
    """The run's numbers went wrong; what the model holds now must not be saved.

    Args:
        bad: The step.
        samples: First and last sample it read; None where the data has no numbers.
        skip_steps: Steps of data to leave out in a rollback.
    """

    def __init__(self, bad: BadStep, samples: tuple[int, int] | None, *, skip_steps: int) -> None:
        read = f"; it read the samples {samples[0]} to {samples[1]}" if samples else ""
        super().__init__(f"{bad}{read}", EXIT_GUARD)
        self.bad = bad
        self.samples = samples
        self.last_data_step = bad.step - 1
        """Last step whose data is to be skipped, from 0 as `sample_range` counts: the bad one."""
        self.first_data_step = max(0, bad.step - skip_steps)
        """First step whose data is to be skipped, from 0; may lie before the newest checkpoint."""


class Guards(Callback):
    """Look at the loss and gradient norm of every optimiser step, some steps at a time.

    Per step it keeps the `sums` that `training_step` returned and the module's `grad_norm`. Its
    place in the list of callbacks is before whatever saves.

    Args:
        config: What to look for, and how often.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self._detector = SpikeDetector(config.spike_factor, config.spike_window)
        self._last_step = 0
        self._open: list[Tensor] = []
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin after the steps already done."""
        self._last_step = trainer.global_step
        self._open, self._steps = [], []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the micro-batch; look where it completes the last step of a group."""
        if self.config.action == "off":
            return
        self._open.append(outputs["sums"])
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        sums = self._open[0] if len(self._open) == 1 else torch.stack(self._open).sum(0)
        self._steps.append((step, sums, pl_module.grad_norm))
        self._open = []
        if step % self.config.every_n_steps == 0:
            self.check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps."""
        self.check(trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the steps since the last look; every rank must call it at the same step.

        Raises:
            BadState: On all ranks alike, if a step was bad.
        """
        if not self._steps:
            return
        rows = self._reduced(trainer, pl_module)
        self._steps = []
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        bad = first_bad_step(rows, self._detector, scaled_gradients=scaler is not None)
        if bad is not None:
            self._raise(trainer, bad)

    def check_before_save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the steps since the last look and at the weights; on every rank, before a save.

        Raises:
            BadState: On all ranks alike, if a step was bad or a weight is not finite.
        """
        if self.config.action == "off":
            return
        self.check(trainer, pl_module)
        names = nonfinite_names(pl_module.state_dict())
        if ranks_agree(trainer, int(bool(names))):
            step = max(1, trainer.global_step)
            self._raise(trainer, BadStep(step, "weights", float(len(names)), None))

    def _raise(self, trainer: Trainer, bad: BadStep) -> NoReturn:
        sample_range = getattr(getattr(trainer, "datamodule", None), "sample_range", None)
        samples = sample_range(bad.step - 1) if sample_range else None
        raise BadState(bad, samples, skip_steps=self.config.skip_steps)

    def _reduced(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> list[tuple[int, float, float | None]]:
        """Number, loss and gradient norm of the steps kept: means over micro-batches and ranks."""
        device, dtype = pl_module.device, sum_dtype(pl_module.device)
        zero = torch.zeros((), device=device, dtype=dtype)
        norms = torch.stack(
            [zero if norm is None else norm.detach().to(device, dtype) for *_, norm in self._steps]
        )
        sums = torch.stack([sums.to(device, dtype) for _, sums, _ in self._steps])
        together = torch.cat([sums, norms[:, None]], dim=1)
        values = trainer.strategy.reduce(together, reduce_op="sum").tolist()
        return [
            (step, _mean_loss(row), None if norm is None else row[-1] / trainer.world_size)
            for (step, _, norm), row in zip(self._steps, values, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The losses of the running median; a look comes before every save."""
        return self._detector.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved run's losses."""
        self._detector.load_state_dict(state_dict)


def _mean_loss(row: list[float]) -> float:
    """What `train/loss` is: nats per hidden token plus nats per pair."""
    sums = dict(zip(LossSums._fields, row, strict=False))
    mlm_loss = sums["mlm_loss"] / max(1.0, sums["mlm_count"])
    return mlm_loss + sums["pair_loss"] / max(1.0, sums["pair_count"])
