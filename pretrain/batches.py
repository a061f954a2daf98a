"""Build whole batches from a memory-mapped token file with vectorised numpy.

Invariant: a batch is a pure function of its rows (places, lengths, label, example id) and the
configs; neighbours in the batch, workers and ranks do not matter. Shapes are always (B, max_len).

B batch, L positions, M slots (masked positions per sequence), E inner sentence starts.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_prep.shards import TokenShards
from pretrain.masking import BoolArray, Masker, MaskingConfig
from pretrain.randomness import IntArray

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """What a pooling segment is."""

    rule: Literal["sentence", "text", "fixed"] = "sentence"
    """`sentence`: every sentence is a segment (PoNet); `text`: text1 and text2 are one segment
    each; `fixed`: every `tokens_per_segment` tokens of a text. [CLS], each [SEP] and the padding
    are always segments of their own."""
    tokens_per_segment: int = 32
    """Length of a segment in tokens, at least 1; only for `rule: fixed`."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.tokens_per_segment < 1:
            raise ValueError(
                f"tokens_per_segment is {self.tokens_per_segment}; it must be at least 1."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The examples of a batch, as places in the token file."""

    a_start: IntArray
    """(B,) int64, first token of text1."""
    b_start: IntArray
    """(B,) int64, first token of text2."""
    a_len: IntArray
    """(B,) int64, tokens of text1."""
    b_len: IntArray
    """(B,) int64, tokens of text2."""
    label: IntArray
    """(B,) int64, pair label or -100."""
    example_id: IntArray
    """(B,) int64, sample number."""


class BatchBuilder:
    """Turns rows into tensors."""

    def __init__(
        self,
        shards: TokenShards,
        *,
        max_len: int,
        masking: MaskingConfig,
        segments: SegmentConfig,
        seed: int,
    ) -> None:
        """Prepare tables; reads no tokens.

        Args:
            shards: The split that the rows point into.
            max_len: Sequence length L, [CLS] and two [SEP] included.
            masking: Which tokens are predicted.
            segments: What a segment is.
            seed: Seed of the masks.
        """
        self._tokens = np.asarray(shards.tokens)
        self._sentence_offsets = np.asarray(shards.sentence_offsets)
        self._tokenizer = shards.manifest.tokenizer
        self._max_len = max_len
        self._segments = segments
        self._column_L = np.arange(max_len, dtype=np.int64)
        self._masker = Masker(
            masking,
            max_len=max_len,
            tokenizer=self._tokenizer,
            is_continuation_V=shards.is_continuation,
            seed=seed,
        )

    def build(self, rows: Rows) -> Batch:
        """Return the tensors of a batch.

        Returns:
            input_ids, token_type_ids, segment_ids (B, L) int64; mask, special_mask (B, L) bool;
            masked_positions, masked_labels (B, M) int64 (unused slots: 0 and -100); pair_labels,
            example_ids (B,) int64.
        """
        index = np.arange(rows.a_len.size)
        first_sep_B = rows.a_len + 1
        last_sep_B = first_sep_B + rows.b_len + 1
        mask_BL = self._column_L <= last_sep_B[:, None]
        second_BL = self._column_L > first_sep_B[:, None]
        special_BL = np.zeros_like(mask_BL)
        special_BL[:, 0] = True
        special_BL[index, first_sep_B] = True
        special_BL[index, last_sep_B] = True

        shift_BL = np.where(
            second_BL, (rows.b_start - first_sep_B - 1)[:, None], (rows.a_start - 1)[:, None]
        )
        shift_BL += self._column_L
        ids_BL = np.take(self._tokens, shift_BL, mode="clip").astype(np.int64)
        ids_BL[~mask_BL] = self._tokenizer.pad_id
        ids_BL[:, 0] = self._tokenizer.cls_id
        ids_BL[index, first_sep_B] = self._tokenizer.sep_id
        ids_BL[index, last_sep_B] = self._tokenizer.sep_id

        segment_BL = self._segment_ids(rows, first_sep_B, last_sep_B)
        second_BL &= mask_BL
        positions_BM, labels_BM = self._masker.mask(ids_BL, mask_BL & ~special_BL, rows.example_id)
        arrays = {
            "input_ids": ids_BL,
            "token_type_ids": second_BL.astype(np.int64),
            "segment_ids": segment_BL,
            "mask": mask_BL,
            "special_mask": special_BL,
            "masked_positions": positions_BM,
            "masked_labels": labels_BM,
            "pair_labels": rows.label,
            "example_ids": rows.example_id,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _segment_ids(self, rows: Rows, first_sep_B: IntArray, last_sep_B: IntArray) -> IntArray:
        """Return (B, L) int64 consecutive ids from 0 at [CLS].

        Every segment has a token or is the padding, which exists only in rows with fewer than L
        tokens; so all ids are below L without clipping.
        """
        starts_BL = np.zeros((rows.a_len.size, self._max_len + 1), np.int8)
        index = np.arange(rows.a_len.size)
        starts_BL[:, 1] = 1
        for column_B in (first_sep_B, first_sep_B + 1, last_sep_B, last_sep_B + 1):
            starts_BL[index, column_B] = 1
        if self._segments.rule == "sentence":
            self._mark_sentences(starts_BL, rows.a_start, rows.a_len, np.ones_like(first_sep_B))
            self._mark_sentences(starts_BL, rows.b_start, rows.b_len, first_sep_B + 1)
        elif self._segments.rule == "fixed":
            starts_BL[:, :-1] |= self._fixed_starts(first_sep_B, last_sep_B)
        return np.cumsum(starts_BL[:, :-1], axis=1, dtype=np.int64)

    def _mark_sentences(
        self,
        starts_BL: npt.NDArray[np.int8],
        start_B: IntArray,
        len_B: IntArray,
        column_B: IntArray,
    ) -> None:
        """Mark the sentences that start inside a text whose first token is at `column_B`."""
        low_B = np.searchsorted(self._sentence_offsets, start_B, side="right")
        high_B = np.searchsorted(self._sentence_offsets, start_B + len_B, side="left")
        count_B = high_B - low_B
        row_E = np.repeat(np.arange(len_B.size), count_B)
        if not row_E.size:
            return
        number_E = np.arange(row_E.size) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        place_E = self._sentence_offsets[low_B[row_E] + number_E]
        starts_BL[row_E, place_E - start_B[row_E] + column_B[row_E]] = 1

    def _fixed_starts(self, first_sep_B: IntArray, last_sep_B: IntArray) -> BoolArray:
        size = self._segments.tokens_per_segment
        one_BL = ((self._column_L - 1) % size == 0) & (self._column_L < first_sep_B[:, None])
        one_BL[:, 0] = False
        inside_BL = self._column_L - first_sep_B[:, None] - 1
        two_BL = (inside_BL >= 0) & (self._column_L < last_sep_B[:, None])
        starts_BL: BoolArray = one_BL | (two_BL & (inside_BL % size == 0))
        return starts_BL
