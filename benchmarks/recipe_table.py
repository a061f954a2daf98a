"""The recipes of `benchmarks.recipes`: what each changes of its base.

Most are options of `pretrain fit`. What stands here alone was not worth one: masking rates that
fall over a run, batches that grow, another end of a schedule, a pair head that reads all tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest.mock import patch

from pretrain.objectives import OBJECTIVES, Objective
from training.optim import PretrainOptimizer

BASE = "base"
ReturnT = TypeVar("ReturnT")
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
    """Of the base's steps, before batches that grow."""
    masking: Sequence[float] = ()
    """Masking rates of equal parts of the run."""
    batches: Sequence[tuple[float, int]] = ()
    """Shares of the positions, each with the examples of a batch."""
    joins_first: bool = False
    """Put the first token into the segment behind it, where it has one of its own."""
    wide_init: bool = False
    """Weights begin at 1 / sqrt(width), where BERT's 0.02 is 0.55 / sqrt(768), its width."""
    pools_all: bool = False
    """Read pairs off all tokens by attention, and not off the first."""


def adamw(lr: float, **other: Any) -> Recipe:
    """Return AdamW without dropout, at a rate."""
    optimizer = {"lr": lr, **other.pop("optimizer", {})}
    encoder = {**NO_DROPOUT, **other.pop("encoder", {})}
    return Recipe(optimizer=optimizer, encoder=encoder, **other)


def muon(lr: float = 5e-3, **other: Any) -> Recipe:
    """Return Muon beside AdamW without dropout, at a rate."""
    return adamw(lr, optimizer={"matrices": "muon", **other.pop("optimizer", {})}, **other)


OF_16 = {"global_batch_size": 16, "micro_batch_size": 16}


def half_the_tokens(*, every: int = 1) -> Recipe:
    """Return Muon over half of the base's tokens, with twice as many hidden."""
    optimizer = {"muon_every_n_steps": every}
    data = {**OF_16, "masking": {"mask_prob": 0.3}}
    return muon(4e-3, share=1.0, data=data, optimizer=optimizer)


STABLE = {"schedule": "warmup_stable_decay", "decay_share": 0.3}
LOSS: dict[str, Recipe] = {
    BASE: Recipe(),
    "Muon": muon(),
    "Muon, 0.6 of the steps": muon(share=0.6),
    "Muon, batches of 16, 0.6 of the tokens": muon(4e-3, share=1.2, data=OF_16),
    "Muon, batches of 16, 30 % hidden, half the tokens": half_the_tokens(),
    "Muon every 2nd step, batches of 16, 30 % hidden, half the tokens": half_the_tokens(every=2),
    "Muon every 3rd step, batches of 16, 30 % hidden, half the tokens": half_the_tokens(every=3),
    "Muon every 4th step, batches of 16, 30 % hidden, half the tokens": half_the_tokens(every=4),
    "no dropout, batches of 16, 0.6 of the tokens": Recipe(
        encoder=NO_DROPOUT, share=1.2, data=OF_16
    ),
    "no dropout": Recipe(encoder=NO_DROPOUT),
    "Muon, 1-sqrt end": muon(optimizer=STABLE, schedule=OneMinusSqrt),
    "Muon, linear end": muon(optimizer=STABLE),
    "Muon, 30 to 15 % hidden": muon(masking=(0.3, 0.25, 0.2, 0.15)),
    "Muon, 30 % hidden": muon(data={"masking": {"mask_prob": 0.3}}),
    "Muon, growing batch": muon(batches=((0.1, 8), (0.15, 16), (0.75, 32))),
    "Muon, 2e-3": muon(2e-3),
    "Muon, 1e-2": muon(1e-2),
    "AdamW, 4e-3": adamw(4e-3),
    "Muon, wide init": muon(wide_init=True),
    "Muon, init of PyTorch": muon(encoder={"init": "torch", "init_range": 0.02}),
    "AdamW, wide init": adamw(2e-3, wide_init=True),
}
ADAMW, NARROW = {"matrices": "adamw"}, {"init_range": 0.02}
OF_PYTORCH = {"init": "torch", **NARROW}
ORDER = Objective(name="order", relations=("in_order", "swapped"))
WEIGHT_4 = {"pair_loss_weight": 4.0}
LEN_64 = {"max_len": 64, "global_batch_size": 64, "micro_batch_size": 64}
BY_TEXT = {"segments": {"rule": "text"}}
FOREIGN_ALONE = {"objective": "mlm_nsp"}
ORDER_ALONE = {"objective": ORDER.name}
PAIRS: dict[str, Recipe] = {
    BASE: Recipe(),
    "AdamW": adamw(2e-3, optimizer=ADAMW, encoder=NARROW),
    "AdamW, wide init": adamw(2e-3, optimizer=ADAMW),
    "AdamW, init of PyTorch": adamw(2e-3, optimizer=ADAMW, encoder=OF_PYTORCH),
    "narrow init": Recipe(encoder=NARROW),
    "init of PyTorch": Recipe(encoder=OF_PYTORCH),
    "rate 2e-3": muon(2e-3),
    "weight 4": Recipe(module=WEIGHT_4),
    "foreign pairs alone": Recipe(module=FOREIGN_ALONE),
    "order alone": Recipe(module=ORDER_ALONE),
    "BERT": Recipe(kind="bert"),
    "BERT, foreign pairs alone": Recipe(kind="bert", module=FOREIGN_ALONE),
    "BERT, order alone": Recipe(kind="bert", module=ORDER_ALONE),
    "all tokens read": Recipe(pools_all=True, data={"join_texts": False}),
    "segments of texts": Recipe(data=BY_TEXT),
    "first token in text 1": Recipe(data=BY_TEXT, joins_first=True),
    "64 tokens": Recipe(data=LEN_64),
    "four times as long": Recipe(share=4.0),
}
STUDIES = {"loss": LOSS, "pairs": PAIRS}


def with_own_objectives(function: Callable[..., ReturnT]) -> Callable[..., ReturnT]:
    """Let a function know the objectives that stand here alone, and nobody else."""
    decorated: Callable[..., ReturnT] = patch.dict(OBJECTIVES, {ORDER.name: ORDER})(function)
    return decorated
