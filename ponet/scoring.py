"""How likely a masked-LM head finds texts, without any training of it.

B rows, D width, V vocabulary, W distinct windows. Invariant: what a text gets does not depend on
the texts beside it, but for the rounding of floats; texts of the same tokens in one call get the
same number, to the bit.
"""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ponet.config import EncoderConfig
from ponet.encoders import Encoder
from ponet.heads import PretrainingModel
from ponet.inference import (
    BLOCK_TEXTS,
    Progress,
    RowOptions,
    batch_and_places,
    check_choice,
    check_texts,
    groups_in_order,
    longest_first,
)
from ponet.losses import balanced_rows
from ponet.text_format import MASK, TextFormat, Window

Method = Literal["word_l2r", "original"]
_Key = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens and segments of a row."""
SCORED = "scored {done:,.0f}{of} texts, {rate:,.1f} texts/s"


class TextScore(NamedTuple):
    """What a model makes of one text."""

    log_likelihood: float
    """Pseudo-log-likelihood in nats: the sum over the tokens; 0 without one."""
    num_tokens: int
    """Tokens scored: all but [CLS] and [SEP]."""
    num_unknown: int = 0
    """Of these, [UNK]s. Pretraining here never asks for them, so what they add says little."""


def pseudo_perplexity(scores: Iterable[TextScore]) -> float:
    """Return exp(-log-likelihood / tokens) of some texts together.

    Raises:
        ValueError: If they have no token.
    """
    sums = [(score.log_likelihood, score.num_tokens) for score in scores]  # read once
    num_tokens = sum(count for _, count in sums)
    if not num_tokens:
        raise ValueError("no text has a token; a pseudo-perplexity is a mean over tokens")
    return math.exp(-math.fsum(value for value, _ in sums) / num_tokens)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(RowOptions):
    """How texts are scored; see Bundle.score."""

    method: Method = "word_l2r"

    def __post_init__(self) -> None:
        """Refuse values that none of the encoders takes."""
        super().__post_init__()
        check_choice("method", self.method, Method)

    def check_encoder(self, config: EncoderConfig) -> None:
        """Refuse what an encoder cannot do."""
        self.check_length(config)
        if config.projection is not None:
            raise ValueError(
                "this is an encoder of hashed words, whose masked-LM head has learnt to guess "
                "words of one piece alone, so it has no likelihood of a text; score with an "
                "encoder that reads a vocabulary"
            )


class _Hidden(NamedTuple):
    """A row in which one token is scored: it and what is hidden with it are [MASK]s."""

    window: Window
    place: int
    end: int
    """Place behind the last token that is hidden."""

    @property
    def ids(self) -> list[int]:
        """As they stand in the text; those with [MASK] are made when they are needed."""
        return self.window.ids

    @property
    def target(self) -> int:
        """The token."""
        return self.window.ids[self.place]

    def shown(self, mask_id: int) -> Window:
        """Return the row as the model sees it."""
        number, ids, segments = self.window
        hidden = [mask_id] * (self.end - self.place)
        return Window(number, [*ids[: self.place], *hidden, *ids[self.end :]], segments)


@torch.no_grad()
def score(
    model: PretrainingModel,
    texts: Sequence[str],
    form: TextFormat,
    options: ScoreOptions,
    *,
    progress: bool | Progress,
) -> list[TextScore]:
    """Return one score for each text, in order; see Bundle.score."""
    check_texts(texts)
    options.check_encoder(model.config)
    mask_id = form.token_id(MASK)
    continues = _continuations(form) if options.method == "word_l2r" else frozenset[int]()
    encoder, num_tokens = options.frozen_encoder(model, texts), options.tokens_at_once(model)
    progress = Progress(len(texts), told=SCORED) if progress is True else progress
    known: dict[_Key, float] = {}
    found: list[TextScore] = []
    for start in range(0, len(texts), BLOCK_TEXTS):
        block = texts[start : start + BLOCK_TEXTS]
        rows = form.windows(block, max_len=options.max_len)
        keys: list[_Key] = [(tuple(row.ids), tuple(row.segments)) for row in rows]
        new = [key for key in dict.fromkeys(keys) if key not in known]
        windows = [
            Window(number, list(ids), list(parts)) for number, (ids, parts) in enumerate(new)
        ]
        per_token = len(block) / max(1, sum(len(window.ids) - 2 for window in windows))
        copies = chain.from_iterable(_copies(row, continues) for row in longest_first(windows))
        order, parts = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        for group in groups_in_order(copies, num_tokens, is_exact=model.config.sees_padding):
            parts.append(_log_probs(model, encoder, group, mask_id))
            order.append(torch.tensor([copy.window.text for copy in group]))
            if progress:
                progress.add(len(group) * per_token)
        # Brought back together: a GPU would have to be waited for after every batch.
        values_N = torch.cat([part.to(parts[-1].device) for part in parts]).cpu().double()
        sums_W = torch.zeros(len(windows), dtype=torch.float64)
        sums_W.index_add_(0, torch.cat(order), values_N)
        known.update(zip(new, sums_W.tolist(), strict=True))
        values = [known[key] for key in keys]
        found += _of_texts(rows, values, len(block), form.unknown_id())
    return found


def _continuations(form: TextFormat) -> Set[int]:
    try:
        return form.continuations()
    except ValueError as error:
        raise ValueError(f"{error} method='original' needs no words.") from error


def _of_texts(
    rows: Sequence[Window], values: Sequence[float], num_texts: int, unknown_id: int | None
) -> list[TextScore]:
    """Return the sums over the rows of each text."""
    found = [TextScore(0.0, 0)] * num_texts
    for row, value in zip(rows, values, strict=True):
        total, count, num_unknown = found[row.text]
        more = 0 if unknown_id is None else row.ids.count(unknown_id)
        found[row.text] = TextScore(total + value, count + len(row.ids) - 2, num_unknown + more)
    return found


def _copies(window: Window, continues: Set[int]) -> Iterator[_Hidden]:
    """Yield a copy of a row for each of its tokens between [CLS] and [SEP]."""
    last = len(window.ids) - 1
    end = 1
    for place in range(1, last):
        if end <= place:
            end = place + 1
            while end < last and window.ids[end] in continues:
                end += 1
        yield _Hidden(window, place, end if continues else place + 1)


def _log_probs(
    model: PretrainingModel, encoder: Encoder, group: Sequence[_Hidden], mask_id: int
) -> Tensor:
    """Return the log-probabilities of the scored tokens of some rows, (B,) float32 or wider.

    The last block is computed at these tokens alone, and so many logits are held at once as in
    training.
    """
    rows = [copy.shown(mask_id) for copy in group]
    places_B1 = torch.tensor([[copy.place] for copy in group])
    batch, places_BM = batch_and_places(encoder, rows, places_B1)
    weight_VD, bias_V = model.decoder_weight, model.mlm_head.bias
    x_BD = encoder(batch, places_BM).flatten(0, 1).to(bias_V.dtype)
    targets_B = torch.tensor([copy.target for copy in group]).to(x_BD.device, non_blocking=True)
    size = balanced_rows(len(x_BD), len(weight_VD), x_BD.device.type)
    parts = zip(torch.split(x_BD, size), torch.split(targets_B, size), strict=True)
    return -torch.cat(
        [F.cross_entropy(model.mlm_head(x, weight_VD), y, reduction="none") for x, y in parts]
    )
