"""How likely a masked-LM head finds texts, without any training of it.

B rows, D width, V vocabulary, W distinct windows. Invariant: what a text gets does not depend on
the texts beside it, but for the rounding of floats; texts of the same tokens in one call get the
same number, to the bit.
"""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain, islice
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
_Key = tuple[tuple[int, ...], tuple[int, ...], int]
"""Tokens and segments of a row, and the first place that is scored."""
SCORED = "scored {done:,.0f}{of} texts, {rate:,.1f} texts/s"


class ContextError(ValueError):
    """A text cannot be scored behind its context.

    Args:
        number: Of the text in the call.
        reason: Why, and what to do.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class TextScore(NamedTuple):
    """What a model makes of one text."""

    log_likelihood: float
    """Pseudo-log-likelihood in nats: the sum over the tokens; 0 without one."""
    num_tokens: int
    """Tokens scored: all of the text but [CLS] and [SEP]."""
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


class _Row(NamedTuple):
    """A row of input, of which the end is scored."""

    window: Window
    first: int
    """The first place that is scored; 1: behind [CLS]."""

    @property
    def ids(self) -> list[int]:
        return self.window.ids

    @property
    def scored(self) -> list[int]:
        """The tokens that are scored."""
        return self.window.ids[self.first : -1]

    @property
    def key(self) -> _Key:
        return tuple(self.window.ids), tuple(self.window.segments), self.first


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
    contexts: Sequence[str] | None = None,
    progress: bool | Progress,
) -> list[TextScore]:
    """Return one score for each text, in order; see Bundle.score."""
    _check(texts, contexts)
    options.check_encoder(model.config)
    mask_id = form.token_id(MASK)
    continues = _continuations(form) if options.method == "word_l2r" else frozenset[int]()
    encoder, num_tokens = options.frozen_encoder(model, texts), options.tokens_at_once(model)
    progress = Progress(len(texts), told=SCORED) if progress is True else progress
    known: dict[_Key, float] = {}
    found: list[TextScore] = []
    rest, before_rest = iter(texts), None if contexts is None else iter(contexts)
    for start in range(0, len(texts), BLOCK_TEXTS):
        # Read one after the other: a slice or a number may stand for labels (pandas' Series).
        block = list(islice(rest, BLOCK_TEXTS))
        before = None if before_rest is None else list(islice(before_rest, BLOCK_TEXTS))
        rows = _rows(block, before, form, options.max_len, start=start)
        new = {row.key: row for row in rows if row.key not in known}
        different = [
            _Row(row.window._replace(text=number), row.first)
            for number, row in enumerate(new.values())
        ]
        per_token = len(block) / max(1, sum(len(row.scored) for row in different))
        copies = chain.from_iterable(_copies(row, continues) for row in longest_first(different))
        order, parts = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        for group in groups_in_order(copies, num_tokens, is_exact=model.config.sees_padding):
            parts.append(_log_probs(model, encoder, group, mask_id))
            order.append(torch.tensor([copy.window.text for copy in group]))
            if progress:
                progress.add(len(group) * per_token)
        # Brought back together: a GPU would have to be waited for after every batch.
        values_N = torch.cat([part.to(parts[-1].device) for part in parts]).cpu().double()
        sums_W = torch.zeros(len(new), dtype=torch.float64)
        sums_W.index_add_(0, torch.cat(order), values_N)
        known.update(zip(new, sums_W.tolist(), strict=True))
        values = [known[row.key] for row in rows]
        found += _of_texts(rows, values, len(block), form.unknown_id())
    return found


def _check(texts: Sequence[str], contexts: Sequence[str] | None) -> None:
    check_texts(texts)
    if contexts is None:
        return
    check_texts(contexts, "contexts")
    if len(contexts) != len(texts):
        raise ValueError(f"{len(contexts)} contexts for {len(texts)} texts; give one for each")


def _rows(
    texts: Sequence[str],
    contexts: Sequence[str] | None,
    form: TextFormat,
    max_len: int,
    *,
    start: int,
) -> list[_Row]:
    """Return the rows of some texts, each with its context before it; `start` of them came before.

    Raises:
        ContextError: A text and its context do not fit into one row, or cannot be told apart there.
    """
    if contexts is None:
        return [_Row(window, 1) for window in form.windows(texts, max_len=max_len)]
    joined = map(" ".join, zip(contexts, texts, strict=True))
    rows: list[_Row] = []
    heads = form.windows(contexts, max_len=max_len, long_texts="tile")
    for row in form.windows(list(joined), max_len=max_len, long_texts="tile"):
        number, ids = row.text, row.ids
        text, head = texts[number], heads[number].ids
        if len(ids) > max_len:
            raise ContextError(
                start + number,
                f"the text {text[:60]!r} and its context have {len(ids):,} tokens, and a row "
                f"{max_len:,}; shorten the context, or give a greater max_len",
            )
        if ids[: len(head) - 1] != head[:-1]:
            raise ContextError(
                start + number,
                f"the tokenizer joins the end of the context with the beginning of {text[:60]!r}, "
                "so it cannot be said which tokens are the text's",
            )
        rows.append(_Row(row, len(head) - 1))
    return rows


def _continuations(form: TextFormat) -> Set[int]:
    try:
        return form.continuations()
    except ValueError as error:
        raise ValueError(f"{error} method='original' needs no words.") from error


def _of_texts(
    rows: Sequence[_Row], values: Sequence[float], num_texts: int, unknown_id: int | None
) -> list[TextScore]:
    """Return the sums over the rows of each text."""
    found = [TextScore(0.0, 0)] * num_texts
    for row, value in zip(rows, values, strict=True):
        total, count, num_unknown = found[row.window.text]
        more = 0 if unknown_id is None else row.scored.count(unknown_id)
        score = TextScore(total + value, count + len(row.scored), num_unknown + more)
        found[row.window.text] = score
    return found


def _copies(row: _Row, continues: Set[int]) -> Iterator[_Hidden]:
    """Yield a copy of a row for each of its tokens that is scored."""
    last = len(row.ids) - 1
    end = row.first
    for place in range(row.first, last):
        if end <= place:
            end = place + 1
            while end < last and row.ids[end] in continues:
                end += 1
        yield _Hidden(row.window, place, end if continues else place + 1)


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
