"""The one input type of every encoder. B batch, L tokens."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EncoderBatch:
    """Token ids with everything the encoders may know about them; all tensors are (B, L).

    Checks look at shapes and dtypes only, never at values, so they cost no device transfer.

    Raises:
        ValueError: If a tensor has another shape or dtype than stated here.
    """

    input_ids: Tensor
    """int64 (B, L), in [0, vocab_size)."""
    mask: Tensor
    """bool (B, L), True = real token, False = padding."""
    token_type_ids: Tensor
    """int64 (B, L), in [0, type_vocab_size)."""
    segment_ids: Tensor
    """int64 (B, L), in [0, L): the pooling unit of each token. Ids at padding are ignored."""
    special_mask: Tensor
    """bool (B, L), True at tokens that only delimit text ([CLS], [SEP])."""

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        shape = self.input_ids.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"input_ids has shape {tuple(shape)}; (batch, tokens) is needed")
        for field in fields(self):
            tensor = getattr(self, field.name)
            dtype = torch.bool if field.name.endswith("mask") else torch.int64
            if tensor.shape != shape:
                raise ValueError(
                    f"{field.name} has shape {tuple(tensor.shape)} but input_ids has "
                    f"{tuple(shape)}; all tensors of a batch must agree"
                )
            if tensor.dtype != dtype:
                raise ValueError(
                    f"{field.name} is {tensor.dtype}; {dtype} is needed, "
                    f"convert it with .{'bool' if dtype is torch.bool else 'long'}()"
                )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "EncoderBatch":
        """Return the batch with every tensor on the device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=non_blocking)
            for field in fields(self)
        }
        return EncoderBatch(**moved)
