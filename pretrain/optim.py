"""Optimiser and learning-rate schedule: AdamW without decay on biases and norms, warm-up, decay.

Invariant: `learning_rate_factor` is a pure function of the step, so a resumed run needs no state:
`apply_settings` gives a restored optimiser the settings of the command line.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

ScheduleName = Literal["linear", "cosine", "warmup_stable_decay", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its schedule. The defaults are the released PoNet pretraining script's."""

    lr: float = 1e-4
    """Peak learning rate, > 0. The released PoNet script uses 1e-4."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator, > 0."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, >= 0; biases and norms never decay. Released script: 0;
    BERT: 0.01."""
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
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 <= self.final_lr_ratio <= 1:
            raise ValueError(f"final_lr_ratio must be in [0, 1], got {self.final_lr_ratio}")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share must be in (0, 1], got {self.decay_share}")


def learning_rate_factor(step: int, *, config: OptimizerConfig, total_steps: int) -> float:
    """Factor on the peak learning rate at optimiser step `step` (0-based), in [0, 1].

    Args:
        step: Optimiser steps already taken.
        config: Schedule settings.
        total_steps: Optimiser steps of the whole run; the last one is `total_steps - 1`.

    Source: BERT's warm-up and linear decay; "warmup_stable_decay" as in MiniCPM (arXiv 2404.06395).
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    floor = config.final_lr_ratio
    if config.schedule == "constant":
        return 1.0
    decay_from = config.warmup_steps
    if config.schedule == "warmup_stable_decay":
        decay_from = max(decay_from, total_steps - math.ceil(config.decay_share * total_steps))
    progress = (step - decay_from) / max(1, total_steps - decay_from)
    progress = min(1.0, max(0.0, progress))
    if config.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return floor + (1 - floor) * (1 - progress)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices (and embeddings) with decay, vectors (biases, norms) without."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, scaled_gradients: bool = False
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused into one kernel where that is possible.

    Args:
        model: Its device types decide whether a fused kernel exists.
        config: Optimiser settings.
        scaled_gradients: Gradients arrive scaled (float16). A fused kernel would unscale them by
            itself, after clipping, so it is not used.
    """
    devices = {parameter.device.type for parameter in model.parameters()}
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=devices <= {"cpu", "cuda"} and not scaled_gradients,
    )


def apply_settings(
    optimizer: torch.optim.Optimizer, scheduler: LambdaLR, config: OptimizerConfig
) -> None:
    """Overwrite the settings that came with an optimiser's restored state by those of a config.

    A restored optimiser carries the learning rate, betas and decay it was saved with; the command
    line decides. With unchanged settings nothing changes, to the bit.

    Args:
        optimizer: Made by `build_optimizer`: the first group decays, the second does not.
        scheduler: Its schedule, at the restored step.
        config: The settings to use from now on.
    """
    scheduler.base_lrs = [config.lr for _ in optimizer.param_groups]
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    for number, (group, factor) in enumerate(zip(optimizer.param_groups, factors, strict=True)):
        group["lr"], group["initial_lr"] = config.lr * factor, config.lr
        group["betas"], group["eps"] = (config.beta1, config.beta2), config.eps
        group["weight_decay"] = 0.0 if number else config.weight_decay
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
