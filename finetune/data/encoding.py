"""Texts to token ids: tokenised once, cut to length, with the first tokens of segments.

Invariant: [CLS], [SEP] and segments are known by position; a literal "[SEP]" in a text is text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.boundaries import paragraph_starts, sentence_starts
from finetune.data.encoded_texts import (
    NO_STARTS,
    EncodedText,
    Int32Array,
    PackedTexts,
    assemble_batch,
)
from finetune.tasks.spec import Row, SegmentRule
from ponet import EncoderBatch
from ponet.tokenizer import load_tokenizer, tokenizer_facts
from ponet.weight_files import TOKENIZER_NAME
from training.configuration import RUN_PARTS

__all__ = ["EncodedText", "PackedTexts", "TextEncoder", "tokenizer_file"]


SHORTEST_MAX_LEN = 5
"""[CLS], two [SEP] and one token of each of two texts."""
_CHUNK_CHARS = 1_000_000
"""Text given to the tokenizer at once; its own objects take about 200 bytes per token."""


class TextEncoder:
    """Turns rows into token ids, and token ids into batches.

    Args:
        tokenizer_json: Tokenizer of any kind in the `tokenizers` format.
        max_len: Most tokens of an example, special tokens included; 5 or more. A single text keeps
            its head, of a pair the longer one is cut first.
        segments: What a pooling segment is: a whole text, its sentences, or its paragraphs;
            [CLS] and [SEP] are always segments of their own.
        language: ISO 639-1 code for the sentence rules.

    Raises:
        ValueError: The file is missing, damaged, or lacks a special token; max_len is too small.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        *,
        max_len: int,
        segments: SegmentRule = "separators",
        language: str = "en",
    ) -> None:
        if max_len < SHORTEST_MAX_LEN:
            raise ValueError(f"max_len is {max_len}; {SHORTEST_MAX_LEN} or more is needed")
        self._tokenizer = load_tokenizer(Path(tokenizer_json))
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is four characters more
        self.info = tokenizer_facts(self._tokenizer, Path(tokenizer_json))
        self.max_len = max_len
        self.segments = segments
        self.language = language
        self.counters: Counter[str] = Counter()
        """Repairs made while encoding; empty: none."""

    def encode(self, rows: Sequence[Row], source: str | Path) -> list[EncodedText]:
        """Return the token ids of rows.

        Args:
            rows: Examples of one file; an empty second text means there is none.
            source: Their file, for messages.

        Raises:
            ValueError: A text has no token or is not Unicode; names file and line.
        """
        return list(self.encode_packed(rows, source))

    def encode_packed(self, rows: Sequence[Row], source: str | Path) -> PackedTexts:
        """Return the same as `encode` in four arrays, for many texts; see there."""
        packed: list[PackedTexts] = []
        for chunk in _chunks(rows):
            _check_unicode(chunk, source)
            first = self._tokens([row.text for row in chunk])
            second = self._tokens([row.text_pair for row in chunk])
            encoded = []
            for row, text, pair in zip(chunk, first, second, strict=True):
                if not text.num_whole or (row.text_pair and not pair.num_whole):
                    raise ValueError(
                        f"{source}, line {row.line}: a text has nothing that the tokenizer knows "
                        "as a character; take the row out"
                    )
                encoded.append(self._assemble(text, pair))
            packed.append(PackedTexts.pack(encoded))
        return PackedTexts.join(packed)

    def batch(self, texts: Sequence[EncodedText]) -> EncoderBatch:
        """Return a batch padded to its longest text."""
        return assemble_batch(texts, pad_id=self.info.pad_id)

    def _tokens(self, texts: list[str]) -> Iterator["_Tokens"]:
        """Yield the tokens of each text; offsets are asked for only where a rule needs them."""
        if self.segments == "separators" or not any(texts):
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                ids = encoding.ids
                yield _Tokens(ids[: self.max_len], len(ids), NO_STARTS)
            return
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = encoding.ids
            offsets = encoding.offsets[: self.max_len]
            starts = token_starts(_without_spaces(text, offsets), self._character_starts(text))
            yield _Tokens(ids[: self.max_len], len(ids), starts)

    def _character_starts(self, text: str) -> list[int]:
        if self.segments == "paragraphs":
            return paragraph_starts(text)
        return sentence_starts(text, self.language, self.counters)

    def _assemble(self, text: "_Tokens", pair: "_Tokens") -> EncodedText:
        num_special = 3 if pair.num_whole else 2
        room = self.max_len - num_special
        num_text, num_pair = shortened_lengths(text.num_whole, pair.num_whole, room)
        ids = [self.info.cls_id, *text.ids[:num_text], self.info.sep_id]
        pair_start = len(ids)
        if pair.num_whole:
            ids += [*pair.ids[:num_pair], self.info.sep_id]
        starts = (
            text.starts[text.starts < num_text] + 1,
            pair.starts[pair.starts < num_pair] + pair_start,
        )
        return EncodedText(
            np.array(ids, dtype=np.int32),
            pair_start,
            np.concatenate(starts).astype(np.int32),
            text.num_whole + pair.num_whole + num_special,
        )


def token_starts(offsets: Iterable[tuple[int, int]], starts: Sequence[int]) -> Int32Array:
    """Return which tokens are the first of a piece of the text.

    A token belongs to the piece that holds its first character; a piece without tokens vanishes.

    Args:
        offsets: First character and end of each token.
        starts: Characters where pieces begin, growing, the first one 0.
    """
    begins = np.fromiter((begin for begin, _ in offsets), dtype=np.int64)
    begins = np.maximum.accumulate(begins) if len(begins) else begins
    pieces = np.searchsorted(np.asarray(starts, dtype=np.int64), begins, side="right")
    return np.flatnonzero(np.diff(pieces, prepend=-1)).astype(np.int32)


def _without_spaces(text: str, offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield offsets without the spaces that a SentencePiece token has before its word."""
    for begin, end in offsets:
        while begin < end and text[begin].isspace():
            begin += 1  # noqa: PLW2901
        yield begin, end


def shortened_lengths(num_text: int, num_pair: int, room: int) -> tuple[int, int]:
    """Return how many tokens of text and pair to keep: the longer one is cut first.

    Args:
        num_text: Tokens of the text, >= 0.
        num_pair: Tokens of the pair, >= 0.
        room: Most tokens of both together, >= 2.
    """
    if num_text + num_pair <= room:
        return num_text, num_pair
    if num_pair <= room // 2:
        return room - num_pair, num_pair
    if num_text <= room - room // 2:
        return num_text, room - num_text
    return room - room // 2, room // 2


def tokenizer_file(encoder: str | Path) -> Path:
    """Return the tokenizer.json of a bundle or classifier, a run that holds one, or a weights file.

    Raises:
        ValueError: There is none; names the places looked at.
    """
    folder = Path(encoder)
    if folder.is_file():
        folder = folder.parent
    places = [folder / part / TOKENIZER_NAME for part in (*RUN_PARTS, "")]
    for place in places:
        if place.is_file():
            return place
    import_it = (
        f"a model of transformers or the Hub is made a bundle first: python -m ponet import "
        f"{encoder} --output BUNDLE"
    )
    if not folder.exists():
        raise ValueError(
            f"--model.encoder {encoder}: no such folder; give a bundle or run folder; {import_it}"
        )
    looked_at = ", ".join(map(str, places))
    raise ValueError(
        f"{encoder} has no {TOKENIZER_NAME} (looked for {looked_at}); give a bundle or run folder, "
        f"or put the tokenizer of the pretraining there; {import_it}"
    )


class _Tokens(NamedTuple):
    """One text without special tokens; ids and starts reach as far as could be used."""

    ids: list[int]
    num_whole: int
    starts: Int32Array


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield runs of rows with about `_CHUNK_CHARS` characters."""
    begin, num_chars = 0, 0
    for place, row in enumerate(rows):
        num_chars += len(row.text) + len(row.text_pair)
        if num_chars >= _CHUNK_CHARS:
            yield rows[begin : place + 1]
            begin, num_chars = place + 1, 0
    if begin < len(rows):
        yield rows[begin:]


def _check_unicode(rows: Sequence[Row], source: str | Path) -> None:
    """Refuse half of a surrogate pair, which JSON can hold but no tokenizer takes."""
    for row in rows:
        try:
            (row.text + row.text_pair).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{source}, line {row.line}: a text holds half of a surrogate pair "
                f"({error.object[error.start]!a}); write the whole character, or take the row out"
            ) from error
