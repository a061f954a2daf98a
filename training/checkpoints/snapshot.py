"""Tensors of a checkpoint: found, counted, and copied to memory that training never touches."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested mappings, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def tensor_bytes(value: object) -> int:
    """Return the size of all tensors in bytes; memory that several share counts once."""
    return sum(
        {
            _memory(tensor): tensor.untyped_storage().nbytes()
            for tensor in filter(_is_plain, tensors_in(value))
        }.values()
    )


def copy_to_cpu(content: Any) -> Any:
    """Return a deep copy with all tensors in CPU memory, as they are now.

    Tensors that share memory (tied weights) share it in the copy too, so that the file does not
    grow; `_metadata` of a state dict and the like are kept.
    """
    storages: dict[tuple[torch.device, int], torch.UntypedStorage] = {}
    copies = {id(tensor): _copied(tensor, storages) for tensor in tensors_in(content)}
    return copy.deepcopy(content, copies)


def _memory(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing more than a view of its memory."""
    odd = tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return tensor.layout == torch.strided and not odd


def _copied(
    tensor: Tensor, storages: dict[tuple[torch.device, int], torch.UntypedStorage]
) -> Tensor:
    tensor = tensor.detach()
    if not _is_plain(tensor):
        return tensor.clone().cpu()
    memory = _memory(tensor)
    if memory not in storages:
        source = tensor.untyped_storage()
        storages[memory] = torch.UntypedStorage(source.nbytes()).copy_(source)  # type: ignore[no-untyped-call]
    view = torch.empty(0, dtype=tensor.dtype)
    view.set_(storages[memory], tensor.storage_offset(), tensor.size(), tensor.stride())
    return view
