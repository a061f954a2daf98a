"""Words and pairs of words beside an encoder: their options, and where they start."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from finetune.data.batches import TaskBatch
from finetune.tasks.spec import TaskSpec
from ponet.config import EncoderConfig
from ponet.encoders.pairs import WordPairs


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """A linear model over words and pairs of neighbours, added to the logits of a text."""

    rows: int = 0
    """Rows of its table, found by hashing; for classifiers of texts with one label, over an encoder
    of hashed words. 0: what the encoder's projection says, which is none if it says nothing."""
    start: Literal["counts", "zero"] = "counts"
    """Where it starts: counts: the log-odds of the labels by how many training texts have a word
    or pair; zero."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.rows < 0:
            raise ValueError(f"model.pairs.rows is {self.rows}; it must be 0 or more")

    def added_to(self, config: EncoderConfig, spec: TaskSpec) -> EncoderConfig:
        """Return an encoder's configuration with these rows.

        Raises:
            ValueError: Its words are not hashed, or the task has no use for them.
        """
        projection = config.projection
        if self.rows and projection is None:
            raise ValueError(
                f"model.pairs.rows is {self.rows}, but the encoder has no hashed words "
                "(projection) to make pairs of; leave it out"
            )
        if projection is not None and self.rows:
            projection = dataclasses.replace(projection, pair_rows=self.rows)
        if projection is not None and projection.pair_rows and spec.is_multilabel:
            raise ValueError(
                f"the encoder has pair_rows={projection.pair_rows}, and {spec.title} several "
                "labels a text, which share no scale; take pair_rows out of its projection"
            )
        return dataclasses.replace(config, projection=projection)


def start_from_counts(pairs: WordPairs, batches: Iterable[TaskBatch], *, num_labels: int) -> None:
    """Let every row start from how many of some texts of each label have it."""
    counts_CR = torch.zeros(num_labels, pairs.projection.pair_rows + 1)
    for batch in batches:
        rows_BP = pairs.rows(batch.inputs)
        places_BP = rows_BP + batch.targets_B[:, None] * counts_CR.shape[1]
        counts_CR.view(-1).index_add_(0, places_BP.flatten(), torch.ones(rows_BP.numel()))
    pairs.start_from(counts_CR[:, :-1].T)
