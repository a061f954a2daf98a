"""AdamW for every run, with Muon beside it if asked for, and a schedule that follows the step.

Invariant: `schedule_factor` is a pure function of the step, so a resumed run needs no state:
`apply_settings` gives a restored optimiser the settings of the command line.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.muon import MuonAdamW, hidden_matrices
from training.run_config import check_numbers

Stepper = Literal["adamw", "muon"]
MOMENTUM = 0.95
"""Of Muon, as published."""
MUON_GROUP = 2
"""Number of its parameter group."""


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW with bias correction; its subclasses add a schedule."""

    lr: float = 1e-4
    """Peak learning rate, > 0."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the denominator, > 0."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices, >= 0; biases and norms never decay. Released scripts: 0;
    BERT: 0.01."""

    @property
    def uses_muon(self) -> bool:
        """Whether Muon steps the matrices of hidden layers."""
        return False

    def __post_init__(self) -> None:
        check_numbers(self, "> 0", "lr", "eps")
        check_numbers(self, ">= 0", "weight_decay")
        check_numbers(self, "in [0, 1)", "beta1", "beta2")

    def schedule_factor(self, step: int, *, total_steps: int) -> float:
        """Factor on the peak learning rate at optimiser step `step`, in [0, 1].

        Args:
            step: Optimiser steps already taken.
            total_steps: Optimiser steps of the whole run; the last one is `total_steps - 1`.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PretrainOptimizer(AdamWConfig):
    """AdamW and its schedule. The defaults are the released PoNet pretraining script's."""

    lr: float = 1e-4
    """Peak learning rate, > 0. The released PoNet script uses 1e-4."""
    matrices: Stepper = "adamw"
    """What steps the weights of the hidden layers' linear layers: adamw, as everything else; or
    muon, whose steps are scaled to the size of AdamW's, so that one rate serves both. Not under
    ZeRO and FSDP."""
    muon_every_n_steps: int = 1
    """Muon moves its matrices in every n-th step, by n times the rate, >= 1; its momentum takes in
    every gradient. Most of what Muon costs is paid in these steps, which counts where a step has
    few tokens for its weights."""
    schedule: Literal["linear", "cosine", "warmup_stable_decay", "constant"] = "linear"
    """Shape after the warm-up: linear or cosine towards `final_lr_ratio`; constant; or
    warmup_stable_decay (constant, then linear over the last `decay_share` of the run)."""
    warmup_steps: int = 5000
    """Optimiser steps of linear warm-up from zero, >= 0. Released script: 5000."""
    final_lr_ratio: float = 0.0
    """Where the decay ends, as a share of the peak, in [0, 1]: the learning rate of the step that
    would follow the last one, which itself is just above it."""
    decay_share: float = 0.1
    """Share of all steps that decay, in (0, 1]; read by warmup_stable_decay only."""

    @property
    def uses_muon(self) -> bool:
        """Whether Muon steps the matrices of hidden layers."""
        return self.matrices == "muon"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ">= 1", "muon_every_n_steps")
        if self.muon_every_n_steps > 1 and not self.uses_muon:
            raise ValueError(
                f"muon_every_n_steps={self.muon_every_n_steps} given, but matrices is "
                f"{self.matrices}, which steps them all; give matrices muon, or leave it out"
            )
        check_numbers(self, ">= 0", "warmup_steps")
        check_numbers(self, "in [0, 1]", "final_lr_ratio")
        check_numbers(self, "in (0, 1]", "decay_share")

    def schedule_factor(self, step: int, *, total_steps: int) -> float:
        """Return the factor; see `AdamWConfig`.

        Source: BERT's linear decay; "warmup_stable_decay" as in MiniCPM (arXiv 2404.06395).
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
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


@dataclass(frozen=True, kw_only=True)
class FinetuneOptimizer(AdamWConfig):
    """AdamW with bias correction. The defaults are the released PoNet GLUE script's."""

    lr: float = 5e-5
    """Peak learning rate, > 0. The released scripts search 3e-5 to 3e-4 (GLUE)."""
    warmup_share: float = 0.0
    """Share of all optimiser steps that warm up from zero, in [0, 1). Released script: 0."""
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up: linear to zero at the end of the run, or constant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "in [0, 1)", "warmup_share")

    def schedule_factor(self, step: int, *, total_steps: int) -> float:
        """Return the factor; see `AdamWConfig`. Source: BERT fine-tuning, linear to zero."""
        warmup_steps = round(self.warmup_share * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if self.schedule == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def build_optimizer(
    model: nn.Module, config: AdamWConfig, *, fusable: bool = True, layers: nn.Module | None = None
) -> Optimizer:
    """AdamW over two groups: matrices (and embeddings) with decay, vectors (biases, norms) without.

    Args:
        model: Its device types decide whether a fused kernel exists.
        config: Optimiser settings.
        fusable: False where gradients arrive scaled: a fused kernel would unscale them by itself,
            after clipping.
        layers: Hidden layers of the model: where the settings ask for Muon, the weights of their
            linear layers are a third group, which it steps.

    Raises:
        ValueError: If there is nothing for Muon to step.
    """
    hidden = hidden_matrices(layers) if layers is not None and config.uses_muon else []
    if layers is not None and config.uses_muon and not hidden:
        raise ValueError(
            "optimizer.matrices is muon, but the hidden layers have no linear layer to train; give "
            "--model.optimizer.matrices adamw"
        )
    of_muon = {id(matrix) for matrix in hidden}
    trainable = [p for p in model.parameters() if p.requires_grad and id(p) not in of_muon]
    parts = [p for p in trainable if p.ndim >= 2], [p for p in trainable if p.ndim < 2]
    adamw = AdamW(
        [{"params": part, **group_settings(config, n)} for n, part in enumerate(parts)],
        fused=fusable and {p.device.type for p in model.parameters()} <= {"cpu", "cuda"},
    )
    if not hidden:
        return adamw
    return MuonAdamW([{"params": hidden, **group_settings(config, MUON_GROUP)}], adamw)


def group_settings(config: AdamWConfig, number: int) -> dict[str, Any]:
    """Return the settings of a parameter group, its peak rate among them.

    Args:
        config: Settings of all.
        number: 0: AdamW's that decays; 1: AdamW's that does not; 2: Muon's.
    """
    if number == MUON_GROUP:
        assert isinstance(config, PretrainOptimizer)
        return {
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "momentum": MOMENTUM,
            "every_n_steps": config.muon_every_n_steps,
        }
    decay = config.weight_decay if number == 0 else 0.0
    betas = (config.beta1, config.beta2)
    return {"lr": config.lr, "weight_decay": decay, "betas": betas, "eps": config.eps}


def scheduled_optimizer(
    model: nn.Module,
    config: AdamWConfig,
    *,
    total_steps: int,
    fusable: bool,
    layers: nn.Module | None = None,
) -> OptimizerLRSchedulerConfig:
    """Return what Lightning takes: the optimiser, and its schedule by optimiser steps.

    Args:
        model: See `build_optimizer`.
        config: Its settings and its schedule's.
        total_steps: Optimiser steps of the whole run.
        fusable: See `build_optimizer`.
        layers: See `build_optimizer`.
    """
    optimizer = build_optimizer(model, config, fusable=fusable, layers=layers)
    scheduler = LambdaLR(
        optimizer, lambda step: config.schedule_factor(step, total_steps=total_steps)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def stepper_of(states: list[dict[str, Any]]) -> Stepper:
    """Return what has stepped the hidden matrices, by the optimisers' states of a checkpoint."""
    return "muon" if any(len(state["param_groups"]) > MUON_GROUP for state in states) else "adamw"


def apply_settings(optimizer: Optimizer, scheduler: LambdaLR, config: AdamWConfig) -> None:
    """Overwrite the settings that came with an optimiser's restored state by those of a config.

    A restored optimiser carries the learning rate, betas and decay it was saved with; the command
    line decides. With unchanged settings nothing changes, to the bit.

    Args:
        optimizer: Made by `build_optimizer`.
        scheduler: Its schedule, at the restored step.
        config: The settings to use from now on.
    """
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    for number, (group, factor) in enumerate(zip(optimizer.param_groups, factors, strict=True)):
        group.update(group_settings(config, number))
        group["initial_lr"] = group["lr"]
        group["lr"] *= factor
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
