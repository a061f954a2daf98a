"""What a bundle gives to those who only want to use it: embeddings of texts, and filled masks.

B batch, L tokens, D width, T texts of a batch. Invariant: what a text gets does not depend on the
texts beside it, but for the rounding of floats; FNet, which sees padding, gets batches of equal
lengths.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from ponet.batch import EncoderBatch, join_texts
from ponet.config import EncoderConfig
from ponet.encoders import Encoder
from ponet.frozen import Precision, freeze
from ponet.heads import PretrainingModel
from ponet.poolers import first_positions
from ponet.projection import PieceWords
from ponet.text_format import MASK, LongTexts, TextFormat, Window, window_batch

Pooling = Literal["mean", "cls"]
BLOCK_TEXTS = 2048
"""Texts whose tokens are held at once."""
_MANY_CHARACTERS = 100_000
"""Of texts whose encoding takes so long that packing the weights costs nothing beside it."""
_QUIET_S, _MOST_QUIET_S = 5.0, 60.0


class Row(Protocol):
    """What has a length in tokens."""

    @property
    def ids(self) -> list[int]:
        """Token ids with [CLS] and [SEP]."""


RowT = TypeVar("RowT", bound=Row)


class Guess(NamedTuple):
    """One candidate for one [MASK]."""

    word: str
    probability: float


def default_max_len(model: PretrainingModel, metadata: dict[str, Any]) -> int:
    """Return the longest row that the model was pretrained with, as far as it is known."""
    max_positions = model.config.max_positions
    trained = metadata.get("max_len")
    return min(max_positions, trained) if isinstance(trained, int) else max_positions


def trained_positions(config: EncoderConfig, metadata: Mapping[str, Any]) -> int:
    """Return how many positions training has reached, all where that is not known.

    The others hold the random values that they began with. A run that began from other weights has
    what those had learnt.

    Args:
        config: Of the encoder.
        metadata: Of its bundle; that of its start is in it.
    """
    reached, told = 0, metadata
    while told and config.use_positions:
        length = told.get("max_len")
        if not isinstance(length, int) or length < 1:
            break
        reached = max(reached, length)
        if not (start := told.get("started_from")):
            return min(config.max_positions, reached)
        told = start.get("metadata")
    return config.max_positions


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """How texts become rows, and how rows are computed; see Bundle.encode."""

    max_len: int
    batch_tokens: int | None = None
    precision: Precision = "32"

    def __post_init__(self) -> None:
        """Refuse values that none of the encoders takes."""
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens={self.batch_tokens} given; 1 or more is needed")
        if self.max_len < 3:
            raise ValueError(f"max_len={self.max_len} given; [CLS], one token and [SEP] need 3")

    def check_length(self, config: EncoderConfig, advice: str = "") -> None:
        """Refuse rows that are longer than an encoder has positions, if it has any, or places."""
        what = "places" if config.fixed_places else "positions" if config.use_positions else ""
        if what and self.max_len > config.max_positions:
            raise ValueError(
                f"max_len={self.max_len} given, but the model has {config.max_positions} {what}; "
                f"give a smaller max_len{'' if config.fixed_places else advice}"
            )

    def frozen_encoder(self, model: PretrainingModel, texts: Sequence[str]) -> Encoder:
        """Return the encoder of a model as it is fastest for some texts."""
        is_packed = sum(map(len, texts)) > _MANY_CHARACTERS
        return freeze(model.encoder, self.precision, is_packed=is_packed)

    def tokens_at_once(self, model: PretrainingModel) -> int:
        """Return how many tokens a batch holds."""
        return self.batch_tokens or tokens_at_once(model.decoder_weight.device)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(RowOptions):
    """How texts become vectors; see Bundle.encode."""

    trained_positions: int
    """Those that "tile" repeats."""
    pooling: Pooling = "mean"
    long_texts: LongTexts = "windows"

    def __post_init__(self) -> None:
        """Refuse values that none of the encoders takes."""
        super().__post_init__()
        check_choice("pooling", self.pooling, Pooling)
        check_choice("long_texts", self.long_texts, LongTexts)

    def check_encoder(self, config: EncoderConfig) -> None:
        """Refuse what an encoder cannot do."""
        if self.pooling == "cls" and not config.first_sees_all:
            why = "an encoder of hashed words sees no [CLS]"
            if config.projection is None:
                why = f"{config.kind} reads in one direction, [CLS] before all of the text"
            raise ValueError(f"pooling='cls' given, but {why}; give pooling='mean'")
        if self.long_texts == "tile" and config.fixed_places:
            raise ValueError(
                f"long_texts='tile' given, but the weights of {config.kind} belong to its "
                f"{config.max_positions} places; give 'windows' or 'cut'"
            )
        if self.long_texts != "tile":
            self.check_length(config, ", or long_texts='tile' alone to repeat them")


@torch.no_grad()
def encode(
    model: PretrainingModel,
    texts: Sequence[str],
    form: TextFormat,
    options: EncodeOptions,
    *,
    progress: "bool | Progress",
) -> Tensor:
    """Return float32 (n, D) on the CPU, one row for each text, in order; see Bundle.encode.

    With pooling "mean" all tokens of all windows count, [CLS] and [SEP] included, as
    sentence-transformers does it; with "cls" the vectors at [CLS] of several windows. Of encoders
    of hashed words every word counts.
    """
    check_texts(texts)
    config, words = model.config, form.words(model.config)
    options.check_encoder(config)
    encoder, num_tokens = options.frozen_encoder(model, texts), options.tokens_at_once(model)
    sums_ND, weights_N1 = torch.zeros(len(texts), config.hidden_size), torch.zeros(len(texts), 1)
    progress = Progress(len(texts)) if progress is True else progress
    rest = iter(texts)
    for start in range(0, len(texts), BLOCK_TEXTS):
        block = list(islice(rest, BLOCK_TEXTS))
        rows = form.windows(block, max_len=options.max_len, long_texts=options.long_texts)
        if options.long_texts == "tile":
            longest = max(len(row.ids) for row in rows)
            _make_long_enough(encoder, options.trained_positions, longest)
        order, found = [], []
        for group in groups(rows, num_tokens, is_exact=config.sees_padding):
            batch = encoder_batch(encoder, group, words)
            found.append(pooled(encoder, batch, options.pooling))
            order += [start + row.text for row in group]
            if progress:
                progress.add(len(group) * len(block) / len(rows))
        # Brought back together: a GPU would have to be waited for after every batch.
        sums_RD, weights_R1 = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        sums_ND.index_add_(0, torch.tensor(order), sums_RD)
        weights_N1.index_add_(0, torch.tensor(order), weights_R1)
    return sums_ND / weights_N1


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens a batch of `encode` holds where nothing else is said."""
    return 65_536 if device.type == "cuda" else 4096 * min(torch.get_num_threads(), 4)


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


def encoder_batch(
    encoder: Encoder, rows: Sequence[Window], words: PieceWords | None = None
) -> EncoderBatch:
    """Return some rows as an encoder reads them fastest, on its device: without any padding.

    Rows of several lengths stand one after the other, where the encoder keeps them apart.
    """
    return batch_and_places(encoder, rows, torch.zeros(len(rows), 1, dtype=torch.int64), words)[0]


def batch_and_places(
    encoder: Encoder,
    rows: Sequence[Window],
    places_TM: Tensor,
    words: PieceWords | None = None,
) -> tuple[EncoderBatch, Tensor]:
    """Return `encoder_batch`, and where in its rows some tokens are, on the same device.

    Args:
        encoder: Reads the batch.
        rows: Texts T.
        places_TM: int64 (T, M), places in each of the rows.
        words: Of an encoder of hashed words.

    Returns:
        The batch, and int64 (T, M) or, where the texts stand in one row, (1, T * M).
    """
    batch, places_BM = _inputs(rows, words, places_TM)
    if batch.has_padding and encoder.keeps_texts_apart:
        batch = join_texts(batch)
        assert batch.text_places is not None
        places_BM = batch.text_places.gather(1, places_BM).view(1, -1)
    device = next(encoder.parameters()).device
    return batch.to(device, non_blocking=True), places_BM.to(device, non_blocking=True)


def pooled(encoder: Encoder, batch: EncoderBatch, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Return sums (T, D) and weights (T, 1) of the texts; their quotient is the vector."""
    if pooling == "cls":
        first_TD = encoder(batch, first_positions(batch)).flatten(0, 1).float()
        return first_TD, torch.ones_like(first_TD[:, :1])
    x_BLD = encoder(batch)
    if batch.text_places is None:
        lengths_T = batch.mask.sum(1)
        sums_TD = torch.bmm(batch.mask[:, None].float(), x_BLD.float())[:, 0]
    else:
        lengths_T = (batch.text_places < batch.mask.numel()).sum(1)
        sums_TD = torch.segment_reduce(x_BLD[0].float(), "sum", lengths=lengths_T, unsafe=True)
    return sums_TD, lengths_T[:, None].float()


def groups(rows: Iterable[RowT], num_tokens: int, *, is_exact: bool) -> Iterator[list[RowT]]:
    """Yield batches of rows of similar length, the longest first; see `groups_in_order`."""
    return groups_in_order(longest_first(rows), num_tokens, is_exact=is_exact)


def longest_first(rows: Iterable[RowT]) -> list[RowT]:
    """Return rows by falling length; those of one length stay in their order."""
    return sorted(rows, key=lambda row: len(row.ids), reverse=True)


def groups_in_order(
    rows: Iterable[RowT], num_tokens: int, *, is_exact: bool
) -> Iterator[list[RowT]]:
    """Yield batches of rows that stand one after the other.

    Memory grows with the tokens of a batch, whatever the length of its texts: it has at most
    `num_tokens`, and twice as many places if it were padded, or is one row.

    Args:
        rows: The longest first; taken when they are needed.
        num_tokens: Of a batch, >= 1.
        is_exact: All rows of a batch have one length.
    """
    group: list[RowT] = []
    used = 0
    for row in rows:
        if group:
            longest, used = len(group[0].ids), used + len(row.ids)
            is_full = used > num_tokens or (len(group) + 1) * longest > 2 * num_tokens
            if is_full or (is_exact and len(row.ids) != longest):
                yield group
                group = []
        used = used if group else len(row.ids)
        group.append(row)
    if group:
        yield group


def _make_long_enough(encoder: Encoder, num_trained: int, num_tokens: int) -> None:
    """Repeat the trained positions of a frozen encoder until they are enough, in place."""
    if num_tokens > num_trained:
        length = max(-(-num_tokens // num_trained) * num_trained, encoder.config.max_positions)
        encoder.extend_positions(length, method="tile", num_trained=num_trained)


@contextmanager
def _evaluating(model: PretrainingModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_choice(name: str, value: str, kind: Any) -> None:
    """Refuse a value that is not one of those of a Literal."""
    if value not in get_args(kind):
        raise ValueError(f"{name}={value!r} given; allowed are {', '.join(get_args(kind))}")


def check_texts(texts: Sequence[str], name: str = "texts") -> None:
    """Refuse what is no list of str, or the like; the errors call it by a name."""
    if isinstance(texts, str):
        raise ValueError(f"{name} is one str; give a list, such as ['one text']")
    is_listed = hasattr(texts, "__len__") and hasattr(texts, "__getitem__")
    if not is_listed or isinstance(texts, Mapping):
        raise TypeError(
            f"{name} is a {type(texts).__name__}, whose texts have no numbers; give a list, such "
            f"as list({name}), in the order of the answers"
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{number}] is a {type(text).__name__}; a str is needed")


class Progress:
    """A line on stderr for what takes long, ever more rarely, at least every minute; for any calls.

    Args:
        num_texts: Of all calls together; None: not known.
        told: The line, of `done`, `of` and `rate`.
    """

    def __init__(
        self,
        num_texts: int | None,
        *,
        told: str = "encoded {done:,.0f}{of} texts, {rate:,.1f} texts/s",
    ) -> None:
        """Start the clock."""
        self._told = told
        self._of = "" if num_texts is None else f" of {num_texts:,}"
        self._done, self._quiet_s = 0.0, _QUIET_S
        self._started = self._said = time.monotonic()

    def add(self, num_texts: float) -> None:
        """Count texts, whole ones or parts."""
        self._done += num_texts
        now = time.monotonic()
        if now - self._said < self._quiet_s:
            return
        self._said, self._quiet_s = now, min(2 * self._quiet_s, _MOST_QUIET_S)
        rate = self._done / (now - self._started)
        print(self._told.format(done=self._done, of=self._of, rate=rate), file=sys.stderr)
