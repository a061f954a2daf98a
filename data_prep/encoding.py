"""Sentences to token ids, by tokenising every distinct word once.

WordPiece after BERT's normaliser and pre-tokeniser treats the words between two spaces one by
one, so the ids of a text are the ids of its words, joined. Words repeat: a table from words to
ids replaces nearly all calls of the tokenizer and gives the same ids several times faster.
Tokenizers for which this does not hold are called on whole sentences instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.manifest import SPECIAL_TOKENS, ShardError, TokenizerInfo

MAX_TABLE_WORDS = 500_000
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


class _WordTable(dict[str, int]):
    """Numbers words in order of arrival and remembers the new ones."""

    def __init__(self) -> None:
        super().__init__({"\n": 0})
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        index = self[word] = len(self)
        self.new.append(word)
        return index


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
        self.word_local = is_word_local(json.loads(text))
        self._reset()

    def _reset(self) -> None:
        self._table = _WordTable()
        self._ids, self._starts, self._lens = _Growing(), _Growing(), _Growing()
        self._starts.extend(np.zeros(1, np.int64))
        self._lens.extend(np.zeros(1, np.int64))

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
        joined = " \n ".join(sentences)
        if not self.word_local or joined.count("\n") != len(sentences) - 1:
            return self._encode_whole(sentences)
        if len(self._table) > MAX_TABLE_WORDS:
            self._reset()
        words = joined.split(" ")
        numbers = np.fromiter(map(self._table.__getitem__, words), np.int64, len(words))
        self._learn_new_words()
        lens = self._lens.values[numbers]
        ends = np.cumsum(lens)
        total = int(ends[-1])
        source = np.repeat(self._starts.values[numbers] - ends + lens, lens)
        tokens = self._ids.values[source + np.arange(total)]
        borders = np.concatenate(([0], ends[numbers == 0], [total]))
        return tokens, np.diff(borders)

    def _learn_new_words(self) -> None:
        new, self._table.new = self._table.new, []
        if not new:
            return
        ids, lens = self._encode_whole(new)
        self._starts.extend(self._ids.size + np.cumsum(lens) - lens)
        self._lens.extend(lens)
        self._ids.extend(ids)

    def _encode_whole(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        lists = [item.ids for item in encoded]
        lens = np.fromiter(map(len, lists), np.int64, len(lists))
        ids = np.fromiter((i for item in lists for i in item), np.int64, int(lens.sum()))
        info = self._info
        special = [info.pad_id, info.cls_id, info.sep_id, info.mask_id]
        found = np.isin(ids, special)
        if found.any():
            raise ShardError(
                f"the tokenizer gives special id {int(ids[found][0])} to ordinary text; "
                "its pre-tokenizer must split brackets from words, as BERT's does."
            )
        return ids, lens
