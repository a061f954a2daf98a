"""AdamW as behind Table 1: one cycle of the learning rate, and of beta1 with it where published.

Invariant: both are functions of the step alone, so a run that goes on needs no state of them.
"""

from dataclasses import dataclass

from torch.optim import Optimizer

from training.optim import AdamWConfig
from training.run_config import check_numbers

START_FACTOR, END_FACTOR = 1 / 25, 1 / 25 / 1e4
LOW_BETA, HIGH_BETA = 0.85, 0.95


@dataclass(frozen=True, kw_only=True)
class OneCycle(AdamWConfig):
    """AdamW whose rate grows from a 25th and falls to 4e-6 of it, both linearly.

    Source: PyTorch's OneCycleLR(anneal_strategy="linear"), as Nystromformer's and PoNet's code of
    Long Range Arena call it.
    """

    eps: float = 1e-6
    """Added to the denominator, > 0."""
    warmup_share: float = -1.0
    """Share of the steps in which the rate grows, in (0, 1); below 0: the task's."""
    pretrain_lr: float = 1e-3
    """Peak rate of self-pretraining, > 0; it grows over a tenth of its steps and falls to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "> 0", "pretrain_lr")
        if self.warmup_share >= 1:
            raise ValueError(f"warmup_share is {self.warmup_share}; below 1 is needed")

    def schedule_factor(self, step: int, *, total_steps: int) -> float:
        """Return the factor; see `AdamWConfig`."""
        return _between(self._turns(step, total_steps), START_FACTOR, 1.0, END_FACTOR)

    def beta1_at(self, step: int, *, total_steps: int) -> float:
        """Return the decay of the first moment where it is cycled."""
        return _between(self._turns(step, total_steps), HIGH_BETA, LOW_BETA, HIGH_BETA)

    def _turns(self, step: int, total_steps: int) -> float:
        """How far the cycle is: 0 at its start, 1 at the peak, 2 at its end."""
        peak = max(self.warmup_share * total_steps - 1, 0.0)
        if step <= peak:
            return step / peak if peak else 1.0
        return 1 + min(1.0, (step - peak) / max(1.0, total_steps - 1 - peak))

    def pretrain_factor(self, step: int, *, total_steps: int) -> float:
        """Return the factor on `lr` at a step of self-pretraining."""
        warm = max(1.0, 0.1 * total_steps)
        shape = min((step + 1) / warm, (total_steps - step) / max(1.0, total_steps - warm), 1.0)
        return max(0.0, shape) * self.pretrain_lr / self.lr


def _between(turns: float, start: float, peak: float, end: float) -> float:
    first, second, share = (start, peak, turns) if turns <= 1 else (peak, end, turns - 1)
    return first + (second - first) * share


def set_beta1(optimizer: Optimizer, beta1: float) -> None:
    """Change the decay of the first moment."""
    for group in optimizer.param_groups:
        group["betas"] = (beta1, group["betas"][1])
