"""What an optimiser keeps of every weight, by the weight's name: moments, momentum, step counts.

Invariant: rates, decay and other settings never go over with it; they stay those of the optimiser
that it is given to.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from training.optim import PretrainOptimizer, Stepper, build_optimizer, stepper_of

States = dict[str, dict[str, Any]]
"""Name of a weight -> AdamW's `step`, `exp_avg` and `exp_avg_sq`, or Muon's `momentum_buffer`."""


class KeptOptimizer(NamedTuple):
    """What an optimiser remembers, without its settings."""

    states: States
    """Of every weight that it has stepped."""
    matrices: Stepper
    """What has stepped the hidden layers' matrices."""
    steps: int
    """Optimiser steps of the run it is from."""


def kept_optimizer(
    checkpoint: Mapping[str, Any], model: nn.Module, *, layers: nn.Module, where: object
) -> KeptOptimizer:
    """Return what the optimiser of a checkpoint remembers.

    Args:
        checkpoint: Its content, with the whole state of one optimiser.
        model: Its model.
        layers: Hidden layers of the model.
        where: What to call the checkpoint in an error.

    Raises:
        ValueError: There is no such state, or it is not that of these weights.
    """
    stored, steps = checkpoint.get("optimizer_states") or [], checkpoint.get("global_step")
    if not stored or not stored[0]["state"]:
        raise ValueError(
            f"{where} (step {steps}) has no state of an optimiser to keep; give a checkpoint of a "
            "later step, or leave model.keep_optimizer out"
        )
    matrices, state = stepper_of(stored), stored[0]["state"]
    optimizer = build_optimizer(model, PretrainOptimizer(matrices=matrices), layers=layers)
    groups = [[state.get(n, {}) for n in g["params"]] for g in stored[0]["param_groups"]]
    weights = [group["params"] for group in optimizer.param_groups]
    if [*map(len, groups)] != [*map(len, weights)] or any(
        name != "step" and value.shape != weight.shape
        for of_group, of_weights in zip(groups, weights, strict=True)
        for kept, weight in zip(of_group, of_weights, strict=True)
        for name, value in kept.items()
    ):
        raise ValueError(
            f"{where}: the state of the optimiser is not that of the weights, so another version "
            "wrote it; leave model.keep_optimizer out"
        )
    found = zip(names_in(optimizer, model), sum(groups, []), strict=True)
    return KeptOptimizer({name: kept for name, kept in found if kept}, matrices, int(steps or 0))


def names_in(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """Return the names of an optimiser's weights, in the order in which it numbers them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]


def content_with(states: States, optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return the content of an optimiser as it would save it, with given states and its settings.

    Args:
        states: Of the weights that have one; the others begin anew.
        optimizer: Fresh, over the weights of `model`.
        model: Names the weights.
    """
    numbered = enumerate(names_in(optimizer, model))
    kept = {number: states[name] for number, name in numbered if name in states}
    return {**optimizer.state_dict(), "state": kept}
