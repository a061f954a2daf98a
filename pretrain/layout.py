"""Where tokens of examples stand in rows: [CLS], text 1, [SEP], text 2, [SEP], padding."""

from typing import NamedTuple

import numpy as np

from data_prep.shards import TokenShards
from pretrain.randomness import BoolArray, IntArray


class Layout(NamedTuple):
    """Rows of examples; B rows, L places."""

    ids_BL: IntArray
    """Token ids, int64."""
    mask_BL: BoolArray
    """True where a token stands."""
    second_BL: BoolArray
    """True behind the first [SEP]."""
    special_BL: BoolArray
    """True at [CLS] and both [SEP]."""
    first_sep_B: IntArray
    """Place of the first [SEP], int64."""
    last_sep_B: IntArray
    """Place of the second."""

    @property
    def text_BL(self) -> BoolArray:
        """True at the tokens of the two texts."""
        return self.mask_BL & ~self.special_BL


def lay_out(shards: TokenShards, rows: dict[str, IntArray], *, max_len: int) -> Layout:
    """Return the rows of examples.

    Args:
        shards: Hold their tokens.
        rows: The columns of `Examples`, (B,) int64 each.
        max_len: L; what is longer does not occur.
    """
    column_L = np.arange(max_len, dtype=np.int64)
    first_sep_B = rows["a_len"] + 1
    last_sep_B = first_sep_B + rows["b_len"] + 1
    index = np.arange(first_sep_B.size)
    mask_BL = column_L <= last_sep_B[:, None]
    second_BL = column_L > first_sep_B[:, None]
    special_BL = np.zeros_like(mask_BL)
    special_BL[:, 0] = True
    special_BL[index, first_sep_B] = True
    special_BL[index, last_sep_B] = True

    shift_BL = np.where(
        second_BL, (rows["b_start"] - first_sep_B - 1)[:, None], (rows["a_start"] - 1)[:, None]
    )
    shift_BL += column_L
    tokenizer = shards.manifest.tokenizer
    ids_BL = np.take(np.asarray(shards.tokens), shift_BL, mode="clip").astype(np.int64)
    ids_BL[~mask_BL] = tokenizer.pad_id
    ids_BL[:, 0] = tokenizer.cls_id
    ids_BL[index, first_sep_B] = tokenizer.sep_id
    ids_BL[index, last_sep_B] = tokenizer.sep_id
    return Layout(ids_BL, mask_BL, second_BL, special_BL, first_sep_B, last_sep_B)
