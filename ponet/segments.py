"""Segment ids from what is known about boundaries. B batch, L tokens.

Every function returns int64 ids in [0, L) that grow from left to right.
"""

import torch
from torch import Tensor


def segments_from_starts(starts_BL: Tensor) -> Tensor:
    """Return ids where each True begins a new segment; the first token always does.

    Args:
        starts_BL: bool, True at the first token of a sentence, paragraph or delimiter.
    """
    starts_BL = starts_BL.clone()
    starts_BL[:, 0] = False
    return starts_BL.long().cumsum(1)


def segments_from_separators(special_mask_BL: Tensor) -> Tensor:
    """Return ids where every separator is a segment and so is every text between separators.

    [CLS] A [SEP] B [SEP] gives 0, 1, 2, 3, 4; whatever follows the last separator gets the next id.

    Args:
        special_mask_BL: bool, True at [CLS] and [SEP].

    Source:
        Released PoNet code, get_segment_index: its default when no segments are given.
    """
    follows_BL = torch.zeros_like(special_mask_BL)
    follows_BL[:, 1:] = special_mask_BL[:, :-1]
    return segments_from_starts(special_mask_BL | follows_BL)


def segments_from_count(num_rows: int, num_tokens: int, *, num_segments: int) -> Tensor:
    """Return ids of about num_segments runs of equal length for each of num_rows rows.

    Args:
        num_rows: B.
        num_tokens: L.
        num_segments: Wanted number, >= 1. The run length is L // num_segments + 1, so there may
            be fewer segments than asked for.

    Raises:
        ValueError: If num_segments is below 1.

    Source:
        Released PoNet code for Long Range Arena.
    """
    if num_segments < 1:
        raise ValueError(f"num_segments={num_segments} given; 1 or more is needed")
    ids_L = torch.arange(num_tokens) // (num_tokens // num_segments + 1)
    return ids_L.expand(num_rows, -1)
