"""`tune lr`: the loss against a rising learning rate, and the rate where it falls most steeply.

T steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from pretrain.module import PretrainModule
from pretrain.randomness import FloatArray
from pretrain.sums import means
from training.interruption import say
from training.reports.figures import COLOURS

_FEWEST_STEPS = 20
_STOP_WINDOW = 5
_VISIBLE = 5.0


@dataclass(frozen=True, kw_only=True)
class LrSearch:
    """The learning-rate finder's own options."""

    output: Path = Path("tuned_lr.yaml")
    """YAML file to write, a further --config of `fit`; the plot goes beside it as PNG."""
    min_lr: float = 1e-6
    """Learning rate of the first step, > 0."""
    max_lr: float = 1.0
    """Learning rate of the last step, above min_lr."""
    num_steps: int = 100
    """Optimiser steps, at least 20; the learning rate grows by the same factor at each."""
    stop_factor: float = 2.0
    """End early where the mean loss of the last five steps is this many times the lowest such
    mean, or not finite; > 1."""

    def __post_init__(self) -> None:
        if not 0 < self.min_lr < self.max_lr:
            raise ValueError(f"min_lr {self.min_lr} must be above 0 and below max_lr {self.max_lr}")
        if self.num_steps < _FEWEST_STEPS:
            raise ValueError(f"num_steps must be at least {_FEWEST_STEPS}, got {self.num_steps}")
        if self.stop_factor <= 1:
            raise ValueError(f"stop_factor must be above 1, got {self.stop_factor}")

    def lr_of(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return float(self.min_lr * (self.max_lr / self.min_lr) ** (step / (self.num_steps - 1)))


class LrSweep(Callback):
    """Raises the learning rate step by step and keeps the loss of each whole global batch.

    Our own schedule would multiply a warm-up into every rate, so it is overruled before each step;
    Lightning's finder would look at the last micro-batch of a step alone.
    """

    def __init__(self, search: LrSearch) -> None:
        self.losses: list[float] = []
        self._search = search
        self._lowest = math.inf
        self._open: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Set the learning rate of the step that this micro-batch belongs to."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self._search.lr_of(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Add the micro-batch; where it completes a step, keep the loss or end the sweep."""
        self._open.append(outputs["sums"])
        if trainer.global_step == len(self.losses):
            return
        assert isinstance(pl_module, PretrainModule)
        sums = torch.stack(self._open).sum(0).cpu()
        self._open = []
        self.losses.append(means(sums, pl_module.pair_loss_weight)["loss"])
        recent = sum(self.losses[-_STOP_WINDOW:]) / len(self.losses[-_STOP_WINDOW:])
        self._lowest = min(self._lowest, recent)
        if not recent <= self._search.stop_factor * self._lowest:  # also where it is not a number
            trainer.should_stop = True


class LrCurve(NamedTuple):
    """Loss in nats against learning rate, (T,) each, and the points that matter."""

    lrs: FloatArray
    losses: FloatArray
    smooth: FloatArray
    """`losses` as a moving mean."""
    steepest: int
    """Step of the steepest fall per factor of the learning rate, before the lowest loss."""
    lowest: int
    """Step of the lowest smoothed loss."""

    @property
    def suggestion(self) -> float:
        """The learning rate to use, to two significant digits."""
        return float(f"{self.lrs[self.steepest]:.1e}")

    @property
    def still_falling(self) -> bool:
        """Whether the loss never rose: the search ended before a learning rate was too high."""
        return bool(self.smooth[-1] <= self.smooth[self.lowest] * 1.01)


def lr_curve(lrs: Sequence[float], losses: Sequence[float]) -> LrCurve:
    """Find the steepest fall of the loss, against the logarithm of the learning rate.

    Lightning's finder takes the slope against the rate itself, which at the small end divides the
    noise by almost nothing, and smooths with a mean that lags behind; both can move its answer.

    The curve ends before the first loss that is not finite; too few steps, or a loss that no
    learning rate lowered visibly, are an error.

    Source: the range test of L. Smith (arXiv 1506.01186), steepest-slope rule as in fastai.
    """
    end = int(np.append(np.isfinite(losses), False).argmin())
    values, rates = np.asarray(losses[:end], np.float64), np.asarray(lrs[:end], np.float64)
    if end < _FEWEST_STEPS // 2:
        raise ValueError(
            f"only {end} steps had a finite loss: start lower (--min_lr) or take more steps "
            "(--num_steps)"
        )
    reach = max(1, end // 20)
    smooth = moving_mean(values, reach)
    lowest = reach + int(smooth[reach : end - reach].argmin())  # the ends are hardly smoothed
    fall = float(smooth[reach] - smooth[lowest])
    noise = float((values - smooth)[: lowest + 1].std()) / math.sqrt(2 * reach + 1)
    if fall <= _VISIBLE * noise:
        raise ValueError(
            f"no learning rate between {rates[0]:.1e} and {rates[-1]:.1e} lowered the loss visibly "
            f"({fall:.3f} nats, with a noise of {noise:.3f}): widen --min_lr and --max_lr or take "
            "more steps (--num_steps)"
        )
    slope = np.gradient(smooth, np.log(rates))
    steepest = reach + int(slope[reach : lowest + 1].argmin())
    return LrCurve(rates, values, smooth, steepest, lowest)


def moving_mean(values: FloatArray, reach: int) -> FloatArray:
    """Mean of each value (T,) with `reach` >= 0 neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(values.size)
    near = np.minimum(reach, np.minimum(place, values.size - 1 - place))
    mean: FloatArray = (sums[place + near + 1] - sums[place - near]) / (2 * near + 1)
    return mean


def find_lr(cli: Any) -> None:
    """Sweep, plot, write `model.optimizer.lr`; `cli` is the `TuneCLI` of the command."""
    sweep = LrSweep(cli.search)
    cli.make_trainer(sweep, cli.search.num_steps).fit(cli.model, datamodule=cli.datamodule)
    curve = lr_curve([cli.search.lr_of(n) for n in range(len(sweep.losses))], sweep.losses)
    first, last = curve.lrs[0], curve.lrs[-1]
    if curve.still_falling:
        say(f"the loss still falls at {last:.1e}: raise --max_lr to see where it ends")
    with cli.drawn() as (axis,):
        _draw(curve, axis)
    cli.write(
        f"the loss fell most steeply at {curve.suggestion:.1e} in {len(curve.lrs)} steps of "
        f"{cli.datamodule.global_batch_size} examples from {first:.1e} to {last:.1e}; it was "
        f"lowest at {curve.lrs[curve.lowest]:.1e}",
        {"model": {"optimizer": {"lr": curve.suggestion}}},
    )


def _draw(curve: LrCurve, axis: Any) -> None:
    axis.plot(curve.lrs, curve.losses, color=COLOURS[0], lw=0.8, alpha=0.35, label="each step")
    axis.plot(curve.lrs, curve.smooth, color=COLOURS[0], lw=1.8, label="moving mean")
    for index, colour, label in (
        (curve.steepest, COLOURS[1], f"suggestion {curve.suggestion:.1e} (steepest fall)"),
        (curve.lowest, COLOURS[2], f"lowest loss at {curve.lrs[curve.lowest]:.1e}"),
    ):
        axis.plot(curve.lrs[index], curve.smooth[index], "o", color=colour, ms=8, label=label)
    axis.set_xscale("log")
    top = max(curve.smooth[: curve.lowest + 1])
    room = 0.3 * (top - curve.smooth[curve.lowest])
    axis.set_ylim(min(curve.losses) - 0.3 * room, max(curve.losses[0], top) + room)
    axis.set(xlabel="learning rate", ylabel="training loss (nats)")
