"""What counts as a bad optimiser step: a number that is not finite, or a loss that jumps.

Invariant: the verdict on a step depends on the losses up to that step only, never on when or how
often somebody looks, so a resumed run decides like one that was never stopped.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

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
        if self.every_n_steps < 1 or self.skip_steps < 1 or self.max_rollbacks < 0:
            raise ValueError(
                f"guards.every_n_steps ({self.every_n_steps}) and skip_steps ({self.skip_steps}) "
                f"must be > 0, max_rollbacks ({self.max_rollbacks}) 0 or more"
            )
        if self.spike_factor != 0 and not 1 < self.spike_factor < math.inf:
            raise ValueError(
                f"guards.spike_factor is {self.spike_factor}: give a factor above 1, such as 2.0, "
                "or 0 for no check"
            )
        if self.spike_window < _LEAST_LOSSES:
            raise ValueError(
                f"guards.spike_window is {self.spike_window}: give at least {_LEAST_LOSSES} steps"
            )
        if not 0 <= self.watchdog_minutes < math.inf:
            raise ValueError(
                f"guards.watchdog_minutes is {self.watchdog_minutes}: give minutes, or 0 for off"
            )


@dataclass(frozen=True)
class BadStep:
    """One optimiser step that must not become part of a checkpoint."""

    step: int
    """Its number as in `metrics.jsonl`: the first step of a run is 1."""
    kind: Literal["loss", "grad_norm", "spike", "weights"]
    """What was wrong: loss, gradient norm or weights are not finite, or the loss jumped."""
    value: float
    """The loss (nats, mean of the step over all ranks) or the gradient norm before clipping; of
    weights, how many tensors hold a NaN or an infinity on this rank."""
    limit: float | None
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
        self._losses: deque[float] = deque(maxlen=window)

    def exceeded_limit(self, loss: float) -> float | None:
        """The limit that a finite loss exceeds, or None; then the loss joins the window."""
        if not self._factor:
            return None
        if len(self._losses) >= self._least:
            limit = self._factor * statistics.median(self._losses)
            if loss > limit:
                return limit
        self._losses.append(loss)
        return None

    def state_dict(self) -> dict[str, Any]:
        """The window as a list of numbers, oldest first."""
        return {"losses": list(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved window; of a longer one the newest losses."""
        self._losses.clear()
        self._losses.extend(state["losses"])


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
            return BadStep(step, "loss", loss, None)
        if grad_norm is not None and not scaled_gradients and not math.isfinite(grad_norm):
            return BadStep(step, "grad_norm", grad_norm, None)
        limit = detector.exceeded_limit(loss)
        if limit is not None:
            return BadStep(step, "spike", loss, limit)
    return None


def nonfinite_names(state_dict: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity, in order; waits for the device once.

    Of a tensor that is spread over ranks (DTensor) only this rank's part is looked at, without any
    communication: the ranks must still agree on what they found.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, value in state_dict.items():
        local = value.to_local() if hasattr(value, "to_local") else value
        if isinstance(local, Tensor) and local.is_floating_point() and local.numel():
            plain = local.detach().float() if local.element_size() == 1 else local.detach()
            by_device.setdefault(local.device, []).append((name, plain))
    suspects: dict[str, Tensor] = {}
    for named in by_device.values():
        norms = torch._foreach_norm([tensor for _, tensor in named])
        finite = torch.stack([norm.double() for norm in norms]).isfinite().tolist()
        suspects |= {name: x for (name, x), good in zip(named, finite, strict=True) if not good}
    # The norm of large but finite numbers may overflow; only those tensors are looked at twice.
    bad = {name for name, tensor in suspects.items() if not tensor.isfinite().all()}
    return [name for name in state_dict if name in bad]


def window_of(step: int, skipped: Sequence[int]) -> int:
    """Return the window of G samples that optimiser step `step` (from 0) reads.

    Args:
        step: Optimiser steps done before.
        skipped: Windows that are left out, ascending.
    """
    window = step
    for left_out in skipped:
        if left_out > window:
            break
        window += 1
    return window
