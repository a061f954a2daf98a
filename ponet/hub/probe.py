"""Batches that a written model is compared with the live one on."""

import torch

from ponet.batch import EncoderBatch
from ponet.config import EncoderConfig
from ponet.hub.special_tokens import SpecialTokens
from ponet.segments import segments_from_separators


def probe_batch(
    config: EncoderConfig,
    special_tokens: SpecialTokens,
    *,
    shape: tuple[int, int],
    has_padding: bool = True,
) -> EncoderBatch:
    """Return pairs of random texts, whose segments are the texts between separators.

    Args:
        config: Gives the range of the ids, and the longest length, to which L is cut.
        special_tokens: Ids that delimit and pad.
        shape: (B, L).
        has_padding: Whether the first of several rows is shorter than the others.
    """
    rows, length = shape[0], min(shape[1], config.max_positions)
    generator = torch.Generator().manual_seed(rows * length)
    ids_BL = torch.randint(config.vocab_size, (rows, length), generator=generator)
    ids_BL[:, 0] = special_tokens.cls_token_id
    ids_BL[:, [length // 2, -1]] = special_tokens.sep_token_id
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    if has_padding and rows > 1:
        mask_BL[0, length * 2 // 3 :] = False
    ids_BL = ids_BL.masked_fill(~mask_BL, special_tokens.pad_token_id)
    special_BL = (ids_BL == special_tokens.cls_token_id) | (ids_BL == special_tokens.sep_token_id)
    types_BL = (torch.arange(length) > length // 2).long().expand(rows, -1)
    return EncoderBatch(
        input_ids=ids_BL,
        mask=mask_BL,
        token_type_ids=types_BL.clamp(max=config.type_vocab_size - 1).contiguous(),
        segment_ids=segments_from_separators(special_BL),
        special_mask=special_BL,
    )
