"""Plain references, the published PoNet formulas token by token, and checks of any encoder."""

import torch
from torch import Tensor

from ponet import EncoderBatch, PoNetConfig
from ponet.batch import join_texts


def make_batch(lengths=(12, 9, 4), *, num_tokens=12, vocab_size=40, seed=0) -> EncoderBatch:
    """Random rows with [CLS] = 1 first, [SEP] = 2 in the middle and at the end, 0 = padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), num_tokens)
    mask = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    input_ids = torch.randint(5, vocab_size, shape, generator=generator)
    for row, length in enumerate(lengths):
        input_ids[row, [0, length // 2, length - 1]] = torch.tensor([1, 2, 2])
    input_ids = input_ids.masked_fill(~mask, 0)
    special_mask = (input_ids == 1) | (input_ids == 2)
    starts = special_mask | special_mask.roll(1, 1)
    starts |= torch.rand(shape, generator=generator) < 0.3
    segment_ids = starts.long().cumsum(1) - 1
    return EncoderBatch(
        input_ids=input_ids,
        mask=mask,
        token_type_ids=(torch.arange(num_tokens) > num_tokens // 2).long().expand(shape).clone(),
        segment_ids=segment_ids.masked_fill(~mask, 0),
        special_mask=special_mask,
    )


def segment_max_reference(x_LD: Tensor, segment_ids_L: Tensor, mask_L: Tensor) -> Tensor:
    """One row, a Python loop over tokens; amax shares the gradient evenly among ties."""
    rows = []
    for n in range(len(x_LD)):
        members = mask_L & (segment_ids_L == segment_ids_L[n])
        rows.append(x_LD[members].amax(0) if mask_L[n] else x_LD[n] * 0)
    return torch.stack(rows)


def local_max_reference(x_LD: Tensor, allowed_L: Tensor, window: int) -> Tensor:
    """One row, a Python loop over tokens and neighbours; the first maximum wins."""
    reach, rows = window // 2, []
    for n in range(len(x_LD)):
        best = None
        for m in range(max(0, n - reach), min(len(x_LD), n + reach + 1)):
            if allowed_L[m]:
                best = x_LD[m] if best is None else torch.where(x_LD[m] > best, x_LD[m], best)
        rows.append(best if allowed_L[n] else x_LD[n] * 0)
    return torch.stack(rows)


def global_pool_reference(mixer, x_LD: Tensor, mask_L: Tensor) -> Tensor:
    """Unfolded: a query, key and value for every token, as the paper writes it."""
    query_D = mixer.query(x_LD)[mask_L].mean(0)
    if mixer.config.global_pool == "mean":
        return query_D
    keys_LD = mixer.key(x_LD)[mask_L]
    heads = []
    size = len(query_D) // mixer.config.num_heads
    for start in range(0, len(query_D), size):
        part = slice(start, start + size)
        scores_L = keys_LD[:, part] @ query_D[part] / size**0.5
        heads.append(scores_L.softmax(0) @ keys_LD[:, part])
    return torch.cat(heads)


def pools_reference(mixer, x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
    """The fused pools of a mixer before its output projection; every switch is honoured."""
    config: PoNetConfig = mixer.config
    rows = []
    for row, x_LD in enumerate(x_BLD):
        mask_L = batch.mask[row]
        if not mask_L.any():
            rows.append(x_LD * 0)
            continue
        special_L = batch.special_mask[row] & config.guard_special_tokens
        shared = torch.zeros_like(x_LD)
        if config.global_pool != "none":
            shared = shared + global_pool_reference(mixer, x_LD, mask_L)
        if config.use_segment_pool:
            pooled = segment_max_reference(mixer.segment(x_LD), batch.segment_ids[row], mask_L)
            shared = shared + pooled * ~special_L[:, None]
        if mixer.uses_gate:
            shared = shared * mixer.gate(x_LD)
        if config.use_local_pool:
            allowed_L = mask_L & ~special_L
            shared = shared + local_max_reference(mixer.local(x_LD), allowed_L, config.local_window)
        rows.append(shared * mask_L[:, None])
    return torch.stack(rows)


def assert_texts_stand_alone(encoder, batch) -> None:
    """Padding, the texts beside it and rows that texts share change nothing for a text."""
    together = encoder(batch)
    joined = encoder(join_texts(batch, num_tokens=int(batch.mask.sum()) + 3))
    assert encoder.keeps_texts_apart
    real = joined[0, : int(batch.mask.sum())]
    torch.testing.assert_close(real, together[batch.mask], atol=1e-9, rtol=0)
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        part = {name: t[row : row + 1, :length] for name, t in batch.tensors().items()}
        alone = encoder(EncoderBatch(**part, has_padding=False))
        torch.testing.assert_close(alone[0], together[row, :length], atol=1e-9, rtol=0)


def assert_read_in_places(encoder, batch, places: list[list[int]]) -> None:
    """A last block that is computed at some places of every row is the same there."""
    whole, found = encoder(batch), encoder(batch, torch.tensor(places))
    for row, of_row in enumerate(places):
        torch.testing.assert_close(found[row], whole[row, of_row], atol=1e-9, rtol=0)
