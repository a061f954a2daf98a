"""Texts to words for encoders of hashed words: no special tokens, features of the words of a batch.

Invariant: what a word's features are depends on the tokenizer and the projection alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.table_rows import place_of
from finetune.data.batches import NO_PLACES, EncodedText, assemble_batch
from finetune.data.encoding import Place, TextEncoder, shortened_lengths
from finetune.tagging.files import split_words
from finetune.tasks.spec import Row, SegmentRule
from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.projection import WordFeatures
from ponet.projection.pieces import MOST_KEPT

SEPARATOR = "[SEP]"
"""What stands between two texts, as a word."""


class WordEncoder(TextEncoder):
    """Turns rows into numbers of words, and these into batches with the features of their words.

    Words are those of a tagged text, else those of `split_words`.

    Args:
        tokenizer_json: Splits words into the pieces that are hashed.
        config: Of an encoder with a projection.
        max_len: Most words of an example.
        segments: See `TextEncoder`.
        language: Likewise.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        config: EncoderConfig,
        *,
        max_len: int,
        segments: SegmentRule = "separators",
        language: str = "en",
    ) -> None:
        super().__init__(tokenizer_json, max_len=max_len, segments=segments, language=language)
        assert config.projection is not None
        self._features = WordFeatures(self._tokenizer, config.projection)
        self.num_places = config.max_positions if config.fixed_places else 0
        if self.num_places and max_len > self.num_places:
            raise ValueError(
                f"max_len is {max_len}, but the encoder mixes exactly {self.num_places} places; "
                f"give {self.num_places} or fewer, or an encoder of any length"
            )
        self._numbers: dict[str, int] = {}
        self._table: NDArray[np.generic] = np.empty((0, 0), np.int32)
        """(words, features) of the words numbered so far, as of the newest batch."""

    @property
    def room(self) -> int:
        """Most words of a single text."""
        return self.max_len

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Return how many words each of some sentences has."""
        return [max(1, len(split_words(text))) for text in texts]

    def batch(self, texts: Sequence[EncodedText]) -> EncoderBatch:
        """Return a batch of its distinct words: `input_ids` are places in `word_features`."""
        batch = assemble_batch(texts, pad_id=-1, has_special=False, num_places=self.num_places)
        words, places = np.unique(batch.input_ids.numpy(), return_inverse=True)
        has_padding = int(words[0] == -1)
        places_BL = np.maximum(places.reshape(batch.input_ids.shape) - has_padding, 0)
        features = torch.from_numpy(self._known()[words[has_padding:]].astype(np.int64, copy=False))
        return replace(batch, input_ids=torch.from_numpy(places_BL), word_features=features)

    def forget(self) -> None:
        """Let go of the words of texts that were encoded before, once they are many."""
        if len(self._numbers) > MOST_KEPT:
            self._numbers, self._table = {}, self._table[:0]

    def characters(self, row: Row) -> list[Place]:
        """Return where every word of `encode([row])[0]` begins; None stands between two texts."""
        texts = (row.text, row.text_pair) if row.text_pair else (row.text,)
        begins = [[begin for _, (begin, _) in split_words(text)] for text in texts]
        num_text, num_pair = len(begins[0]), len(begins[1]) if row.text_pair else 0
        kept = shortened_lengths(num_text, num_pair, self.max_len + 1 - len(texts))
        places: list[Place] = []
        for number, (own, length) in enumerate(zip(begins, kept, strict=False)):
            places += [None] * number + [(number, begin) for begin in own[:length]]
        return places

    def _known(self) -> NDArray[np.generic]:
        new = list(itertools.islice(self._numbers, len(self._table), None))
        if new:
            made = self._features(new)
            self._features.forget()  # the table has them
            self._table = np.concatenate([self._table, made]) if len(self._table) else made
        return self._table

    def _encoded(self, rows: Sequence[Row], source: str | Path) -> Iterator[EncodedText]:
        yield from super()._encoded(rows, source)
        self._known()  # once here, not again in every worker of every epoch

    def _encode_chunk(self, chunk: Sequence[Row], source: str | Path) -> Iterator[EncodedText]:
        for row in chunk:
            words, starts = self._words(row)
            pair, pair_starts = self._words(Row(row.line, "", row.text_pair, "", None))
            if not words or (row.text_pair and not pair):
                raise ValueError(
                    f"{place_of(source, row.line)}: a text without a word; take the row out"
                )
            num_special = int(bool(pair))
            room = self.max_len - num_special
            num_text, num_pair = shortened_lengths(len(words), len(pair), room)
            kept = [*words[:num_text], *[SEPARATOR] * num_special]
            pair_start = len(kept)
            kept += pair[:num_pair]
            numbers = [self._numbers.setdefault(word, len(self._numbers)) for word in kept]
            own = (starts[starts < num_text], pair_starts[pair_starts < num_pair] + pair_start)
            yield EncodedText(
                np.array(numbers, np.int32),
                pair_start,
                np.concatenate(own).astype(np.int32),
                len(words) + len(pair) + num_special,
                _tagged_places(row, starts, num_text),
            )

    def _words(self, row: Row) -> tuple[list[str], NDArray[np.int64]]:
        """Return the words of a text and which of them are the first of a segment."""
        if row.tagged is not None and row.tagged.unit == "sentence":
            parts = [[word for word, _ in split_words(one)] or [one] for one in row.tagged.words]
            firsts = np.cumsum([0, *map(len, parts)])[:-1]
            return [word for part in parts for word in part], firsts
        if row.tagged is not None:
            found = list(zip(row.tagged.words, row.tagged.offsets, strict=True))
        else:
            found = split_words(row.text)
        words, begins = [word for word, _ in found], [start for _, (start, _) in found]
        if self.segments == "separators" or not words:
            return words, np.zeros(min(len(words), 1), np.int64)
        pieces = np.searchsorted(self._rule(row.text), begins, side="right")
        return words, np.flatnonzero(np.diff(pieces, prepend=-1))


def _tagged_places(row: Row, starts: NDArray[np.int64], num_words: int) -> NDArray[np.int32]:
    """Return which of the first words have a tag: all, the first of every sentence, or none."""
    if row.tagged is None:
        return NO_PLACES
    if row.tagged.unit == "sentence":
        return starts[starts < num_words].astype(np.int32)
    return np.arange(num_words, dtype=np.int32)


def text_encoder(
    tokenizer_json: Path,
    config: EncoderConfig | None,
    *,
    max_len: int,
    segments: SegmentRule = "separators",
    language: str = "en",
) -> TextEncoder:
    """Return what suits an encoder: pieces of words, or whole words for one with a projection."""
    form: dict[str, Any] = {"max_len": max_len, "segments": segments, "language": language}
    if config is not None and config.projection is not None:
        return WordEncoder(tokenizer_json, config, **form)
    return TextEncoder(tokenizer_json, **form)
