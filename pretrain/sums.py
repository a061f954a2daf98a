"""What is summed over a batch of pretraining, and the metrics that come of the sums."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ponet.heads import MaskedLoss
from pretrain.objectives import IGNORED_LABEL


class LossSums(NamedTuple):
    """Float32 sums over one batch; each mean is a sum divided by its count."""

    mlm_loss: Tensor
    mlm_correct: Tensor
    mlm_count: Tensor
    pair_loss: Tensor
    pair_correct: Tensor
    pair_count: Tensor
    tokens: Tensor
    positions: Tensor

    def stacked(self) -> Tensor:
        """The sums as one vector, float64 where the device has it: counts then add up exactly."""
        return torch.stack([value.detach() for value in self]).to(sum_dtype(self.tokens.device))


def sum_dtype(device: torch.device) -> torch.dtype:
    """Float64, or float32 on Apple's GPUs, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64


def loss_sums(output: MaskedLoss, batch: dict[str, Tensor]) -> LossSums:
    """Summed cross-entropies (nats), hits and counts of one batch.

    Pair logits are taken to float32 first, as the masked-LM logits are in `ponet.losses`.
    """
    mask = batch["mask"]
    zero = mask.new_zeros((), dtype=torch.float32)
    pair_loss = pair_correct = pair_count = zero
    if output.pair_logits is not None:
        pair_logits, pair_labels = output.pair_logits.float(), batch["pair_labels"]
        pair_loss = cross_entropy(
            pair_logits, pair_labels, ignore_index=IGNORED_LABEL, reduction="sum"
        )
        pair_correct = (pair_logits.argmax(-1) == pair_labels).sum().float()
        pair_count = (pair_labels != IGNORED_LABEL).sum().float()
    return LossSums(
        mlm_loss=output.mlm.loss.float(),
        mlm_correct=output.mlm.hits.float(),
        mlm_count=output.mlm.num_positions.float(),
        pair_loss=pair_loss,
        pair_correct=pair_correct,
        pair_count=pair_count,
        tokens=mask.sum().float(),
        positions=zero + mask.numel(),
    )


def means(sums: Tensor, pair_loss_weight: float = 1.0) -> dict[str, float]:
    """Metrics from stacked `LossSums`: losses in nats, accuracies and perplexity.

    Pair metrics are left out where the objective has no pair task.

    Args:
        sums: Stacked `LossSums`.
        pair_loss_weight: Of the pair loss in `loss`, which is what training makes small.
    """
    totals: Any = LossSums(*sums.tolist())
    mlm_loss = totals.mlm_loss / max(1.0, totals.mlm_count)
    metrics = {
        "loss": mlm_loss,
        "mlm_loss": mlm_loss,
        "mlm_accuracy": totals.mlm_correct / max(1.0, totals.mlm_count),
        "perplexity": float(torch.exp(torch.tensor(mlm_loss, dtype=torch.float64))),
    }
    if totals.pair_count:
        metrics["pair_loss"] = totals.pair_loss / totals.pair_count
        metrics["pair_accuracy"] = totals.pair_correct / totals.pair_count
        metrics["loss"] += pair_loss_weight * metrics["pair_loss"]
    return metrics
