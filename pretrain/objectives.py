"""The pretraining objectives: one table entry each, read by the data and by the model.

Invariant: all objectives share one input format, [CLS] text1 [SEP] text2 [SEP] with masked tokens;
they differ only in how text1 and text2 are related, and in the label of that relation.
"""

from dataclasses import dataclass
from typing import Literal

ObjectiveName = Literal["mlm", "mlm_nsp", "mlm_sso"]
Relation = Literal["in_order", "swapped", "random"]
IGNORED_LABEL = -100
"""Label of a slot or example without a task; cross-entropy skips it."""
HAS_PADDING = "has_padding"
"""Name in a batch of whether its mask has padding, a bool that the data module adds."""
HIDDEN_SHARE = "hidden_share"
"""Name in a training batch of its share of the hidden tokens of an optimiser step, (1,) float32."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the pair head learns beside masked tokens."""

    name: str
    """Name used in configs."""
    relations: tuple[Relation, ...]
    """Relation of text1 and text2 by label, equally likely: `in_order` (text2 follows text1),
    `swapped` (text1 follows text2), `random` (text2 is from another document)."""

    @property
    def num_pair_classes(self) -> int:
        """Number of classes of the pair head; 0 without a pair task (texts are then in order)."""
        return len(self.relations)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(name="mlm", relations=()),
        # BERT (arXiv 1810.04805), next sentence prediction: IsNext, NotNext.
        Objective(name="mlm_nsp", relations=("in_order", "random")),
        # StructBERT (arXiv 1908.04577) and PoNet (arXiv 2110.02442), sentence structural objective.
        Objective(name="mlm_sso", relations=("in_order", "swapped", "random")),
    )
}


def objective_named(name: str) -> Objective:
    """Return the table entry of that name; an unknown one is a `ValueError`."""
    if name not in OBJECTIVES:
        raise ValueError(f"objective {name!r} is unknown; choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]
