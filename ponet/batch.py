"""The one input type of every encoder. B batch, L tokens."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncoderBatch:
    """Token ids with everything the encoders may know about them; all tensors are (B, L).

    Shapes and dtypes are always checked, segment ids where they are on the CPU: elsewhere a look
    at values would make the device wait.

    Raises:
        ValueError: If a tensor has another shape, dtype or range than stated here.
    """

    input_ids: Tensor
    """int64 (B, L), in [0, vocab_size)."""
    mask: Tensor
    """bool (B, L), True = real token, False = padding."""
    token_type_ids: Tensor
    """int64 (B, L), in [0, type_vocab_size)."""
    segment_ids: Tensor
    """int64 (B, L), in [0, L): the pooling unit of each token. At padding they are ignored."""
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

        self._check_segment_ids()

    def _check_segment_ids(self) -> None:
        """Refuse an id that would fall into another row's segments."""
        if self.segment_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return
        smallest, largest = (int(bound) for bound in torch.aminmax(self.segment_ids))
        limit = self.segment_ids.shape[1]
        if smallest < 0 or largest >= limit:
            raise ValueError(
                f"segment_ids range from {smallest} to {largest}; they must be in [0, {limit}), "
                "the number of tokens: number the segments of each row from 0"
            )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "EncoderBatch":
        """Return the batch with every tensor on the device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=non_blocking)
            for field in fields(self)
        }
        return EncoderBatch(**moved)
