"""Optimiser and learning-rate schedule of fine-tuning.

Invariant: `learning_rate_factor` is a pure function of the optimiser step.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with bias correction. The defaults are the released PoNet GLUE script's."""

    lr: float = 5e-5
    """Peak learning rate, > 0. The released scripts search 3e-5 to 3e-4 (GLUE)."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, >= 0; biases and norms never decay. Released script: 0."""
    warmup_share: float = 0.0
    """Share of all optimiser steps that warm up from zero, in [0, 1). Released script: 0."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up: linear to zero at the end of the run, or constant."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator, > 0."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("lr", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be > 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be >= 0")
        for name in ("warmup_share", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")


def learning_rate_factor(step: int, *, config: OptimizerConfig, total_steps: int) -> float:
    """Return the factor on the peak learning rate at an optimiser step, in [0, 1].

    Args:
        step: Optimiser steps already taken.
        config: Schedule settings.
        total_steps: Optimiser steps of the whole run.

    Source: BERT fine-tuning: linear from zero, then linear to zero.
    """
    warmup_steps = round(config.warmup_share * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.schedule == "constant":
        return 1.0
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, mixed_precision: bool = False
) -> torch.optim.AdamW:
    """Return AdamW: matrices and embeddings with decay, vectors (biases, norms) without.

    Args:
        model: Its device types decide whether a fused kernel exists.
        config: Optimiser settings.
        mixed_precision: Lightning then clips no gradients of a fused kernel, which may unscale
            them by itself after the clipping, so it is not used.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    devices = {parameter.device.type for parameter in parameters}
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=devices <= {"cpu", "cuda"} and not mixed_precision,
    )
