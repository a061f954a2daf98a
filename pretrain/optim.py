"""The schedule of a pretraining run: warm-up in steps, then one of four shapes."""

import math
from dataclasses import dataclass
from typing import Literal

from training.optim import AdamWConfig

ScheduleName = Literal["linear", "cosine", "warmup_stable_decay", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(AdamWConfig):
    """AdamW and its schedule. The defaults are the released PoNet pretraining script's."""

    lr: float = 1e-4
    """Peak learning rate, > 0. The released PoNet script uses 1e-4."""
    schedule: ScheduleName = "linear"
    """Shape after the warm-up: linear or cosine to `final_lr_ratio` at the last step; constant;
    or warmup_stable_decay (constant, then linear over the last `decay_share` of the run)."""
    warmup_steps: int = 5000
    """Optimiser steps of linear warm-up from zero, >= 0. Released script: 5000."""
    final_lr_ratio: float = 0.0
    """Learning rate of the last step as a share of the peak, in [0, 1]."""
    decay_share: float = 0.1
    """Share of all steps that decay, in (0, 1]; read by warmup_stable_decay only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps}")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"final_lr_ratio must be in [0, 1], got {self.final_lr_ratio}")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share must be in (0, 1], got {self.decay_share}")

    def warmup(self, total_steps: int) -> int:
        """Return `warmup_steps`, however long the run is."""
        return self.warmup_steps

    def after_warmup(self, step: int, total_steps: int) -> float:
        """Return the factor of the decay.

        Source: BERT's linear decay; "warmup_stable_decay" as in MiniCPM (arXiv 2404.06395).
        """
        if self.schedule == "constant":
            return 1.0
        decay_from = self.warmup_steps
        if self.schedule == "warmup_stable_decay":
            decay_from = max(decay_from, total_steps - math.ceil(self.decay_share * total_steps))
        progress = (step - decay_from) / max(1, total_steps - decay_from)
        progress = min(1.0, max(0.0, progress))
        floor = self.final_lr_ratio
        if self.schedule == "cosine":
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        return floor + (1 - floor) * (1 - progress)
