"""Guards: no bad optimiser step, whose numbers are not finite or whose loss jumps, is ever saved.

Invariant: the verdict on a step depends on the losses up to that step only, never on when or how
often somebody looks, so a resumed run decides like one that was never stopped. The numbers stay on
the device until somebody looks, and all ranks see the same ones.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from training.callbacks.steps import ranks_agree
from training.interruption import EXIT_GUARD, RunInterrupted
from training.run_config import check_numbers

_LEAST_LOSSES = 10


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What ends or rolls back a run whose numbers go wrong, and one that hangs."""

    action: Literal["stop", "rollback", "off"] = "stop"
    """At a loss or gradient norm that is not finite, or a loss spike: stop the run, roll back to
    the newest checkpoint and skip the data that led there, or off (nothing is checked)."""
    every_n_steps: int = 10
    """Optimiser steps between two looks at the numbers, > 0. Each look waits for the device; there
    is one before every checkpoint besides."""
    spike_factor: float = 0.0
    """A loss above this factor times the running median is a spike, > 1; 0: no such check."""
    spike_window: int = 100
    """Optimiser steps of the running median, at least 10."""
    skip_steps: int = 10
    """Rollback: optimiser steps whose data is skipped, counted back from the bad one, > 0."""
    max_rollbacks: int = 3
    """Rollback: how often in one run before it stops after all."""
    watchdog_minutes: float = 30.0
    """Minutes without any progress after which the process shows its stacks and ends; 0: off."""

    def __post_init__(self) -> None:
        check_numbers(self, "> 0", "every_n_steps", "skip_steps", group="guards.")
        check_numbers(self, ">= 0", "max_rollbacks", "watchdog_minutes", group="guards.")
        if self.spike_factor != 0 and not 1 < self.spike_factor < math.inf:
            raise ValueError(
                f"guards.spike_factor is {self.spike_factor}: give a factor above 1, such as 2.0, "
                "or 0 for no check"
            )
        if self.spike_window < _LEAST_LOSSES:
            raise ValueError(
                f"guards.spike_window is {self.spike_window}: give at least {_LEAST_LOSSES} steps"
            )


class BadStep(NamedTuple):
    """One optimiser step that must not become part of a checkpoint."""

    step: int
    """Its number as in `metrics.jsonl`: the first step of a run is 1."""
    kind: Literal["loss", "grad_norm", "spike", "weights"]
    """What was wrong: loss, gradient norm or weights are not finite, or the loss jumped."""
    value: float
    """The loss (nats, mean of the step over all ranks) or the gradient norm before clipping; of
    weights, how many tensors hold a NaN or an infinity on this rank."""
    limit: float | None = None
    """What a spike exceeded; None where the value is not finite."""

    def __str__(self) -> str:
        """What happened, as part of a sentence."""
        if self.kind == "weights":
            return f"weights are not finite after step {self.step}"
        name = "the gradient norm" if self.kind == "grad_norm" else "the loss"
        if self.limit is None:
            return f"{name} of step {self.step} is {self.value}"
        return f"{name} of step {self.step} is {self.value:.4g}, above the limit {self.limit:.4g}"


class SpikeDetector:
    """A running median of the last losses, and whether a new one is far above it.

    Args:
        factor: A loss above factor x median is a spike; 0: never.
        window: Losses in the median. A spike is not among them, nor judged before a quarter of
            them (and 10) is known.
    """

    def __init__(self, factor: float, window: int) -> None:
        self._factor = factor
        self._least = max(_LEAST_LOSSES, math.ceil(window / 4))
        self.losses: deque[float] = deque(maxlen=window)
        """The newest ones, oldest first."""

    def exceeded_limit(self, loss: float) -> float | None:
        """The limit that a finite loss exceeds, or None; then the loss joins the window."""
        if not self._factor:
            return None
        if len(self.losses) >= self._least:
            limit = self._factor * statistics.median(self.losses)
            if loss > limit:
                return limit
        self.losses.append(loss)
        return None


def first_bad_step(
    rows: Sequence[tuple[int, float, float | None]],
    detector: SpikeDetector,
    *,
    scaled_gradients: bool,
) -> BadStep | None:
    """The first bad one of some consecutive steps, or None; the detector has then seen them all.

    Args:
        rows: Number, loss and gradient norm (None: not measured) of each step.
        detector: Of the losses before.
        scaled_gradients: A gradient scaler is at work (float16): it skips steps whose gradients are
            not finite, so those are no fault.
    """
    for step, loss, grad_norm in rows:
        if not math.isfinite(loss):
            return BadStep(step, "loss", loss)
        if grad_norm is not None and not scaled_gradients and not math.isfinite(grad_norm):
            return BadStep(step, "grad_norm", grad_norm)
        limit = detector.exceeded_limit(loss)
        if limit is not None:
            return BadStep(step, "spike", loss, limit)
    return None


def nonfinite_names(state_dict: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity, in order.

    Of a tensor that is spread over ranks (DTensor) only this rank's part is looked at, without any
    communication: the ranks must still agree on what they found.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        local = value.to_local() if hasattr(value, "to_local") else value
        if isinstance(local, Tensor) and local.is_floating_point():
            tensors[name] = local.detach().float() if local.element_size() == 1 else local.detach()
    # Fast, and never finite where a number is not; of large numbers perhaps not finite either.
    sums = {name: tensor.sum() for name, tensor in tensors.items()}
    suspects = [name for name, total in sums.items() if not total.isfinite()]
    return [name for name in suspects if not tensors[name].isfinite().all()]


def window_of(step: int, skipped: Sequence[int]) -> int:
    """Return the window of G samples that optimiser step `step` (from 0) reads.

    Args:
        step: Optimiser steps done before.
        skipped: Windows that are left out, ascending.
    """
    window = step
    for left_out in skipped:
        window += left_out <= window
    return window


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
        loss_of: The mean loss of a step, of its sums over micro-batches and ranks.
    """

    def __init__(self, config: GuardConfig, loss_of: Callable[[Tensor], float]) -> None:
        self.config = config
        self._loss_of = loss_of
        self._detector = SpikeDetector(config.spike_factor, config.spike_window)
        self._last_step = 0
        self._open: list[Tensor] = []
        self._steps: list[tuple[int, Tensor, Tensor | None]] = []

    def state_dict(self) -> dict[str, Any]:
        """The losses of the running median; a look comes before every save."""
        return {"losses": list(self._detector.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved run's losses."""
        self._detector.losses.extend(state_dict["losses"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin after the steps already done."""
        self._last_step = trainer.global_step
        self._open, self._steps = [], []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
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
        self._steps.append((step, sums, pl_module.grad_norm))  # type: ignore[arg-type]
        self._open = []
        if step % self.config.every_n_steps == 0:
            self.check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last steps, and at the weights that are kept of them."""
        self.check_before_save(trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the steps since the last look; every rank must call it at the same step.

        Raises:
            BadState: On all ranks alike, if a step was bad.
        """
        if not self._steps:
            return
        rows = self._reduced(trainer)
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
            self._raise(trainer, BadStep(step, "weights", float(len(names))))

    def _raise(self, trainer: Trainer, bad: BadStep) -> NoReturn:
        sample_range = getattr(getattr(trainer, "datamodule", None), "sample_range", None)
        samples = sample_range(bad.step - 1) if sample_range else None
        raise BadState(bad, samples, skip_steps=self.config.skip_steps)

    def _reduced(self, trainer: Trainer) -> list[tuple[int, float, float | None]]:
        """Number, loss and gradient norm of the steps kept: means over micro-batches and ranks."""
        zero = self._steps[0][1].new_zeros(())
        norms = [zero if norm is None else norm.detach().to(zero) for *_, norm in self._steps]
        sums = torch.stack([sums for _, sums, _ in self._steps])
        together = torch.cat([sums, torch.stack(norms)[:, None]], dim=1)
        reduced: Any = trainer.strategy.reduce(together, reduce_op="sum")
        ranks = trainer.world_size
        return [
            (step, self._loss_of(row[:-1]), None if norm is None else float(row[-1]) / ranks)
            for (step, _, norm), row in zip(self._steps, reduced.cpu(), strict=True)
        ]
