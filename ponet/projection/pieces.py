"""Text that was cut into word pieces once, as encoders of hashed words read it.

B rows, L pieces of a row, K words of the longest row, M places, V vocabulary, W distinct words.
Invariant: a batch of words depends on the batch of pieces alone, not on batches before it.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.projection.words import WordFeatures

CONTINUES = "##"
"""What a piece that continues a word begins with."""
MOST_KEPT = 2**17
"""Words whose features are kept; then they are forgotten and made anew."""


class PieceWords:
    """Makes batches of whole words of batches of word pieces.

    A word is a piece with all that continue it, spelled without their marks: so it has the
    features of the same word in any other text, as far as the tokenizer keeps its spelling.
    Delimiters at both ends of a row are left out; one between two texts is a word, as [MASK] is.

    Args:
        tokenizer: That of the pieces.
        config: Of an encoder with a projection.
    """

    def __init__(self, tokenizer: Any, config: EncoderConfig) -> None:
        assert config.projection is not None
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._pieces = [tokenizer.id_to_token(number) or "" for number in range(size)]
        self.continues_V = np.array(
            [piece.startswith(CONTINUES) and len(piece) > len(CONTINUES) for piece in self._pieces]
        )
        self.num_places = config.max_positions if config.fixed_places else 0
        self._features = WordFeatures(tokenizer, config.projection)

    def __call__(self, batch: EncoderBatch, places_BM: Tensor) -> tuple[EncoderBatch, Tensor]:
        """Return a batch of words, and where in it the words of some pieces are, (B, M).

        Token type and segment of a word are those of its first piece.

        Args:
            batch: Rows of pieces, each from the left.
            places_BM: int64 (B, M), in [0, L).
        """
        ids_BL, mask_BL = batch.input_ids.numpy(), batch.mask.numpy()
        delimits_BL = batch.special_mask.numpy()
        column_L = np.arange(ids_BL.shape[1])
        last_B1 = mask_BL.sum(1, keepdims=True) - 1
        text_BL = mask_BL & ~(delimits_BL & ((column_L == 0) | (column_L == last_B1)))
        text_BL[:, 0] |= ~text_BL.any(1)  # an empty text keeps its first delimiter
        first_BL = text_BL.copy()
        first_BL[:, 1:] &= ~(self.continues_V[ids_BL[:, 1:]] & (text_BL & ~delimits_BL)[:, :-1])
        number_BL = np.maximum(first_BL.cumsum(1) - 1, 0)
        counts_B = first_BL.sum(1)
        width = max(int(counts_B.max()), self.num_places)
        mask_BK = torch.arange(width) < torch.from_numpy(counts_B)[:, None]
        places, features = self._numbered(ids_BL[text_BL], first_BL[text_BL])

        def by_word(values: Tensor) -> Tensor:
            return torch.zeros(mask_BK.shape, dtype=torch.int64).masked_scatter_(mask_BK, values)

        starts = torch.from_numpy(first_BL)
        segments_BK = by_word(batch.segment_ids[starts])
        changes_BK = segments_BK.diff(dim=1, prepend=segments_BK[:, :1]) != 0
        words = EncoderBatch(
            input_ids=by_word(torch.from_numpy(places)),
            mask=mask_BK,
            token_type_ids=by_word(batch.token_type_ids[starts]),
            segment_ids=(changes_BK & mask_BK).cumsum(1),
            special_mask=torch.zeros_like(mask_BK),
            segments_are_runs=batch.segments_are_runs,
            has_padding=not bool(mask_BK.all()),
            word_features=features,
        )
        return words, torch.from_numpy(number_BL).gather(1, places_BM)

    def _numbered(
        self, ids: NDArray[np.int64], is_first: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Return the number of each word among the distinct ones, and the features of these."""
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(ids))
        numbers, joined = ids[starts].astype(np.int64), dict[tuple[int, ...], int]()
        for word in np.flatnonzero(ends - starts > 1).tolist():
            pieces = tuple(ids[starts[word] : ends[word]].tolist())
            numbers[word] = len(self._pieces) + joined.setdefault(pieces, len(joined))
        distinct, places = np.unique(numbers, return_inverse=True)
        spelled = [*self._pieces, *map(self._spelling, joined)]
        found = self._features([spelled[number] for number in distinct.tolist()])
        if self._features.num_known > MOST_KEPT:
            self._features.forget()
        return places.reshape(-1), torch.from_numpy(found.astype(np.int64, copy=False))

    def _spelling(self, pieces: tuple[int, ...]) -> str:
        first, *others = (self._pieces[piece] for piece in pieces)
        return first + "".join(piece.removeprefix(CONTINUES) for piece in others)
