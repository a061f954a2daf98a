"""A linear model over words and pairs of neighbouring words, beside an encoder of hashed words.

B texts, L words, P = 2 L - 1 words and pairs of a text, R rows, C labels, W distinct words,
N features of a word.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config_fields import ProjectionConfig

_PRIME = 2**31 - 1
_FACTORS = (741103597, 1040795603, 523592119)
"""Below 2^30, so that no product of two numbers passes 63 bits."""
_SPREAD = 10.0
"""A row is stepped by this times the learning rate, which then suits the encoder beside it: AdamW
moves a weight by its rate at most, and a row has to go up to 1."""


class WordPairs(nn.Module):
    """Logits by what words and pairs a text has, each a row of a table that is found by hashing.

    What stands in a text twice counts once, and the sum is divided by the root of how many there
    are. The first label has no weights: its logit is 0. One output (a score) has weights of its
    own.

    While it is trained, a row is its weight times a fixed scale. From counts the scale has the log-
    odds of the row in it: what says much about the labels learns fast, what says little hardly.
    `as_one_table` joins the two for files, so a trained table has no more numbers than rows.

    Args:
        projection: `pair_rows` is R, 1 or more; its features tell words apart.
        num_labels: C.

    Source:
        Hashed pairs of words as in fastText (arXiv 1607.01759), beside a network as in Wide & Deep
        (arXiv 1606.07792).
    """

    def __init__(self, projection: ProjectionConfig, num_labels: int) -> None:
        super().__init__()
        self.projection = projection
        self.weight = nn.Parameter(torch.zeros(projection.pair_rows, max(num_labels - 1, 1)))
        self.num_labels = num_labels
        self.register_buffer("scale_RC", None)
        self.scale_RC: Tensor | None
        """What the weights are multiplied by; None: nothing, and no part of the state."""

    def rows(self, batch: EncoderBatch) -> Tensor:
        """Return the rows of every text's words and pairs, int64 (B, P); R: nothing, or a repeat.

        Words are told apart by their features, but for the shape of a spelling: capitals make no
        other word.

        Raises:
            ValueError: The batch has no word features.
        """
        features = batch.word_features
        if features is None:
            raise ValueError("a batch without word_features was given; see HashedWords")
        if self.projection.kind == "spelling":  # word, shape, and what else there is
            size = self.projection.num_hashes
            features = torch.cat([features[:, :size], features[:, 2 * size :]], 1)
        word, pair, row = _FACTORS
        places_N = torch.arange(1, features.shape[1] + 1, device=features.device)
        factors_N = places_N * word % _PRIME
        words_W = ((features.long() + 1) * factors_N % _PRIME).sum(1) % _PRIME
        words_BL = words_W[batch.input_ids] * batch.mask
        pairs_BP = (words_BL[:, :-1] * pair + words_BL[:, 1:]) % _PRIME
        found_BP = torch.cat([words_BL, pairs_BP], 1) * row % _PRIME % self.projection.pair_rows
        is_real_BP = torch.cat([batch.mask, batch.mask[:, :-1] & batch.mask[:, 1:]], 1)
        nothing = self.projection.pair_rows
        sorted_BP = found_BP.masked_fill(~is_real_BP, nothing).sort(1).values
        repeats_BP = F.pad(sorted_BP[:, 1:] == sorted_BP[:, :-1], (1, 0))
        return sorted_BP.masked_fill(repeats_BP, nothing)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return (B, C)."""
        rows_BP, num_rows = self.rows(batch), self.projection.pair_rows
        counted_BP1 = (rows_BP < num_rows)[..., None].to(self.weight.dtype)
        table_RC = self.weight if self.scale_RC is None else self.weight * self.scale_RC
        found_BPC = F.embedding(rows_BP.clamp(max=num_rows - 1), table_RC) * counted_BP1
        logits_BC = found_BPC.sum(1) / counted_BP1.sum(1).clamp(min=1).sqrt()
        return logits_BC if self.num_labels == 1 else F.pad(logits_BC, (1, 0))

    @torch.no_grad()
    def start_from(self, counts_RC: Tensor) -> None:
        """Let every row start at half the log-odds of the labels, and be scaled by them.

        Args:
            counts_RC: Texts of each label that have a word or pair of the row.

        Source:
            Features scaled by their log-count ratios: Wang and Manning (2012).
        """
        shares_RC = counts_RC.double() + 1
        logs_RC = (shares_RC / shares_RC.sum(0)).log()
        self.scale_RC = (_SPREAD * (logs_RC[:, 1:] - logs_RC[:, :1])).to(self.weight)
        self.weight.fill_(0.5 / _SPREAD)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        """Load weights, and drop the scale where they come from a table that has it in it."""
        if prefix + "scale_RC" not in state_dict:
            self.scale_RC = None
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    @torch.no_grad()
    def start_from_zero(self) -> None:
        """Let every row start from nothing, all with one scale."""
        self.scale_RC = torch.full_like(self.weight, _SPREAD)
        self.weight.zero_()

    @contextmanager
    def as_one_table(self) -> Iterator[None]:
        """Have the rows themselves as weights, without a scale, while the context lasts."""
        weight_RC, scale_RC = self.weight.data, self.scale_RC
        if scale_RC is not None:
            self.weight.data, self.scale_RC = weight_RC * scale_RC, None
        try:
            yield
        finally:
            self.weight.data, self.scale_RC = weight_RC, scale_RC
