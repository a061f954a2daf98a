"""Sentences to token ids, by tokenising every distinct word once.

WordPiece after BERT's normaliser and pre-tokeniser treats the words of a text one by one, so the
ids of a text are the ids of its words, joined. Words repeat: a table from words to ids replaces
nearly all calls of the tokenizer and gives the same ids many times faster. Tokenizers for which
this does not hold are called on whole sentences instead.

Units are the pieces of UTF-8 that are treated one by one. A key holds all bytes of its unit and
their number: two units never share one, so that a hit in the table needs no further check.
Everything is done on whole blocks at once, never word by word. What is remembered is bounded:
`MAX_TABLE_WORDS` words and `MAX_OTHERS_BYTES` of long ones, and what one block adds. A full table
starts again, with the same ids. That is 20 MB after 100 MB of English text, and less than 300 MB
for any text. Letters: U units, S sentences, T tokens.
"""

from __future__ import annotations

import json
import re
import string
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.manifest import (
    BEGINS_WORD,
    SPECIAL_ROLES,
    SPECIAL_TOKENS,
    ShardError,
    TokenizerInfo,
    part_types,
)
from data_prep.word_table import Ints, Keys, WordTable

BLOCK_BYTES = 1 << 18
MAX_TABLE_WORDS = 500_000
MAX_OTHERS_BYTES = 8_000_000
MAX_KEY_BYTES = 23
_GAP, _RUN, _ALONE = 0, 1, 2
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
_BERT_NORMALIZER = {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}
_LOCAL_NORMALIZERS = {None, *"BertNormalizer Lowercase NFC NFD NFKC NFKD StripAccents".split()}
_LOCAL_PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation"}


def space_between(tokenizer: Any) -> str:
    """Return what the sentences of a text need before them, but for the first: a space or nothing.

    Byte-level BPE with `add_prefix_space: false`, as that of GPT-2 and RoBERTa, and Metaspace with
    `prepend_scheme: never` mark the beginning of a word by the space before it. A sentence that is
    encoded alone begins within a word to them, unless it has that space.

    Args:
        tokenizer: Of the `tokenizers` library.
    """
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if splitter is None:
        return ""
    texts = [normalizer.normalize_str(text) if normalizer else text for text in ("a", " a")]
    found = [splitter.pre_tokenize_str(text) for text in texts]
    alone, spaced = (pieces[0][0] if pieces else "" for pieces in found)
    marks = tuple(BEGINS_WORD.values())
    return " " if spaced.startswith(marks) and not alone.startswith(marks) else ""


def in_running_text(sentences: Sequence[str], space: str) -> list[str]:
    """Return the sentences of one text, each but the first with `space_between` before it."""
    return [*sentences[:1], *(space + sentence for sentence in sentences[1:])]


def is_word_local(tokenizer: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json treats the words between two spaces one by one."""
    extra = [t for t in tokenizer.get("added_tokens", []) if t["content"] not in SPECIAL_TOKENS]
    splits = part_types(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return (
        not extra
        and tokenizer["model"].get("type", "WordPiece") == "WordPiece"
        and part_types(tokenizer.get("normalizer"), "normalizers") <= _LOCAL_NORMALIZERS
        and splits <= _LOCAL_PRE_TOKENIZERS
        and bool(splits - {"Punctuation"})
    )


class UnitRule(NamedTuple):
    """Where units end, and whether their case matters."""

    isolates_punctuation: bool
    """Every ASCII punctuation character is a unit of its own, as `BertPreTokenizer` has it; else
    only spaces part units."""
    isolates_ideographs: bool
    """Every character from U+4E00 to U+9FFF is a unit of its own, as `handle_chinese_chars` has
    it."""
    lowercases: bool
    """ASCII capitals may be lowercased beforehand."""


def unit_rule(tokenizer: dict[str, Any]) -> UnitRule:
    """Return the finest rule that is exact for a word-local tokenizer.json.

    BERT's normaliser changes one character at a time, but for the decomposition of accents and
    their order behind one base character; it sets spaces around ideographs, and the pre-tokeniser
    isolates ASCII punctuation. So a space set beside such a character, or a lowercased ASCII
    letter, changes no id. Any other combination parts units at spaces only; so do special tokens
    that are not marked as special, which the library finds in ordinary text.
    """
    normalizer = tokenizer.get("normalizer") or {}
    is_bert = (
        normalizer.get("type") == "BertNormalizer"
        and set(normalizer) <= _BERT_NORMALIZER
        and tokenizer.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and all(token.get("special") is True for token in tokenizer.get("added_tokens", []))
    )
    ideographs = is_bert and normalizer.get("handle_chinese_chars") is True
    return UnitRule(is_bert, ideographs, is_bert and normalizer.get("lowercase") is True)


class Units(NamedTuple):
    """The units of a block of sentences."""

    text: bytes
    """The block, lowercased if the rule says so."""
    starts: Ints
    """(U,) first byte of each unit."""
    ends: Ints
    """(U,) byte after each unit."""
    keys: Keys
    """Equal keys are equal units, where the last third is not 0."""
    sentence_ends: Ints
    """(S,) number of units up to the end of each sentence."""


def cut_units(block: bytes, rule: UnitRule) -> Units:
    """Return the units of a block of sentences, and their keys.

    Args:
        block: UTF-8 of whole sentences, each ended by a line feed and without one inside.
        rule: Where units end.
    """
    text = block.lower() if rule.lowercases else block
    kinds = np.frombuffer(block.translate(_KINDS[rule.isolates_punctuation]), np.uint8)
    is_run = kinds == _RUN
    is_start, is_end = kinds == _ALONE, kinds == _ALONE
    is_start[0] |= is_run[0]
    is_start[1:] |= is_run[1:] & ~is_run[:-1]
    is_end[:-1] |= is_run[:-1] & ~is_run[1:]
    if rule.isolates_ideographs:
        first = _ideographs(block)
        is_start[first] = is_end[first + 2] = True
        is_start[first + 3] |= is_run[first + 3]
        before = first[first > 0] - 1
        is_end[before] |= is_run[before]
    starts, ends = np.flatnonzero(is_start), np.flatnonzero(is_end) + 1
    line_feeds = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    keys = _keys(text, starts, ends - starts)
    return Units(text, starts, ends, keys, np.searchsorted(starts, line_feeds))


def _ideographs(block: bytes) -> Ints:
    """Return the first byte of each of the three that spell a character of U+4E00 to U+9FFF."""
    data = np.frombuffer(block, np.uint8)
    first = np.flatnonzero((data >= 0xE4) & (data <= 0xE9))
    return first[(data[first] > 0xE4) | (data[first + 1] >= 0xB8)]


def _keys(text: bytes, starts: Ints, lens: Ints) -> Keys:
    padded = text + bytes(24)
    eight = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    keys = np.zeros((3, starts.size), np.uint64)
    low, middle, high = keys
    low[:] = eight[starts] & _MASKS[np.minimum(lens, 8)]
    high[:] = lens.astype(np.uint64) << np.uint64(56)
    longer = np.flatnonzero(lens > 8)
    middle[longer] = eight[starts[longer] + 8] & _MASKS[np.minimum(lens[longer] - 8, 8)]
    longer = longer[lens[longer] > 16]
    lens = lens[longer]
    rest = eight[starts[longer] + 16] & _MASKS[np.minimum(lens - 16, 7)]
    high[longer] = np.where(lens <= MAX_KEY_BYTES, high[longer] | rest, np.uint64(0))
    return keys


def _kinds(alone: str) -> bytes:
    """Return what every byte is, as a table of `bytes.translate`."""
    kinds = [_GAP if byte in b" \n" else _RUN for byte in range(256)]
    return bytes(_ALONE if chr(byte) in alone else kind for byte, kind in enumerate(kinds))


_KINDS = (_kinds(""), _kinds(string.punctuation))


class SentenceEncoder:
    """Token ids of sentences, equal to those of the tokenizer without special tokens."""

    def __init__(self, text: str, info: TokenizerInfo) -> None:
        """Load the tokenizer; special tokens spelled in a text are treated as text.

        Args:
            text: Content of a `tokenizer.json`.
            info: Its description.
        """
        from tokenizers import Tokenizer

        spelled_out = [names[1] for names in SPECIAL_ROLES.values()]
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._special_ids = [info.pad_id, info.cls_id, info.sep_id, info.mask_id]
        # To SentencePiece entries like others; [CLS] and its like are cleaned away before.
        names = [name for name in spelled_out if self._tokenizer.token_to_id(name) is not None]
        self._spelled = re.compile("|".join(names)) if names else None
        self.space = space_between(self._tokenizer)
        """What stands before every sentence of a document but the first; see there."""
        content = json.loads(text)
        self._is_word_local = is_word_local(content)
        self._rule = unit_rule(content)
        self._reset()

    @classmethod
    def from_file(cls, tokenizer_json: str | Path) -> SentenceEncoder:
        """Return the encoder of a `tokenizer.json`."""
        info = TokenizerInfo.from_file(tokenizer_json)
        return cls(Path(tokenizer_json).read_text(encoding="utf-8"), info)

    def _reset(self) -> None:
        self._table = WordTable()
        self._others: dict[bytes, int] = {}
        self._others_bytes = 0
        self._ids, self._starts, self._lens = array("q"), array("q"), array("q")

    def encode(self, sentences: Sequence[str]) -> tuple[Ints, Ints]:
        """Return the ids of all sentences as they stand, and the number of ids of each.

        Args:
            sentences: Any texts.

        Returns:
            tokens: (T,) int64.
            sentence_lens: (S,) int64, 0 where a sentence has no token; sum T.
        """
        joined = "\n".join(sentences)
        if not self._is_word_local or joined.count("\n") != len(sentences) - 1:
            return self._checked(self._id_lists(sentences))
        # A lone surrogate gets as far as the tokenizer, whose error names it.
        text = joined.encode("utf-8", "surrogatepass") + b"\n"
        found: list[tuple[Ints, Ints]] = []
        start = 0
        while start < len(text):
            end = text.find(b"\n", start + BLOCK_BYTES) + 1 or len(text)
            found.append(self._encode_block(text[start:end]))
            start = end
        tokens, lens = zip(*found, strict=True)
        return np.concatenate(tokens), np.concatenate(lens)

    def count_spelled(self, texts: Iterable[str]) -> int:
        """Return how often texts spell special tokens such as `<s>`: `encode` reads `< s>`."""
        return sum(map(len, map(self._spelled.findall, texts))) if self._spelled else 0

    def normalized(self, text: str) -> str:
        """Return a text as the tokenizer sees it before it is cut into pieces."""
        normalizer = self._tokenizer.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text

    def _encode_block(self, block: bytes) -> tuple[Ints, Ints]:
        """Return the ids of sentences that each end with a line feed, and their numbers."""
        if len(self._lens) > MAX_TABLE_WORDS or self._others_bytes > MAX_OTHERS_BYTES:
            self._reset()
        units = cut_units(block, self._rule)
        numbers = self._table.find(units.keys)
        self._learn(units, numbers)
        lens = np.frombuffer(self._lens, np.int64)[numbers]
        ends = np.cumsum(lens)
        source = np.repeat(np.frombuffer(self._starts, np.int64)[numbers] - ends + lens, lens)
        tokens = np.frombuffer(self._ids, np.int64)[source + np.arange(source.size)]
        token_ends = np.concatenate(([0], ends))[units.sentence_ends]
        return tokens, np.diff(token_ends, prepend=0)

    def _learn(self, units: Units, numbers: Ints) -> None:
        """Fill in the numbers of the units that the table does not have."""
        missing = np.flatnonzero(numbers < 0)
        if not missing.size:
            return
        borders = zip(units.starts[missing].tolist(), units.ends[missing].tolist(), strict=True)
        words = [units.text[start:end] for start, end in borders]
        others = self._others
        new = list(dict.fromkeys(word for word in words if word not in others))
        size = len(self._lens)
        self._remember(new)
        fresh = dict(zip(new, range(size, size + len(new)), strict=True))
        numbers[missing] = [fresh[word] if word in fresh else others[word] for word in words]
        _, first = np.unique(numbers[missing], return_index=True)
        first = missing[first[-len(new) :]] if new else missing[:0]
        is_placed = units.keys[2, first] != 0
        keyed = first[is_placed]
        is_placed[is_placed] = self._table.insert(units.keys[:, keyed], numbers[keyed])
        for index in np.flatnonzero(~is_placed).tolist():
            others[new[index]] = size + index
            self._others_bytes += len(new[index])

    def _remember(self, new: list[bytes]) -> None:
        """Store the ids of new units, in their order."""
        ids, lens = self._ids_of(new)
        starts = len(self._ids) + np.cumsum(lens) - lens
        for kept, values in ((self._starts, starts), (self._lens, lens), (self._ids, ids)):
            kept.frombytes(values.tobytes())

    def _ids_of(self, units: list[bytes]) -> tuple[Ints, Ints]:
        texts = [unit.decode("utf-8", "surrogatepass") for unit in units]
        if not self._rule.isolates_punctuation:
            return self._checked(self._id_lists(texts))
        # BERT's normaliser and pre-tokeniser leave lowercased ASCII letters and digits alone.
        tokenize = self._tokenizer.model.tokenize
        is_plain = [unit.isalnum() for unit in units]
        waiting = [text for text, plain in zip(texts, is_plain, strict=True) if not plain]
        others = iter(self._id_lists(waiting))
        lists = [
            [token.id for token in tokenize(text)] if plain else next(others)
            for text, plain in zip(texts, is_plain, strict=True)
        ]
        return self._checked(lists)

    def _id_lists(self, texts: Sequence[str]) -> list[list[int]]:
        if self._spelled is not None:
            texts = [self._spelled.sub(lambda match: f"< {match[0][1:]}", text) for text in texts]
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [item.ids for item in encoded]

    def _checked(self, lists: list[list[int]]) -> tuple[Ints, Ints]:
        """Return lists of ids as one array and their lengths; refuse ids of special tokens."""
        lens = np.fromiter(map(len, lists), np.int64, len(lists))
        ids = np.fromiter(chain.from_iterable(lists), np.int64, int(lens.sum()))
        found = np.isin(ids, self._special_ids)
        if found.any():
            raise ShardError(
                f"the tokenizer gives special id {int(ids[found][0])} to ordinary text; "
                "its pre-tokenizer must split brackets from words, as BERT's does."
            )
        return ids, lens
