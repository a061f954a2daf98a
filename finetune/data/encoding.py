"""Texts to token ids: tokenised once, cut to length, with the first tokens of segments.

Invariant: [CLS], [SEP] and segments are known by position; a literal "[SEP]" in a text is text.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.config import SentencesConfig
from data_prep.sentence_rules import segment
from data_prep.sentences import cut_long
from data_prep.table_rows import place_of
from data_prep.words import space_between
from finetune.data.batches import (
    NO_PLACES,
    EncodedText,
    Int32Array,
    PackedTexts,
    assemble_batch,
)
from finetune.tasks.rows import encodable
from finetune.tasks.spec import Row, SegmentRule, TaggedText
from ponet.batch import EncoderBatch
from ponet.tokenizer import load_tokenizer, tokenizer_facts

SHORTEST_MAX_LEN = 5
"""[CLS], two [SEP] and one token of each of two texts."""
_CHUNK_CHARS = 1_000_000
"""Text given to the tokenizer at once; its own objects take about 200 bytes per token."""
_MAX_PARAGRAPH_CHARS = SentencesConfig().max_paragraph_chars
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_HTML_BREAKS = re.compile(r"(?:<br\s*/?>\s*){2,}", re.IGNORECASE)
_STOPS = (". ", "。", "\n\n")
Place = tuple[int, int] | None
"""Which of a row's texts, 0 or 1, and a character of it; None: no text, but what parts texts."""


class TextEncoder:
    """Turns rows into token ids, and token ids into batches.

    Args:
        tokenizer_json: Tokenizer of any kind in the `tokenizers` format.
        max_len: Most tokens of an example, special tokens included; 5 or more. A single text keeps
            its head, of a pair the longer one is cut first.
        segments: What a pooling segment is: a whole text, its sentences, or its paragraphs;
            [CLS] and [SEP] are always segments of their own.
        language: Code of the language by whose rules sentences end.

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
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is four characters more
        self._space = space_between(self._tokenizer)
        self.info = tokenizer_facts(self._tokenizer, tokenizer_json)
        self.max_len = max_len
        self.segments, self.language = segments, language

    def encode(self, rows: Sequence[Row], source: str | Path) -> list[EncodedText]:
        """Return the token ids of rows; an empty second text means there is none.

        Raises:
            ValueError: A text has no token or is not Unicode; names source and line.
        """
        return list(self._encoded(rows, source))

    def encode_packed(self, rows: Sequence[Row], source: str | Path) -> PackedTexts:
        """Return the same as `encode` in a few arrays, for many texts; see there."""
        return PackedTexts(self._encoded(rows, source))

    @property
    def room(self) -> int:
        """Most tokens of a single text, without special tokens."""
        return self.max_len - 2

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each of some sentences becomes at most."""
        sizes = [1] * len(texts)
        for space in sorted({"", self._space}):  # the first of a document has none before it
            spaced = [space + text for text in texts]
            encodings = self._tokenizer.encode_batch_fast(spaced, add_special_tokens=False)
            sizes = [max(pair) for pair in zip(sizes, map(len, encodings), strict=True)]
        return sizes

    def batch(self, texts: Sequence[EncodedText]) -> EncoderBatch:
        """Return a batch padded to its longest text."""
        return assemble_batch(texts, pad_id=self.info.pad_id)

    def forget(self) -> None:
        """Let go of what batches of texts that were encoded before would need: there are none."""

    def characters(self, row: Row) -> list[Place]:
        """Return where every token of `encode([row])[0]` begins, the special ones too."""
        texts = (row.text, row.text_pair) if row.text_pair else (row.text,)
        begins = [
            _token_begins(text, self._tokenizer.encode(text, add_special_tokens=False).offsets)
            for text in texts
        ]
        num_text, num_pair = len(begins[0]), len(begins[1]) if row.text_pair else 0
        kept = shortened_lengths(num_text, num_pair, self.max_len - 1 - len(texts))
        places: list[Place] = [None]
        for number, (own, length) in enumerate(zip(begins, kept, strict=False)):
            places += [*((number, begin) for begin in own[:length]), None]
        return places

    def _encoded(self, rows: Sequence[Row], source: str | Path) -> Iterator[EncodedText]:
        for chunk in _chunks(rows):
            for row in chunk:
                encodable(row.text + row.text_pair, "text", place_of(source, row.line))
            yield from self._encode_chunk(chunk, source)

    def _encode_chunk(self, chunk: Sequence[Row], source: str | Path) -> Iterator[EncodedText]:
        """Yield the rows of a part of a split."""
        if chunk[0].tagged is not None:
            yield from self._encode_tagged([row.tagged for row in chunk if row.tagged])
            return
        first = self._tokens([row.text for row in chunk])
        second = self._tokens([row.text_pair for row in chunk])
        for row, text, pair in zip(chunk, first, second, strict=True):
            if not text.num_whole or (row.text_pair and not pair.num_whole):
                raise ValueError(
                    f"{place_of(source, row.line)}: a text has nothing that the tokenizer knows "
                    "as a character; take the row out"
                )
            yield self._assembled(text, pair)

    def _encode_tagged(self, texts: Sequence[TaggedText]) -> Iterator[EncodedText]:
        """Yield texts of words or sentences, each tokenised once by itself; unknown without pieces.

        Sentences are the segments, whatever the rule.
        """
        spaced = [self._spaced(text) for text in texts]
        words = list(dict.fromkeys(chain.from_iterable(spaced)))
        pieces = self._tokenizer.encode_batch_fast(words, add_special_tokens=False)
        ids_of = {w: e.ids or [self.info.unk_id] for w, e in zip(words, pieces, strict=True)}
        for text, own in zip(texts, spaced, strict=True):
            ids = [ids_of[word] for word in own]
            firsts = np.cumsum([0, *map(len, ids)])[:-1]
            flat, starts = [number for word in ids for number in word], NO_PLACES
            if text.unit == "sentence":
                starts = firsts.astype(np.int32)
            elif self.segments != "separators":
                begins = np.array([begin for begin, _ in text.offsets])
                segments = np.searchsorted(self._rule(text.text), begins, side="right")
                starts = firsts[np.diff(segments, prepend=-1) != 0].astype(np.int32)
            whole = self._assembled(_Tokens(flat, len(flat), starts), _Tokens([], 0, NO_PLACES))
            kept = firsts[firsts < self.room].astype(np.int32) + 1
            yield whole._replace(word_starts=kept)

    def _spaced(self, text: TaggedText) -> Sequence[str]:
        """Return the words, with the space before them where the tokenizer needs it."""
        ends = [0, *(end for _, end in text.offsets)]
        places = zip(text.words, text.offsets, ends, strict=False)
        return [self._space * (begin > end) + word for word, (begin, _), end in places]

    def _rule(self, text: str) -> Sequence[int]:
        """Return the characters at which the segments of a text begin."""
        if self.segments == "paragraphs":
            return paragraph_starts(text)
        return sentence_starts(text, language=self.language)

    def _tokens(self, texts: list[str]) -> Iterator["_Tokens"]:
        """Yield the tokens of each text; offsets are asked for only where a rule needs them."""
        if self.segments == "separators" or not any(texts):
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                yield _Tokens(encoding.ids[: self.max_len], len(encoding), NO_PLACES)
            return
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            starts = _token_starts(text, encoding.offsets[: self.max_len], self._rule(text))
            yield _Tokens(encoding.ids[: self.max_len], len(encoding), starts)

    def _assembled(self, text: "_Tokens", pair: "_Tokens") -> EncodedText:
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


class _Tokens(NamedTuple):
    """One text without special tokens; ids and starts reach as far as could be used."""

    ids: list[int]
    num_whole: int
    starts: Int32Array


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield runs of rows with about `_CHUNK_CHARS` characters."""
    begin, num_chars = 0, 0
    for end, row in enumerate(rows, 1):
        num_chars += len(row.text) + len(row.text_pair)
        if num_chars >= _CHUNK_CHARS or end == len(rows):
            yield rows[begin:end]
            begin, num_chars = end, 0


def _token_starts(
    text: str, offsets: Sequence[tuple[int, int]], starts: Sequence[int]
) -> Int32Array:
    """Return which tokens are the first of a piece of the text.

    A token belongs to the piece that holds its first character that is no space (a SentencePiece
    token begins with one); a piece without tokens vanishes.
    """
    grown = np.maximum.accumulate(np.array(_token_begins(text, offsets), dtype=np.int64))
    pieces = np.searchsorted(np.array(starts, dtype=np.int64), grown, side="right")
    return np.flatnonzero(np.diff(pieces, prepend=-1)).astype(np.int32)


def _token_begins(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the first character of every token that is no space."""
    return [
        next((place for place in range(begin, end) if not text[place].isspace()), end)
        for begin, end in offsets
    ]


def shortened_lengths(num_text: int, num_pair: int, room: int) -> tuple[int, int]:
    """Return how many tokens of text and pair to keep, `room` at most: the longer is cut first.

    Where both are cut and the room is odd, the longer keeps one more, of equal ones the second: as
    `longest_first` of the tokenizers library, by which exported models read pairs.
    """
    if num_text > num_pair:
        kept = min(num_pair, room // 2)
        return min(num_text, room - kept), kept
    kept = min(num_text, room // 2)
    return kept, min(num_pair, room - kept)


def sentence_starts(text: str, *, language: str = "en") -> list[int]:
    """Return where each sentence of a raw text begins: the first one at 0, an empty text has none.

    Two or more `<br />` in a row are the blank line of a web page (IMDb): a sentence begins there
    even where `data_prep.sentence_rules` sees none, as it does at blank lines by itself.
    """
    if not text:
        return []
    breaks = (found.start() for found in _HTML_BREAKS.finditer(text))
    return sorted({0, *_segmented(text, language), *breaks})


def paragraph_starts(text: str) -> list[int]:
    """Return where each paragraph begins: after every run of blank lines.

    Source: released PoNet code for Arxiv-11, which cuts at two line feeds.
    """
    ends = (found.end() for found in _BLANK_LINES.finditer(text))
    return sorted({0, *(end for end in ends if end < len(text))}) if text else []


def _segmented(text: str, language: str) -> list[int]:
    starts, begin = [], 0
    for part in cut_long(text, _MAX_PARAGRAPH_CHARS):  # the splitter's time grows with the square
        is_start = not begin or text.endswith(_STOPS, 0, begin)  # else cut within a sentence
        place = 0
        for sentence in segment(language, part):
            starts += [begin + place] if place or is_start else []
            place += len(sentence)
        begin += len(part)
    return starts
