"""What a bundle gives to those who only want to use it: embeddings of texts, and filled masks.

B batch, L tokens, D width. Invariant: what a text gets does not depend on the texts beside it,
but for the rounding of floats; FNet, which sees padding, gets batches of equal lengths.
"""

import copy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.encoders import Encoder
from ponet.heads import PretrainingModel
from ponet.projection import PieceWords
from ponet.text_format import MASK, LongTexts, TextFormat, Window, window_batch

Pooling = Literal["mean", "cls"]
_BLOCK_TEXTS = 2048
_QUIET_S = 5.0


class Guess(NamedTuple):
    """One candidate for one [MASK]."""

    word: str
    probability: float


def default_max_len(model: PretrainingModel, metadata: dict[str, Any]) -> int:
    """Return the longest row that the model was pretrained with, as far as it is known."""
    max_positions = model.config.max_positions
    trained = metadata.get("max_len")
    return min(max_positions, trained) if isinstance(trained, int) else max_positions


@torch.no_grad()
def encode(
    model: PretrainingModel,
    texts: Sequence[str],
    form: TextFormat,
    *,
    pooling: Pooling,
    batch_size: int,
    max_len: int,
    long_texts: LongTexts,
    progress: "bool | Progress",
) -> Tensor:
    """Return float32 (n, D) on the CPU, one row for each text, in order; see Bundle.encode.

    With pooling "mean" all tokens of all windows count, [CLS] and [SEP] included, as
    sentence-transformers does it; with "cls" the vectors at [CLS] of several windows. Of encoders
    of hashed words every word counts.
    """
    _check_texts(texts)
    _check_choice("pooling", pooling, Pooling)
    _check_choice("long_texts", long_texts, LongTexts)
    if pooling == "cls" and not model.config.first_sees_all:
        raise ValueError(
            "pooling='cls' given, but an encoder of hashed words sees no [CLS]; give pooling='mean'"
        )
    _check_sizes(batch_size, max_len, None if long_texts == "tile" else model.config.max_positions)
    words = form.words(model.config)
    sums_ND = torch.zeros(len(texts), model.config.hidden_size)
    weights_N1 = torch.zeros(len(texts), 1)
    progress = Progress(len(texts)) if progress is True else progress
    with _evaluating(model):
        for start in range(0, len(texts), _BLOCK_TEXTS):
            block = texts[start : start + _BLOCK_TEXTS]
            rows = form.windows(block, max_len=max_len, long_texts=long_texts)
            encoder = _long_enough(model.encoder, max(len(row.ids) for row in rows))
            is_exact = model.config.sees_padding
            for group in _groups(rows, batch_size * max_len, is_exact=is_exact):
                sums_BD, weights_B1 = _pooled(encoder, group, pooling, words)
                where_B = torch.tensor([start + row.text for row in group])
                sums_ND.index_add_(0, where_B, sums_BD)
                weights_N1.index_add_(0, where_B, weights_B1)
                if progress:
                    progress.add(len(group) * len(block) / len(rows))
    return sums_ND / weights_N1


@torch.no_grad()
def fill(
    model: PretrainingModel, text: str, form: TextFormat, *, max_len: int, top: int
) -> list[list[Guess]]:
    """Return for each [MASK] of a text, in order, `top` guesses; see Bundle.fill.

    A long text is cut into windows, and each [MASK] is guessed from its own.
    """
    vocab_size = model.config.vocab_size
    if not 1 <= top <= vocab_size:
        raise ValueError(f"top is {top}; it must be from 1 to the vocabulary's {vocab_size}")
    if not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}; give one str, several one by one")
    if MASK not in text:
        raise ValueError(f"the text has no {MASK}: {text!r}")
    for token in ("[CLS]", "[SEP]", "[PAD]", "<pad>"):
        if token in text:
            raise ValueError(f"the text holds {token}, which stands for no text; remove it")
    mask_id = form.token_id(MASK)
    device = model.decoder_weight.device
    guesses: list[list[Guess]] = []
    words = form.words(model.config)
    with _evaluating(model):
        for row in form.windows([text], max_len=max_len, has_masks=True):
            places = [place for place, token in enumerate(row.ids) if token == mask_id]
            if not places:
                continue
            batch, positions = _inputs([row], words, torch.tensor([places]))
            output = model.forward_masked(batch.to(device), positions.to(device))
            found = output.mlm_logits[0].float().softmax(-1).topk(top, dim=-1)
            shares, tokens = (part.tolist() for part in found)
            guesses += [
                [Guess(form.word(token), share) for token, share in zip(*pair, strict=True)]
                for pair in zip(tokens, shares, strict=True)
            ]
    if not guesses:
        raise ValueError(f"the bundle's tokenizer does not take {MASK} for one token")
    return guesses


def _inputs(
    rows: Sequence[Window], words: PieceWords | None, places_BM: Tensor
) -> tuple[EncoderBatch, Tensor]:
    """Return a batch as the encoder reads it, and where in it some tokens of the rows are."""
    batch = window_batch(rows)
    return (batch, places_BM) if words is None else words(batch, places_BM)


def _pooled(
    encoder: Encoder, rows: Sequence[Window], pooling: Pooling, words: PieceWords | None
) -> tuple[Tensor, Tensor]:
    """Return (B, D) sums and (B, 1) weights; their quotient is the vector."""
    batch, _ = _inputs(rows, words, torch.zeros(len(rows), 1, dtype=torch.int64))
    batch = batch.to(encoder.embeddings.word.weight.device)
    x_BLD = encoder(batch).float()
    if pooling == "cls":
        return x_BLD[:, 0].cpu(), torch.ones(len(rows), 1)
    sums_BD = x_BLD.masked_fill(~batch.mask[..., None], 0).sum(1)
    return sums_BD.cpu(), batch.mask.sum(1, keepdim=True).float().cpu()


def _groups(rows: Sequence[Window], num_tokens: int, *, is_exact: bool) -> Iterator[list[Window]]:
    """Yield batches of rows of similar length, the longest first.

    A batch has room for `num_tokens`, padding included, or for one row; `is_exact`: all its rows
    have one length.
    """
    group: list[Window] = []
    for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
        if group:
            longest = len(group[0].ids)
            is_full = (len(group) + 1) * longest > num_tokens
            if is_full or (is_exact and len(row.ids) != longest):
                yield group
                group = []
        group.append(row)
    if group:
        yield group


def _long_enough(encoder: Encoder, num_tokens: int) -> Encoder:
    """Return the encoder, or one with its own weights and a longer, repeated position table."""
    if num_tokens <= encoder.config.max_positions:
        return encoder
    shared = {id(weight): weight for weight in encoder.parameters()}
    longer = copy.deepcopy(encoder, shared)
    longer.extend_positions(num_tokens, method="tile")
    return longer


@contextmanager
def _evaluating(model: PretrainingModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _check_choice(name: str, value: str, kind: Any) -> None:
    """Refuse a value that is not one of those of a Literal."""
    if value not in get_args(kind):
        raise ValueError(f"{name}={value!r} given; allowed are {', '.join(get_args(kind))}")


def _check_sizes(batch_size: int, max_len: int, max_positions: int | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} given; 1 or more is needed")
    if max_len < 3:
        raise ValueError(f"max_len={max_len} given; [CLS], one token and [SEP] need 3")
    if max_positions is not None and max_len > max_positions:
        raise ValueError(
            f"max_len={max_len} given, but the model has {max_positions} positions; give "
            "long_texts='tile' to repeat them, or a smaller max_len"
        )


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError("texts is one str; give a list, such as ['one text']")
    is_listed = hasattr(texts, "__len__") and hasattr(texts, "__getitem__")
    if not is_listed or isinstance(texts, Mapping):
        raise TypeError(
            f"texts is a {type(texts).__name__}, whose texts have no numbers; give a list, such "
            "as list(texts), in the order that the vectors shall have"
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{number}] is a {type(text).__name__}; a str is needed")


class Progress:
    """A line on stderr every few seconds, for what takes long; for one call or several.

    Args:
        num_texts: Of all calls together; None: not known.
    """

    def __init__(self, num_texts: int | None) -> None:
        """Start the clock."""
        self._of = "" if num_texts is None else f" of {num_texts:,}"
        self._done = 0.0
        self._started = self._said = time.monotonic()

    def add(self, num_texts: float) -> None:
        """Count texts, whole ones or parts."""
        self._done += num_texts
        now = time.monotonic()
        if now - self._said < _QUIET_S:
            return
        self._said = now
        rate = self._done / (now - self._started)
        print(f"encoded {self._done:,.0f}{self._of} texts, {rate:,.1f} texts/s", file=sys.stderr)
