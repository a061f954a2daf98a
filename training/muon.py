"""Muon for the matrices of hidden layers, AdamW for all else, as one optimiser.

Invariant: all state is in `state` and `param_groups`, as every optimiser has it; a step is a
function of those and of the gradients, the same on every rank that has the same gradients.

N matrices of one shape, A x B each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that pushes singular values towards 1, and of how often it is applied."""
ITERATIONS = 5
RMS_OF_ADAMW = 0.2
"""Root mean square of an entry of AdamW's update, which Muon's is scaled to."""
_SMALLEST_NORM = 1e-7


def hidden_matrices(layers: nn.Module) -> list[Tensor]:
    """Return the weights of the linear layers among some modules, those that are trained."""
    weights = [part.weight for part in layers.modules() if isinstance(part, nn.Linear)]
    return [weight for weight in weights if weight.requires_grad]


def orthogonal(update_NAB: Tensor) -> Tensor:
    """Return matrices with the singular vectors of the given ones, and singular values near 1.

    Args:
        update_NAB: Any float dtype. On a GPU the products are made in bfloat16.

    Source: Newton-Schulz iteration of K. Jordan's Muon, coefficients of `torch.optim.Muon`; here of
    all matrices of a shape at once, a fifth of the launches.
    """
    is_tall = update_NAB.shape[1] > update_NAB.shape[2]
    x_NAB = update_NAB.mT if is_tall else update_NAB
    x_NAB = x_NAB.bfloat16()
    x_NAB = x_NAB / torch.linalg.matrix_norm(x_NAB, keepdim=True).clamp(min=_SMALLEST_NORM)
    first, second, third = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram_NAA = x_NAB @ x_NAB.mT
        change_NAA = torch.baddbmm(gram_NAA, gram_NAA, gram_NAA, beta=second, alpha=third)
        x_NAB = torch.baddbmm(x_NAB, change_NAA, x_NAB, beta=first)
    return x_NAB.mT if is_tall else x_NAB


class MuonAdamW(Optimizer):
    """Groups with a `momentum` are stepped by Muon, the others by AdamW.

    Muon: Nesterov momentum, made orthogonal, scaled so that the learning rate and the decay of
    AdamW suit it too. Momentum takes in every gradient; the matrices move in every n-th step, by n
    times as much, since momentum hardly turns in between and to make it orthogonal is what costs.

    Args:
        groups: Parameter groups; those of Muon hold matrices alone, with `lr`, `weight_decay`,
            `momentum` and `every_n_steps`.
        adamw: AdamW of the other groups.

    Source: Muon (K. Jordan 2024); the scale of "Muon is Scalable for LLM Training" (arXiv
    2502.16982), `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], adamw: AdamW) -> None:
        super().__init__([*adamw.param_groups, *groups], {})
        self._adamw = adamw

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Shared anew each time: a restored state is in other objects.
        self._adamw.state = self.state
        self._adamw.param_groups = [g for g in self.param_groups if "momentum" not in g]
        self._adamw.step()
        for group in self.param_groups:
            if "momentum" in group:
                self._step_matrices(group)
        return loss

    @torch.no_grad()
    def _step_matrices(self, group: dict[str, Any]) -> None:
        every = group["every_n_steps"]
        alike: dict[tuple[torch.Size, bool], list[Tensor]] = {}
        for matrix in group["params"]:
            if matrix.grad is not None:
                is_due = self._counted(matrix) % every == 0
                alike.setdefault((matrix.shape, is_due), []).append(matrix)
        for (shape, is_due), matrices in alike.items():
            gradients = [m.grad for m in matrices if m.grad is not None]
            means = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
            if not is_due:
                continue
            ahead = torch._foreach_lerp(gradients, means, group["momentum"])  # Nesterov's
            update_NAB = orthogonal(torch.stack(list(ahead)))
            lr = group["lr"] * every
            torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
            rate = lr * RMS_OF_ADAMW * max(shape) ** 0.5
            torch._foreach_add_(matrices, list(update_NAB.to(matrices[0].dtype)), alpha=-rate)

    def _counted(self, matrix: Tensor) -> int:
        """Return the number of this step among those of a matrix, from 1."""
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        # Checkpoints of versions that moved matrices in every step have no count.
        count: int = state.get("step", 0) + 1
        state["step"] = count
        return count
