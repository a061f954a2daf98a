"""Sentences to token ids, by tokenising every distinct word once.

WordPiece after BERT's normaliser and pre-tokeniser treats the words of a text one by one, so the
ids of a text are the ids of its words, joined. Words repeat: a table from words to ids replaces
nearly all calls of the tokenizer and gives the same ids many times faster. Tokenizers for which
this does not hold are called on whole sentences instead.

What is remembered is bounded: `MAX_TABLE_WORDS` words and `MAX_OTHERS_BYTES` of long ones, and what
one block adds. A full table starts again, with the same ids. That is 20 MB after 100 MB of English
text, and less than 300 MB for any text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.manifest import SPECIAL_TOKENS, ShardError, TokenizerInfo
from data_prep.words import Units, WordTable, cut_units, unit_rule

BLOCK_BYTES = 1 << 18
MAX_TABLE_WORDS = 500_000
MAX_OTHERS_BYTES = 8_000_000
_LOCAL_NORMALIZERS = {None, "BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD"} | {
    "StripAccents"
}
_LOCAL_PRE_TOKENIZERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation"}

Ids = npt.NDArray[np.int64]


def is_word_local(tokenizer: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json treats the words between two spaces one by one."""
    extra = [t for t in tokenizer.get("added_tokens", []) if t["content"] not in SPECIAL_TOKENS]
    splits = _types(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return (
        not extra
        and tokenizer["model"].get("type", "WordPiece") == "WordPiece"
        and _types(tokenizer.get("normalizer"), "normalizers") <= _LOCAL_NORMALIZERS
        and splits <= _LOCAL_PRE_TOKENIZERS
        and bool(splits - {"Punctuation"})
    )


def _types(part: Any, children: str) -> set[str | None]:
    if part is None:
        return {None}
    if part.get("type") == "Sequence":
        found = [_types(child, children) for child in part.get(children, [])]
        return set().union(*found)
    return {part.get("type")}


class _Growing:
    """An int64 array that grows at its end in amortised constant time."""

    def __init__(self) -> None:
        self.size = 0
        self._data = np.zeros(1024, np.int64)

    def extend(self, values: npt.NDArray[Any]) -> None:
        needed = self.size + values.size
        if needed > self._data.size:
            grown = np.zeros(max(needed, 2 * self._data.size), np.int64)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : needed] = values
        self.size = needed

    @property
    def values(self) -> Ids:
        return self._data[: self.size]


class SentenceEncoder:
    """Token ids of sentences, equal to those of the tokenizer without special tokens."""

    def __init__(self, tokenizer_json: str | Path) -> None:
        """Load the tokenizer; special tokens spelled in a text are treated as text.

        Args:
            tokenizer_json: A `tokenizer.json` with a WordPiece model.
        """
        text = Path(tokenizer_json).read_text(encoding="utf-8")
        self._load(text, TokenizerInfo.from_file(tokenizer_json))

    @classmethod
    def from_text(cls, text: str, info: TokenizerInfo) -> SentenceEncoder:
        """Return the encoder of the content of a `tokenizer.json`."""
        encoder = cls.__new__(cls)
        encoder._load(text, info)
        return encoder

    def _load(self, text: str, info: TokenizerInfo) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._info = info
        content = json.loads(text)
        self.word_local = is_word_local(content)
        self._rule = unit_rule(content)
        self._reset()

    def _reset(self) -> None:
        self._table = WordTable()
        self._others: dict[bytes, int] = {}
        self._others_bytes = 0
        self._ids, self._starts, self._lens = _Growing(), _Growing(), _Growing()

    def encode(self, sentences: Sequence[str]) -> tuple[Ids, Ids]:
        """Return the ids of all sentences and the number of ids of each.

        Args:
            sentences: Any texts.

        Returns:
            tokens: (T,) int64.
            sentence_lens: (S,) int64, 0 where a sentence has no token; sum T.

        Raises:
            ShardError: The tokenizer gave the id of a special token to a text.
        """
        joined = "\n".join(sentences)
        if not self.word_local or joined.count("\n") != len(sentences) - 1:
            return self._encode_whole(sentences)
        # A lone surrogate gets as far as the tokenizer, whose error names it.
        text = joined.encode("utf-8", "surrogatepass") + b"\n"
        tokens: list[Ids] = []
        lens: list[Ids] = []
        start = 0
        while start < len(text):
            end = text.find(b"\n", start + BLOCK_BYTES) + 1 or len(text)
            found = self._encode_block(text[start:end])
            tokens.append(found[0])
            lens.append(found[1])
            start = end
        return np.concatenate(tokens), np.concatenate(lens)

    def normalized(self, text: str) -> str:
        """Return a text as the tokenizer sees it before it is cut into pieces."""
        normalizer = self._tokenizer.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text

    def _encode_block(self, block: bytes) -> tuple[Ids, Ids]:
        """Return the ids of sentences that each end with a line feed, and their numbers."""
        if self._lens.size > MAX_TABLE_WORDS or self._others_bytes > MAX_OTHERS_BYTES:
            self._reset()
        units = cut_units(block, self._rule)
        numbers = self._table.find(units.keys)
        self._learn(units, numbers)
        lens = self._lens.values[numbers]
        ends = np.cumsum(lens)
        source = np.repeat(self._starts.values[numbers] - ends + lens, lens)
        tokens = self._ids.values[source + np.arange(source.size)]
        token_ends = np.concatenate(([0], ends))[units.sentence_ends]
        return tokens, np.diff(token_ends, prepend=0)

    def _learn(self, units: Units, numbers: Ids) -> None:
        """Fill in the numbers of the units that the table does not have."""
        missing = np.flatnonzero(numbers < 0)
        if not missing.size:
            return
        borders = zip(units.starts[missing].tolist(), units.ends[missing].tolist(), strict=True)
        words = [units.text[start:end] for start, end in borders]
        others = self._others
        new = list(dict.fromkeys(word for word in words if word not in others))
        size = self._lens.size
        self._remember(new)
        fresh = dict(zip(new, range(size, size + len(new)), strict=True))
        numbers[missing] = [fresh[word] if word in fresh else others[word] for word in words]
        _, first = np.unique(numbers[missing], return_index=True)
        first = missing[first[-len(new) :]] if new else missing[:0]
        is_placed = units.keys[-1][first] != 0
        keyed = first[is_placed]
        low, middle, high = units.keys
        keys = (low[keyed], middle[keyed], high[keyed])
        is_placed[is_placed] = self._table.insert(keys, numbers[keyed])
        for index in np.flatnonzero(~is_placed).tolist():
            others[new[index]] = size + index
            self._others_bytes += len(new[index])

    def _remember(self, new: list[bytes]) -> None:
        """Store the ids of new units, in their order."""
        ids, lens = self._encode_units(new)
        self._starts.extend(self._ids.size + np.cumsum(lens) - lens)
        self._lens.extend(lens)
        self._ids.extend(ids)

    def _encode_units(self, units: list[bytes]) -> tuple[Ids, Ids]:
        texts = [unit.decode("utf-8", "surrogatepass") for unit in units]
        if not self._rule.isolates_punctuation:
            return self._encode_whole(texts)
        # BERT's normaliser and pre-tokeniser leave lowercased ASCII letters and digits alone.
        tokenize = self._tokenizer.model.tokenize
        lists = [
            [token.id for token in tokenize(text)] if unit.isalnum() else []
            for unit, text in zip(units, texts, strict=True)
        ]
        others = [index for index, unit in enumerate(units) if not unit.isalnum()]
        for index, ids in zip(others, self._id_lists([texts[i] for i in others]), strict=True):
            lists[index] = ids
        return self._checked(lists)

    def _encode_whole(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        return self._checked(self._id_lists(texts))

    def _id_lists(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [item.ids for item in encoded]

    def _checked(self, lists: list[list[int]]) -> tuple[Ids, Ids]:
        """Return lists of ids as one array and their lengths; refuse ids of special tokens."""
        lens = np.fromiter(map(len, lists), np.int64, len(lists))
        ids = np.fromiter(chain.from_iterable(lists), np.int64, int(lens.sum()))
        info = self._info
        special = [info.pad_id, info.cls_id, info.sep_id, info.mask_id]
        found = np.isin(ids, special)
        if found.any():
            raise ShardError(
                f"the tokenizer gives special id {int(ids[found][0])} to ordinary text; "
                "its pre-tokenizer must split brackets from words, as BERT's does."
            )
        return ids, lens
