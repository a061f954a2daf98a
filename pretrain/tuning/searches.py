"""What the finders try and how they choose, as options and pure functions.

Invariant: numpy only, and the same measurements always give the same choice.

T steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
_FEWEST_STEPS = 20
_SIZE_GROWTH = 1.4
_AS_FAST = 0.95
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
            raise ValueError(
                f"min_lr ({self.min_lr}) must be above 0 and below max_lr ({self.max_lr})"
            )
        if self.num_steps < _FEWEST_STEPS:
            raise ValueError(f"num_steps must be at least {_FEWEST_STEPS}, got {self.num_steps}")
        if self.stop_factor <= 1:
            raise ValueError(f"stop_factor must be above 1, got {self.stop_factor}")


@dataclass(frozen=True, kw_only=True)
class BatchSizeSearch:
    """The batch-size finder's own options."""

    output: Path = Path("tuned_micro_batch_size.yaml")
    """YAML file to write, a further --config of `fit`; the plot goes beside it as PNG."""
    max_batch_size: int = 0
    """Largest micro-batch to try, > 0; 0: the whole global batch of one device. A CPU has no
    out-of-memory error to stop at, so there it bounds the time of the search."""
    memory_share: float = 0.9
    """Share of the memory that a size may need, in (0, 1]: of the GPU's, or on a CPU of the
    machine's (or container's), where a size expected to need more is not tried."""
    steps_per_size: int = 4
    """Optimiser steps per size, at least 2; the first is not timed."""
    choose: Literal["fastest", "largest"] = "fastest"
    """Among the sizes that fit: the smallest within 5 % of the fastest, or the largest."""

    def __post_init__(self) -> None:
        if self.max_batch_size < 0:
            raise ValueError(f"max_batch_size must be 0 or more, got {self.max_batch_size}")
        if not 0 < self.memory_share <= 1:
            raise ValueError(f"memory_share must be in (0, 1], got {self.memory_share}")
        if self.steps_per_size < 2:
            raise ValueError(f"steps_per_size must be at least 2, got {self.steps_per_size}")


# --- learning rate --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """Loss against learning rate, and the points that matter."""

    lrs: FloatArray
    """Learning rate of each step, (T,), ascending."""
    losses: FloatArray
    """Training loss of each step in nats, (T,), finite."""
    smooth: FloatArray
    """`losses` as a moving mean, (T,)."""
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
    """Find the steepest fall of the loss.

    The slope is taken against the logarithm of the learning rate. Lightning's own `suggestion`
    takes it against the learning rate itself, which at the small end divides the noise by almost
    nothing, and smooths with a mean that lags behind; both can move its answer.

    Args:
        lrs: Learning rate of each step, ascending.
        losses: Training loss of each step; the curve ends before the first that is not finite.

    Raises:
        ValueError: There are too few steps, or no learning rate lowered the loss visibly.

    Source: the range test of L. Smith (arXiv 1506.01186), steepest-slope rule as in fastai.
    """
    values = np.asarray(losses, np.float64)
    good = np.flatnonzero(~np.isfinite(values))
    end = int(good[0]) if good.size else values.size
    values, rates = values[:end], np.asarray(lrs, np.float64)[:end]
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
    return LrCurve(lrs=rates, losses=values, smooth=smooth, steepest=steepest, lowest=lowest)


def moving_mean(values: FloatArray, reach: int) -> FloatArray:
    """Mean of each value (T,) with `reach` >= 0 neighbours on either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(values.size)
    near = np.minimum(reach, np.minimum(place, values.size - 1 - place))
    means: FloatArray = (sums[place + near + 1] - sums[place - near]) / (2 * near + 1)
    return means


# --- micro-batch size -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SizeTrial:
    """One micro-batch size, measured."""

    size: int
    """Examples per device and forward pass."""
    examples_per_s: float = 0.0
    """Examples per second and device at the real global batch, without loading; 0: not run."""
    memory: int = 0
    """Peak bytes: of the GPU, or of the process on a CPU."""
    problem: str = ""
    """Why it cannot be used: out of memory, or above the limit; empty: it can."""


def candidate_sizes(per_device: int, largest: int) -> list[int]:
    """Sizes to try, ascending: divisors, so that accumulation keeps the global batch.

    Each is at least 1.4 times the one before; the largest divisor allowed is always among them.

    Args:
        per_device: Examples per device and optimiser step, >= 1.
        largest: Upper bound, > 0; 0: `per_device`.
    """
    bound = min(per_device, largest or per_device)
    divisors = [size for size in range(1, bound + 1) if per_device % size == 0]
    sizes = [1]
    for size in divisors[1:]:
        if size >= _SIZE_GROWTH * sizes[-1] or size == divisors[-1]:
            sizes.append(size)
    return sizes


def expected_memory(points: Sequence[tuple[int, int]], size: int) -> float:
    """Bytes that a size will need, on the line through the last two (size, bytes) points."""
    (size_before, bytes_before), (last_size, last_bytes) = points[-2:]
    per_example = max(0.0, (last_bytes - bytes_before) / (last_size - size_before))
    return last_bytes + per_example * (size - last_size)


def chosen_size(trials: Sequence[SizeTrial], choose: Literal["fastest", "largest"]) -> SizeTrial:
    """Choose among the sizes that fit.

    Args:
        trials: In ascending order of size.
        choose: `fastest`: the smallest size within 5 % of the fastest; `largest`: the last.

    Raises:
        ValueError: None fits.
    """
    fitting = [trial for trial in trials if not trial.problem]
    if not fitting:
        raise ValueError(
            f"not even a micro-batch of {trials[0].size} fits ({trials[0].problem}): use a smaller "
            "encoder, a shorter data.max_len or trainer.precision bf16-mixed"
        )
    if choose == "largest":
        return fitting[-1]
    best = max(trial.examples_per_s for trial in fitting)
    return next(trial for trial in fitting if trial.examples_per_s >= _AS_FAST * best)
