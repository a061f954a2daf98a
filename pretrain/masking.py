"""Choose the tokens to predict, and what stands in their place.

Invariant: masks are a pure function of (key, example id, tokens), and every example has the same
number of slots, so shapes never change. Special tokens and padding are never chosen.

B batch, L positions, M slots (masked positions per sequence), W words (W <= L).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.manifest import TokenizerInfo
from pretrain.objectives import IGNORED_LABEL
from pretrain.packing import NUM_SPECIAL
from pretrain.randomness import (
    LAST,
    BoolArray,
    IntArray,
    UintArray,
    derive_key,
    random_below,
    random_bits,
    two_uniforms,
)

_POSITION_BITS = np.uint64(0xFFFF)


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which tokens are predicted and how they are hidden."""

    mask_prob: float = 0.15
    """Share of the maskable tokens of an example that is predicted, in (0, 1). BERT, sec. 3.1."""
    replace_prob: float = 0.8
    """Share of the predicted tokens shown as [MASK], in [0, 1]. BERT, sec. 3.1."""
    random_prob: float = 0.1
    """Share of the predicted tokens shown as a random other piece, in [0, 1]; the rest is shown
    unchanged. BERT, sec. 3.1."""
    whole_word: bool = False
    """Choose whole words (all pieces or none), in random order while they fit into the number of
    predicted tokens; only a word that alone exceeds that number is masked in part."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.0 < self.mask_prob < 1.0:
            raise ValueError(f"mask_prob is {self.mask_prob}; it must be above 0 and below 1.")
        for name in ("replace_prob", "random_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1].")
        if self.replace_prob + self.random_prob > 1.0 + 1e-9:
            raise ValueError(
                f"replace_prob {self.replace_prob} and random_prob {self.random_prob} add up to "
                "more than 1; the rest of the predicted tokens is shown unchanged."
            )

    def num_slots(self, max_len: int) -> int:
        """Return M, the number of masked positions every sequence of that length carries."""
        return max(1, int(self.mask_prob * (max_len - NUM_SPECIAL) + 0.5))

    def most_masked(self, num_texts: int, num_tokens: int) -> int:
        """Return how many positions texts of that many tokens together carry at most."""
        return int(self.mask_prob * max(0, num_tokens - NUM_SPECIAL * num_texts)) + num_texts


class Choice(NamedTuple):
    """Tokens of a batch that may be hidden."""

    maskable_BL: BoolArray
    """True at each of them, (B, L)."""
    wanted_B: IntArray
    """How many of each row are hidden, (B,) int64."""


class Masker:
    """Masks whole batches."""

    def __init__(
        self,
        config: MaskingConfig,
        *,
        max_len: int,
        tokenizer: TokenizerInfo,
        is_continuation_V: BoolArray,
        seed: int,
        single_pieces: bool = False,
    ) -> None:
        """Prepare the tables.

        Args:
            config: What is hidden and how.
            max_len: L.
            tokenizer: Its special tokens are never hidden.
            is_continuation_V: The pieces that continue a word.
            seed: Of the masks.
            single_pieces: Hide only words that are one piece, and show only such words in their
                place: what encoders of whole words guess among the vocabulary.
        """
        self.config = config
        self.num_slots = config.num_slots(max_len)
        self._mask_id = tokenizer.mask_id
        self._is_special_V = np.zeros(tokenizer.vocab_size, np.bool_)
        for name in ("pad", "unk", "cls", "sep", "mask"):
            self._is_special_V[getattr(tokenizer, f"{name}_id")] = True
        self._single_pieces = single_pieces
        is_shown_V = ~(self._is_special_V | (is_continuation_V & single_pieces))
        self._ordinary_ids = np.flatnonzero(is_shown_V)
        if not self._ordinary_ids.size:
            raise ValueError("the vocabulary holds special tokens only; train a larger tokenizer.")
        self._is_continuation_V = is_continuation_V
        self._place_key = derive_key(seed, "masked places")
        self._fate_key = derive_key(seed, "masked fates")
        self._column_L = np.arange(max_len, dtype=np.uint64)

    def choice(self, ids_BL: IntArray, text_BL: BoolArray) -> Choice:
        """Return what may be hidden, and how many of each row are; of whole words at most so many.

        Args:
            ids_BL: (B, L) int64, token ids as they stand in the text.
            text_BL: (B, L) bool, True at tokens of the two texts.
        """
        maskable_BL = text_BL & ~self._is_special_V[ids_BL]
        if self._single_pieces:
            continues_BL = self._is_continuation_V[ids_BL] & text_BL
            maskable_BL &= ~continues_BL
            maskable_BL[:, :-1] &= ~continues_BL[:, 1:]
        count_B = maskable_BL.sum(1)
        wanted_B = np.floor(self.config.mask_prob * count_B + 0.5).astype(np.int64)
        return Choice(maskable_BL, np.minimum(np.maximum(wanted_B, 1), count_B))

    def mask(
        self, ids_BL: IntArray, text_BL: BoolArray, example_ids_B: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Hide tokens of `ids_BL` in place; return the positions and the hidden ids.

        Args:
            ids_BL: (B, L) int64, token ids.
            text_BL: (B, L) bool, True at tokens of the two texts.
            example_ids_B: (B,) int64, sample numbers; they decide the masks.

        Returns:
            (B, M) int64 positions in ascending order and (B, M) int64 labels; unused slots come
            last, with position 0 and label -100.
        """
        maskable_BL, wanted_B = choice = self.choice(ids_BL, text_BL)
        if self.config.whole_word:
            chosen_BL = self._chosen_words(ids_BL, choice, example_ids_B)
            places_BM = self._lowest(np.where(chosen_BL, self._column_L, LAST))
        else:
            # The places of the `wanted_B` smallest random numbers among the maskable.
            bits_BL = self._place_bits(example_ids_B)
            bits_BL = (bits_BL & ~_POSITION_BITS) | self._column_L
            places_BM = self._lowest(np.where(maskable_BL, bits_BL, LAST)) & _POSITION_BITS
            places_BM[np.arange(self.num_slots) >= wanted_B[:, None]] = LAST
            places_BM.sort(axis=1)
        used_BM = places_BM != LAST
        positions_BM = np.where(used_BM, places_BM, 0).astype(np.int64)
        hidden_BM = np.take_along_axis(ids_BL, positions_BM, 1)
        labels_BM = np.where(used_BM, hidden_BM, np.int64(IGNORED_LABEL))
        self._hide(ids_BL, positions_BM, used_BM, example_ids_B)
        return positions_BM, labels_BM

    def num_hidden(self, ids_BL: IntArray, text_BL: BoolArray, example_ids_B: IntArray) -> int:
        """Return how many tokens `mask` hides of the same arguments, which it does not change."""
        choice = self.choice(ids_BL, text_BL)
        if not self.config.whole_word:
            return int(choice.wanted_B.sum())
        return int(self._chosen_words(ids_BL, choice, example_ids_B).sum())

    def _chosen_words(self, ids_BL: IntArray, choice: Choice, example_ids_B: IntArray) -> BoolArray:
        continues_BL = self._is_continuation_V[ids_BL]
        bits_BL = self._place_bits(example_ids_B)
        return choose_words(bits_BL, choice.maskable_BL, continues_BL, choice.wanted_B)

    def _place_bits(self, example_ids_B: IntArray) -> UintArray:
        key_B1 = random_bits(self._place_key, example_ids_B)[:, None]
        return random_bits(key_B1, self._column_L)

    def _lowest(self, numbers_BL: UintArray) -> UintArray:
        """Return the M smallest numbers of each row, ascending."""
        lowest_BM = np.partition(numbers_BL, self.num_slots - 1, axis=1)[:, : self.num_slots]
        lowest_BM.sort(axis=1)
        return lowest_BM

    def _hide(
        self, ids_BL: IntArray, positions_BM: IntArray, used_BM: BoolArray, example_ids_B: IntArray
    ) -> None:
        row, slot = np.nonzero(used_BM)
        place = positions_BM[row, slot]
        bits = random_bits(random_bits(self._fate_key, example_ids_B)[row], place)
        fate, which = two_uniforms(bits)
        other = self._ordinary_ids[random_below(which, self._ordinary_ids.size)]
        shown = np.where(fate < self.config.replace_prob, self._mask_id, other)
        kept = fate >= self.config.replace_prob + self.config.random_prob
        ids_BL[row, place] = np.where(kept, ids_BL[row, place], shown)


def choose_words(
    bits_BL: npt.NDArray[Any],
    maskable_BL: BoolArray,
    continuation_BL: BoolArray,
    wanted_B: IntArray,
) -> BoolArray:
    """Return (B, L) bool, True at the pieces of randomly chosen whole words.

    Words are taken in random order; one that does not fit into what is left of `wanted_B` is passed
    over. If not a single word fits, the first `wanted_B` pieces of the first word are taken.

    Args:
        bits_BL: (B, L) uint64 random numbers.
        maskable_BL: (B, L) bool; a word never extends over a place that is not maskable.
        continuation_BL: (B, L) bool, True where the piece continues the word before it.
        wanted_B: (B,) int64, the largest number of pieces to take, at most the maskable ones.
    """
    rows, width = maskable_BL.shape
    joined_BL = np.zeros_like(maskable_BL)
    joined_BL[:, 1:] = continuation_BL[:, 1:] & maskable_BL[:, :-1]
    word_BL = np.maximum(np.cumsum(maskable_BL & ~joined_BL, axis=1) - 1, 0)
    flat = (word_BL + np.arange(rows)[:, None] * width)[maskable_BL]
    size_BW = np.bincount(flat, minlength=rows * width).reshape(rows, width)
    order_BW = np.argsort(np.where(size_BW > 0, bits_BL, LAST), axis=1)
    size_BW = np.take_along_axis(size_BW, order_BW, 1)
    real_BW = size_BW > 0
    sum_BW = np.cumsum(size_BW, axis=1)
    taken_BW = real_BW & (sum_BW <= wanted_B[:, None])
    left_B = wanted_B - np.where(taken_BW, size_BW, 0).sum(1)
    while True:
        fits_BW = real_BW & ~taken_BW & (size_BW <= left_B[:, None])
        row = np.flatnonzero(fits_BW.any(1))
        if not row.size:
            break
        first = fits_BW[row].argmax(1)
        taken_BW[row, first] = True
        left_B[row] -= size_BW[row, first]
    taken_BW[:, 0] |= real_BW[:, 0] & ~taken_BW.any(1)
    chosen_BW = np.zeros_like(taken_BW)
    np.put_along_axis(chosen_BW, order_BW, taken_BW, 1)
    chosen_BL = np.take_along_axis(chosen_BW, word_BL, 1) & maskable_BL
    return chosen_BL & (np.cumsum(chosen_BL, axis=1) <= wanted_B[:, None])
