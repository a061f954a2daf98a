"""The recipes of `benchmarks.recipes`: what each changes of its base.

Most are options of `pretrain fit`. What stands here alone was not worth one: masking rates that
fall over a run, batches that grow, another end of a schedule, a pair head that reads all tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretrain.objectives import OBJECTIVES, Objective
from training.optim import PretrainOptimizer

BASE = "base"
NO_DROPOUT = {"dropout_prob": 0.0}


@dataclass(frozen=True, kw_only=True)
class OneMinusSqrt(PretrainOptimizer):
    """Falls as 1 - sqrt(progress) where its parent falls linearly. Source: arXiv 2405.18392."""

    def schedule_factor(self, step: int, *, total_steps: int) -> float:
        """Return the factor; see `AdamWConfig`."""
        linear = super().schedule_factor(step, total_steps=total_steps)
        return linear if step < self.warmup_steps else 1 - (1 - linear) ** 0.5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What differs from the base."""

    optimizer: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    module: Mapping[str, Any] = field(default_factory=dict)
    schedule: type[PretrainOptimizer] = PretrainOptimizer
    kind: str = "ponet"
    share: float = 1.0
    """Of the base's positions."""
    masking: Sequence[float] = ()
    """Masking rates of equal parts of the run."""
    batches: Sequence[tuple[float, int]] = ()
    """Shares of the positions, each with the examples of a batch."""
    joins_first: bool = False
    """Put the first token into the segment behind it, where it has one of its own."""
    pools_all: bool = False
    """Read pairs off all tokens by attention, and not off the first."""


def adamw(lr: float, **other: Any) -> Recipe:
    """Return AdamW without dropout, at a rate."""
    optimizer = {"lr": lr, **other.pop("optimizer", {})}
    encoder = {**NO_DROPOUT, **other.pop("encoder", {})}
    return Recipe(optimizer=optimizer, encoder=encoder, **other)


def muon(lr: float = 2e-3, ratio: float = 2.0, **other: Any) -> Recipe:
    """Return Muon beside AdamW without dropout, at a rate and a multiple of it."""
    form = {"matrices": "muon", "muon_lr_ratio": ratio, **other.pop("optimizer", {})}
    return adamw(lr, optimizer=form, **other)


STABLE = {"schedule": "warmup_stable_decay", "decay_share": 0.3}
LOSS: dict[str, Recipe] = {
    BASE: Recipe(),
    "Muon": muon(),
    "Muon, 0.45 of the steps": muon(share=0.45),
    "AdamW, 2e-3": adamw(2e-3),
    "no dropout": Recipe(encoder=NO_DROPOUT),
    "Muon, wide init": muon(encoder={"init_range": 0.06}),
    "Muon, four times the rate": muon(ratio=4.0),
    "Muon, rate 4e-3": muon(4e-3, ratio=1.0),
    "Muon, 30 to 15 % hidden": muon(masking=(0.3, 0.25, 0.2, 0.15)),
    "Muon, 30 % hidden": muon(data={"masking": {"mask_prob": 0.3}}),
    "Muon, 1-sqrt end": muon(optimizer=STABLE, schedule=OneMinusSqrt),
    "Muon, linear end": muon(optimizer=STABLE),
    "Muon, growing batch": muon(batches=((0.1, 8), (0.15, 16), (0.75, 32))),
    "Muon, 0.6 of the steps": muon(share=0.6),
}
ORDER = Objective(name="order", relations=("in_order", "swapped"))
WEIGHT_4 = {"pair_loss_weight": 4.0}
WIDE = {"init_range": 0.09}
"""About 1 / sqrt(width) of a nano encoder; BERT's 0.02 is 0.55 / sqrt(768), its width."""
LEN_64 = {"max_len": 64, "global_batch_size": 64, "micro_batch_size": 64}
BY_TEXT = {"segments": {"rule": "text"}}
PAIRS: dict[str, Recipe] = {
    BASE: Recipe(),
    "rate 6e-4": adamw(6e-4),
    "wide init": adamw(2e-3, encoder=WIDE),
    "wide init, rate 6e-4": adamw(6e-4, encoder=WIDE),
    "Muon": muon(),
    "Muon, wide init": muon(encoder=WIDE),
    "BERT": Recipe(kind="bert"),
    "BERT, Muon, wide init": muon(encoder=WIDE, kind="bert"),
    "Muon, wide init, weight 4": muon(encoder=WIDE, module=WEIGHT_4),
    "Muon, wide init, foreign pairs alone": muon(encoder=WIDE, module={"objective": "mlm_nsp"}),
    "BERT, Muon, wide init, foreign pairs alone": muon(
        encoder=WIDE, kind="bert", module={"objective": "mlm_nsp"}
    ),
    "Muon, wide init, order alone": muon(encoder=WIDE, module={"objective": "order"}),
    "BERT, Muon, wide init, order alone": muon(
        encoder=WIDE, kind="bert", module={"objective": "order"}
    ),
    "Muon, wide init, all tokens read": muon(
        encoder=WIDE, pools_all=True, data={"join_texts": False}
    ),
    "Muon, wide init, segments of texts": muon(encoder=WIDE, data=BY_TEXT),
    "Muon, wide init, first token in text 1": muon(encoder=WIDE, data=BY_TEXT, joins_first=True),
    "Muon, wide init, 64 tokens": muon(encoder=WIDE, data=LEN_64),
    "Muon, wide init, four times as long": muon(encoder=WIDE, share=4.0),
    "four times as long": Recipe(share=4.0),
}
STUDIES = {"loss": LOSS, "pairs": PAIRS}
OBJECTIVES[ORDER.name] = ORDER
