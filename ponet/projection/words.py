"""Features of words from their pieces: what the collator of a hashed encoder calls.

W words, N hashes, M features. Invariant: the features of a word never depend on those beside it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ponet.config_fields import ProjectionConfig
from ponet.projection.bits import hash_bits, simhash_sums
from ponet.projection.minhash import fingerprints
from ponet.projection.spelling import attributes_of
from ponet.projection.ternary import ternary


class WordFeatures:
    """The features of any word under one tokenizer and projection; every word is computed once.

    What the vocabulary's pieces are hashed to is made anew for the first word, and not stored with
    a bundle: it takes 0.2 s for 30,522 pieces and 0.8 s for 119,547, and the smallest exact form
    (16-bit ranks of the minima, since the remainder comes after the minimum, and a row for every
    rank) would be 5 and 23 MB beside weights of one.

    Args:
        tokenizer: Splits a word into its pieces.
        config: The projection.
        table_VE: float (V, E) rows of the vocabulary for the kind "static"; else None.

    Raises:
        ValueError: A table is missing, superfluous or of another length than the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: ProjectionConfig,
        *,
        table_VE: NDArray[np.float32] | None = None,
    ) -> None:
        if (table_VE is not None) != (config.kind == "static"):
            raise ValueError(
                f"projection kind {config.kind!r} with{'' if table_VE is not None else 'out'} a "
                "table of vectors; static embeddings need one, the hashes take none"
            )
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if table_VE is not None and len(table_VE) != size:
            raise ValueError(
                f"the table has {len(table_VE)} rows and the vocabulary {size} entries; take both "
                "from one checkpoint"
            )
        self.config = config
        self._tokenizer = tokenizer
        self._static_VE = table_VE
        self._rows: dict[str, int] = {}
        self._known: list[NDArray[np.generic]] = []
        self._units: NDArray[np.generic] | None = None

    def __call__(self, words: Sequence[str]) -> NDArray[np.generic]:
        """Return (W, N) row numbers below M for kinds that are bags of rows, else (W, M) values.

        N is num_hashes, with "spelling" 26 times that. A row may be named more than once.

        A word of nothing but control characters has the features of the unknown piece.
        """
        new = [word for word in dict.fromkeys(words) if word not in self._rows]
        if new:
            self._known.extend(self._make(new))
            self._rows.update({word: len(self._rows) + number for number, word in enumerate(new)})
        return np.stack([self._known[self._rows[word]] for word in words])

    @property
    def num_known(self) -> int:
        """How many words are remembered."""
        return len(self._known)

    def forget(self) -> None:
        """Let go of the words seen so far, as whoever reads endless text must now and then."""
        self._rows, self._known = {}, []

    def pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Return the piece ids of every word, at least one each."""
        unknown = self._tokenizer.token_to_id("[UNK]") or 0
        found = self._tokenizer.encode_batch(list(words), add_special_tokens=False)
        return [encoding.ids or [unknown] for encoding in found]

    def _make(self, words: list[str]) -> NDArray[np.generic]:
        makers: dict[str, Callable[[list[str]], NDArray[np.generic]]] = {
            "minhash": self._minhash,
            "bloom": self._bloom,
            "spelling": self._spelling,
            "simhash": self._simhash,
            "binary": lambda words: self._whole(words, hash_bits),
            "ternary": lambda words: self._whole([word.lower() for word in words], ternary),
            "static": self._static,
        }
        return makers[self.config.kind](words)

    def _whole(
        self, words: list[str], function: Callable[[str, int], NDArray[np.generic]]
    ) -> NDArray[np.generic]:
        return np.stack([function(word, self.config.feature_size) for word in words])

    def _minhash(self, words: list[str]) -> NDArray[np.uint16 | np.int32]:
        """Minimum over the pieces first, remainder after it."""
        if self._units is None:
            self._units = self._fingerprints(self._vocabulary())
        mins = _by_word(np.minimum, self._units, self.pieces(words))
        return (mins % self.config.feature_size).astype(self._dtype())

    def _bloom(self, words: list[str]) -> NDArray[np.uint16 | np.int32]:
        """Rows by the whole spelling: words share a row by accident alone."""
        return self._whole_rows(words)

    def _spelling(self, words: list[str]) -> NDArray[np.uint16 | np.int32]:
        """Rows of every attribute of a word, one attribute behind another."""
        rows = self._whole_rows([value for word in words for value in attributes_of(word)])
        return rows.reshape(len(words), -1)

    def _whole_rows(self, texts: list[str]) -> NDArray[np.uint16 | np.int32]:
        """Rows of each text as a whole, (W, N): a continuation is hashed in one piece."""
        whole = self._fingerprints([f"##{text.replace('##', '')}" for text in texts])
        return (whole % self.config.feature_size).astype(self._dtype())

    def _simhash(self, words: list[str]) -> NDArray[np.int8]:
        if self._units is None:
            self._units = simhash_sums(self._vocabulary(), self.config.feature_size)
        return (_by_word(np.add, self._units, self.pieces(words)) > 0).astype(np.int8)

    def _static(self, words: list[str]) -> NDArray[np.float32]:
        assert self._static_VE is not None
        return np.stack([self._static_VE[ids].mean(0) for ids in self.pieces(words)])

    def _vocabulary(self) -> list[str]:
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return [self._tokenizer.id_to_token(number) or "" for number in range(size)]

    def _fingerprints(self, units: list[str]) -> NDArray[np.int32]:
        config = self.config
        return fingerprints(
            units, num_hashes=config.num_hashes, family=config.family, seed=config.seed
        )

    def _dtype(self) -> type[np.uint16] | type[np.int32]:
        return np.uint16 if self.config.feature_size <= 2**16 else np.int32


def _by_word(operation: np.ufunc, units: NDArray[Any], pieces: list[list[int]]) -> NDArray[Any]:
    """Combine the rows of each word's pieces."""
    starts = np.cumsum([0, *(len(ids) for ids in pieces)])[:-1]
    flat = np.array([number for ids in pieces for number in ids])
    combined: NDArray[Any] = operation.reduceat(units[flat], starts)
    return combined
