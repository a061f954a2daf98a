"""The learning-rate finder: Lightning's sweep, our losses, our choice.

Lightning's Tuner runs the sweep: it puts its own exponential schedule in the place of ours (which
would multiply a warm-up into every learning rate), trains, and restores the weights. Three things
are not left to it. Its loss is that of one micro-batch, divided by the accumulation: the losses
here are means over the whole global batch. Its smoothing halves the first losses, which also sets
its rule for stopping: ours is in `LossRecorder`. Its suggestion: see `lr_curve`.
"""

import math
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.tuner.tuning import Tuner

from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule, means
from pretrain.tuning.searches import LrCurve, LrSearch, lr_curve

_STOP_WINDOW = 5


class LossRecorder:
    """Takes the place of the module's `on_train_batch_end`: Lightning's finder removes callbacks.

    Args:
        trainer: Stopped where the loss runs away.
        module: Its pair weight makes the loss that is trained on.
        stop_factor: See `LrSearch`.
    """

    def __init__(self, trainer: Trainer, module: PretrainModule, stop_factor: float) -> None:
        self.losses: list[float] = []
        self._trainer = trainer
        self._pair_loss_weight = module.pair_loss_weight
        self._stop_factor = stop_factor
        self._lowest = math.inf
        self._last_step = 0
        self._open: list[torch.Tensor] = []

    def __call__(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the micro-batch; keep the mean loss where it completes an optimiser step."""
        self._open.append(outputs["sums"])
        if self._trainer.global_step == self._last_step:
            return
        self._last_step = self._trainer.global_step
        values = means(torch.stack(self._open).sum(0).cpu())
        self._open = []
        pair_loss = self._pair_loss_weight * values.get("pair_loss", 0.0)
        self.losses.append(values["mlm_loss"] + pair_loss)
        recent = sum(self.losses[-_STOP_WINDOW:]) / len(self.losses[-_STOP_WINDOW:])
        self._lowest = min(self._lowest, recent)
        if not recent <= self._stop_factor * self._lowest:  # also where it is not a number
            self._trainer.should_stop = True


def find_lr(
    trainer: Trainer, module: PretrainModule, datamodule: PretrainDataModule, search: LrSearch
) -> LrCurve:
    """Sweep the learning rate upwards over fresh weights.

    Args:
        trainer: On one device, without validation, `max_steps` of the search, and with a scratch
            folder as its root: Lightning keeps the weights there meanwhile.
        module: Its weights are those of before when this returns.
        datamodule: Serves whole global batches by accumulation.
        search: Range and number of steps.

    Raises:
        ValueError: The curve has no usable fall (see `lr_curve`).
    """
    recorder = LossRecorder(trainer, module, search.stop_factor)
    module.on_train_batch_end = recorder  # type: ignore[method-assign]
    try:
        finder = Tuner(trainer).lr_find(
            module,
            datamodule=datamodule,
            min_lr=search.min_lr,
            max_lr=search.max_lr,
            num_training=search.num_steps,
            early_stop_threshold=None,
            update_attr=False,
        )
    finally:
        del module.on_train_batch_end
    assert finder is not None
    return lr_curve(finder.results["lr"][: len(recorder.losses)], recorder.losses)
