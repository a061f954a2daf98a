"""The schedule of a fit on a task: warm-up as a share of the run, then linear or constant."""

from dataclasses import dataclass
from typing import Literal

from training.optim import AdamWConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(AdamWConfig):
    """AdamW with bias correction. The defaults are the released PoNet GLUE script's."""

    lr: float = 5e-5
    """Peak learning rate, > 0. The released scripts search 3e-5 to 3e-4 (GLUE)."""
    warmup_share: float = 0.0
    """Share of all optimiser steps that warm up from zero, in [0, 1). Released script: 0."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up: linear to zero at the end of the run, or constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share must be in [0, 1), got {self.warmup_share}")

    def warmup(self, total_steps: int) -> int:
        """Return the share in steps."""
        return round(self.warmup_share * total_steps)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """Return the factor; source: BERT fine-tuning, linear to zero."""
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - self.warmup(total_steps)))
