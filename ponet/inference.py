"""What a bundle gives to those who only want to use it: embeddings of texts, and filled masks.

B batch, L tokens, D width. Invariant: what a text gets does not depend on the texts beside it,
but for the rounding of floats; FNet, which sees padding, gets batches of equal lengths.
"""

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ponet.encoders import Encoder
from ponet.heads import PretrainingModel
from ponet.text_format import MASK, LongTexts, TextFormat, Window, window_batch

Pooling = Literal["mean", "cls"]
_BLOCK_TEXTS = 2048
_QUIET_S = 5.0


class Guess(NamedTuple):
    """One candidate for one [MASK]."""

    word: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How texts become vectors.

    Raises:
        ValueError: If a choice is unknown or a number is too small.
    """

    pooling: Pooling = "mean"
    """mean: over all tokens of all windows, [CLS] and [SEP] included, as sentence-transformers
    does it; cls: the vector at [CLS], of several windows their mean."""
    batch_size: int = 32
    """Rows of max_len tokens in a batch, >= 1; of longer rows there are fewer."""
    max_len: int | None = None
    """Longest row in tokens, >= 3; None: what the model was pretrained with, else its positions."""
    long_texts: LongTexts = "windows"
    """A text longer than max_len: windows = several rows; tile = one row of any length, with the
    position table repeated (PoNet's long-text runs); cut = its beginning alone."""
    progress: bool = True
    """Say on stderr how far it is, every few seconds, once it has taken five."""

    def __post_init__(self) -> None:
        """Check everything but what depends on the model."""
        for name, allowed in (("pooling", ("mean", "cls")),
                              ("long_texts", ("windows", "tile", "cut"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} given; allowed are {', '.join(allowed)}"
                )
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} given; 1 or more is needed")
        if self.max_len is not None and self.max_len < 3:
            raise ValueError(f"max_len={self.max_len} given; [CLS], one token and [SEP] need 3")


def text_format(tokenizer_path: Path | None, metadata: dict[str, Any]) -> TextFormat:
    """Return the text format of a bundle.

    Raises:
        ValueError: If it has no tokenizer.
    """
    if tokenizer_path is None:
        raise ValueError(
            "this bundle has no tokenizer.json, so text cannot be turned into tokens; put the "
            "tokenizer of its pretraining into its folder"
        )
    return TextFormat(tokenizer_path, language=metadata.get("language") or "en")


def default_max_len(model: PretrainingModel, metadata: dict[str, Any]) -> int:
    """Return the longest row that the model was pretrained with, as far as it is known."""
    max_positions = model.config.max_positions
    trained = metadata.get("max_len")
    return min(max_positions, trained) if isinstance(trained, int) else max_positions


@torch.no_grad()
def encode(
    model: PretrainingModel, texts: Sequence[str], form: TextFormat, options: EncodeOptions
) -> Tensor:
    """Return float32 (n, D) on the CPU, one row for each text, in order.

    Args:
        model: On any device; its mode is put back at the end.
        texts: Any number, also none; each of any length.
        form: The bundle's.
        options: With max_len set.

    Raises:
        ValueError: If texts is no sequence of str, or max_len goes beyond the positions.
    """
    _check_texts(texts)
    max_len, max_positions = options.max_len, model.config.max_positions
    assert max_len is not None
    if max_len > max_positions and options.long_texts != "tile":
        raise ValueError(
            f"max_len={max_len} given, but the model has {max_positions} positions; give "
            "long_texts='tile' to repeat them, or a smaller max_len"
        )
    sums_ND = torch.zeros(len(texts), model.config.hidden_size)
    weights_N1 = torch.zeros(len(texts), 1)
    progress = _Progress(len(texts), shown=options.progress)
    with _evaluating(model):
        for start in range(0, len(texts), _BLOCK_TEXTS):
            block = texts[start : start + _BLOCK_TEXTS]
            rows = form.windows(block, max_len=max_len, long_texts=options.long_texts)
            encoder = _long_enough(model.encoder, max(len(row.ids) for row in rows))
            is_exact = model.config.sees_padding
            for group in _groups(rows, options.batch_size * max_len, is_exact=is_exact):
                sums_BD, weights_B1 = _pooled(encoder, group, options.pooling)
                where_B = torch.tensor([start + row.text for row in group])
                sums_ND.index_add_(0, where_B, sums_BD)
                weights_N1.index_add_(0, where_B, weights_B1)
                progress.add(len(group), share=len(block) / len(rows))
    return sums_ND / weights_N1


@torch.no_grad()
def fill(
    model: PretrainingModel, text: str, form: TextFormat, *, max_len: int, top: int
) -> list[list[Guess]]:
    """Return for each [MASK] of a text, in order, `top` guesses, most likely first.

    Args:
        model: On any device; its mode is put back at the end.
        text: Of any length, with at least one [MASK]; a long one is cut into windows, and each
            [MASK] is guessed from its own.
        form: The bundle's.
        max_len: Longest window in tokens.
        top: From 1 to the vocabulary's size.

    Raises:
        ValueError: If the text has no [MASK] or holds another special token, or top is outside
            of its range.
    """
    vocab_size = model.config.vocab_size
    if not 1 <= top <= vocab_size:
        raise ValueError(f"top is {top}; it must be from 1 to the vocabulary's {vocab_size}")
    if not isinstance(text, str) or MASK not in text:
        raise ValueError(f"the text has no {MASK}: {text!r}")
    for token in ("[CLS]", "[SEP]", "[PAD]", "<pad>"):
        if token in text:
            raise ValueError(f"the text holds {token}, which stands for no text; remove it")
    mask_id = form.token_id(MASK)
    guesses: list[list[Guess]] = []
    with _evaluating(model):
        for row in form.windows([text], max_len=max_len, has_masks=True):
            places = [place for place, token in enumerate(row.ids) if token == mask_id]
            if places:
                guesses += _guesses(model, row, places, form=form, top=top)
    if not guesses:
        raise ValueError(f"the bundle's tokenizer does not take {MASK} for one token")
    return guesses


def _guesses(
    model: PretrainingModel, row: Window, places: list[int], *, form: TextFormat, top: int
) -> list[list[Guess]]:
    device = model.decoder_weight.device
    output = model.forward_masked(
        window_batch([row]).to(device), torch.tensor([places], device=device)
    )
    likely, tokens = output.mlm_logits[0].float().softmax(-1).topk(top, dim=-1)
    return [
        [Guess(form.word(token), share) for token, share in zip(*pair, strict=True)]
        for pair in zip(tokens.tolist(), likely.tolist(), strict=True)
    ]


def _pooled(encoder: Encoder, rows: Sequence[Window], pooling: Pooling) -> tuple[Tensor, Tensor]:
    """Return (B, D) sums and (B, 1) weights; their quotient is the vector."""
    batch = window_batch(rows).to(encoder.embeddings.word.weight.device)
    x_BLD = encoder(batch).float()
    if pooling == "cls":
        return x_BLD[:, 0].cpu(), torch.ones(len(rows), 1)
    sums_BD = x_BLD.masked_fill(~batch.mask[..., None], 0).sum(1)
    return sums_BD.cpu(), batch.mask.sum(1, keepdim=True).float().cpu()


def _groups(rows: Sequence[Window], num_tokens: int, *, is_exact: bool) -> Iterator[list[Window]]:
    """Yield batches of rows of similar length, the longest first.

    Args:
        rows: In any order.
        num_tokens: Room of a batch, padding included; one row always has room.
        is_exact: All rows of a batch have one length.
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


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError("texts is one str; give a list, such as ['one text']")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"texts[{number}] is a {type(text).__name__}; a str is needed")


class _Progress:
    """A line on stderr every few seconds, for what takes long."""

    def __init__(self, num_texts: int, *, shown: bool) -> None:
        self._num_texts, self._shown = num_texts, shown
        self._done = 0.0
        self._started = self._said = time.monotonic()

    def add(self, rows: int, *, share: float) -> None:
        """Count rows, each of which is a share of a text."""
        self._done += rows * share
        now = time.monotonic()
        if not self._shown or now - self._said < _QUIET_S:
            return
        self._said = now
        rate = self._done / (now - self._started)
        print(
            f"encoded {self._done:,.0f} of {self._num_texts:,} texts, {rate:,.1f} texts/s",
            file=sys.stderr,
        )
