"""The one input type of every encoder. B batch, L tokens, T texts, P tokens of the longest."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def real_first(mask_BL: Tensor) -> Tensor:
    """Return int64 (B, L) that brings the marked tokens of each row to the front, in their order.

    Args:
        mask_BL: bool, True = to the front.
    """
    return mask_BL.logical_not().to(torch.uint8).argsort(dim=1, stable=True)


@dataclass(frozen=True)
class EncoderBatch:
    """Token ids with everything the encoders may know about them; all tensors are (B, L).

    Shapes and dtypes are always checked, values and the flags about them where they are on the
    CPU: elsewhere a look at values would make the device wait.
    """

    input_ids: Tensor
    """int64 (B, L), in [0, vocab_size)."""
    mask: Tensor
    """bool (B, L), True = real token, False = padding."""
    token_type_ids: Tensor
    """int64 (B, L), in [0, type_vocab_size)."""
    segment_ids: Tensor
    """int64 (B, L), in [0, L) everywhere: the pooling unit of each token; ignored at padding."""
    special_mask: Tensor
    """bool (B, L), True at tokens that only delimit text ([CLS], [SEP])."""
    segments_are_runs: bool = field(default=False, kw_only=True)
    """The tokens of each segment are adjacent; kernels may then skip the general path."""
    has_padding: bool = field(default=True, kw_only=True)
    """False: every token is real; attention then needs no mask."""
    word_features: Tensor | None = field(default=None, kw_only=True)
    """(W, N) or (W, M): features of the batch's distinct words, which input_ids then number, for
    encoders with a projection."""
    text_places: Tensor | None = field(default=None, kw_only=True)
    """int64 (T, P), for rows that hold several texts: where in the flattened (B * L) tokens those
    of each text are, and B * L behind its end; texts stand one after the other, padding at the very
    end. No text sees another then, and each has positions from 0. None: every row is a text. See
    `join_texts`."""

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        shape = self.input_ids.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"input_ids has shape {tuple(shape)}; (batch, tokens) is needed")
        for name, tensor in self.tensors().items():
            dtype = torch.bool if name.endswith("mask") else torch.int64
            if tensor.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} but input_ids has "
                    f"{tuple(shape)}; all tensors of a batch must agree"
                )
            if tensor.dtype != dtype:
                raise ValueError(
                    f"{name} is {tensor.dtype}; {dtype} is needed, "
                    f"convert it with .{'bool' if dtype is torch.bool else 'long'}()"
                )
        if self.segment_ids.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_segment_ids()
            self._check_flags()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by field name, without the flags."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name
            not in ("segments_are_runs", "has_padding", "word_features", "text_places")
        }

    @property
    def text_slots(self) -> Tensor:
        """int64 (B * L,), the inverse of text_places: text * P + position; 0 at padding."""
        assert self.text_places is not None
        num_tokens, places_TP = self.input_ids.numel(), self.text_places
        slots = torch.arange(places_TP.numel(), device=places_TP.device)
        found_N = places_TP.new_zeros(num_tokens + 1).scatter_(0, places_TP.flatten(), slots)
        return found_N[:num_tokens]

    def _check_segment_ids(self) -> None:
        """Refuse an id that would fall into another row's segments."""
        smallest, largest = (int(bound) for bound in torch.aminmax(self.segment_ids))
        limit = self.segment_ids.shape[1]
        if smallest < 0 or largest >= limit:
            raise ValueError(
                f"segment_ids range from {smallest} to {largest}; they must be in [0, {limit}), "
                "the number of tokens: number the segments of each row from 0"
            )

    def _check_flags(self) -> None:
        """Refuse a flag that the tensors contradict."""
        if not self.has_padding and not bool(self.mask.all()):
            raise ValueError(
                "has_padding=False given, but the mask has padding; leave the flag out"
            )
        if not self.segments_are_runs:
            return
        limit = self.segment_ids.shape[1]
        ids_BL = self.segment_ids.masked_fill(~self.mask, limit)
        starts_BL = self.mask.clone()
        starts_BL[:, 1:] &= ids_BL[:, 1:] != ids_BL[:, :-1]
        runs = ids_BL.new_zeros((len(ids_BL), limit + 1)).scatter_add_(1, ids_BL, starts_BL.long())
        if bool((runs > 1).any()):
            row, segment = (int(index) for index in (runs > 1).nonzero()[0])
            raise ValueError(
                f"segments_are_runs=True given, but the tokens of segment {segment} in row {row} "
                "are not adjacent; leave the flag out"
            )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "EncoderBatch":
        """Return the batch with every tensor on the device."""
        moved: dict[str, Any] = self.tensors()
        for name in ("word_features", "text_places"):
            if getattr(self, name) is not None:
                moved[name] = getattr(self, name)
        moved = {name: t.to(device, non_blocking=non_blocking) for name, t in moved.items()}
        return replace(self, **moved)


def join_texts(batch: EncoderBatch, *, num_tokens: int = 0) -> EncoderBatch:
    """Return the texts of a padded batch one after the other in a single row.

    Args:
        batch: A text of at least one token in every row, its padding behind it. For PoNet special
            tokens must delimit it, as everywhere here: its local windows end at them.
        num_tokens: Tokens of the row, padding at its end included; 0: the real tokens.

    Raises:
        ValueError: If the row is too short, or rows hold several texts already.
    """
    mask_TP = batch.mask
    num_real = int(mask_TP.sum())
    if batch.text_places is not None or 0 < num_tokens < num_real:
        raise ValueError(
            f"a row of {num_tokens} tokens was asked for {num_real} real ones in "
            f"{'joined' if batch.text_places is not None else 'padded'} rows; give padded rows, "
            "and 0 or as many tokens as are real"
        )
    missing = max(num_tokens, num_real) - num_real
    row_T1 = torch.arange(len(mask_TP), device=mask_TP.device)[:, None]
    keys_N = (batch.segment_ids + row_T1 * mask_TP.shape[1])[mask_TP]
    distinct = torch.unique_consecutive if batch.segments_are_runs else torch.unique
    joined: dict[str, Any] = {name: tensor[mask_TP] for name, tensor in batch.tensors().items()}
    joined["segment_ids"] = distinct(keys_N, return_inverse=True)[1]
    ends_TP = mask_TP.long().flatten().cumsum(0).view_as(mask_TP)
    joined = {name: F.pad(tensor, (0, missing))[None] for name, tensor in joined.items()}
    return replace(
        batch,
        **joined,
        has_padding=missing > 0,
        text_places=torch.where(mask_TP, ends_TP - 1, num_real + missing),
    )
