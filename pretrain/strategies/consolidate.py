"""The whole of a model and its optimiser, where they are spread over ranks or files.

Invariant: the float32 master weights of a ZeRO folder, rounded to the precision of the run, equal
the weights that the engine used, value by value; otherwise nothing is returned.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from pretrain.strategies.fsdp import whole_tensor
from pretrain.strategies.zero import (
    MODEL_FILE,
    RUN_STATE,
    TAG,
    ZeroStrategy,
    partition_files,
    read_file,
)
from training.checkpoints.storage import CheckpointError, verify_checkpoint


def full_model_state(trainer: Trainer) -> dict[str, Tensor] | None:
    """The whole weights of the trained `PretrainingModel`, on the CPU; all ranks must call it.

    Works under every strategy of `configs/strategy/` and without any. Under ZeRO with bf16-mixed
    these are the float32 master weights, not the bfloat16 copies.

    Returns:
        The state dict of `pl_module.model` on rank 0, None on the other ranks.
    """
    model: Any = trainer.lightning_module.model
    masters = _zero_masters(model) if isinstance(trainer.strategy, ZeroStrategy) else {}
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        whole = masters[name] if name in masters else whole_tensor(value)
        if trainer.is_global_zero:
            state[name] = whole.clone()
    return state if trainer.is_global_zero else None


def _zero_masters(model: torch.nn.Module) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param

    found = {name: (p, safe_get_full_fp32_param(p)) for name, p in model.named_parameters()}
    return {
        name: value.detach().cpu().view(parameter.shape)
        for name, (parameter, value) in found.items()
        if value is not None
    }


def consolidate(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checkpoint as DDP would have saved it, and the weights that the engine used.

    Args:
        folder: A ZeRO checkpoint (stage 1 or 2); its hashes are checked first.

    Returns:
        The checkpoint, with float32 weights, and the engine's weights by the same names: float32,
        or bfloat16 where the run was bf16-mixed.

    Raises:
        CheckpointError: The folder is damaged, or its parts do not fit together.
        ValueError: It is not a ZeRO checkpoint.
    """
    verify_checkpoint(folder)
    parts = [read_file(file)["optimizer_state_dict"] for file in partition_files(folder)]
    stored = read_file(folder / TAG / MODEL_FILE)
    paddings = parts[0].get("param_alignment_paddings", ())  # deepspeed before 0.19.7 has none
    if any(padding for group in paddings for padding in group):
        raise ValueError(f"{folder}: weights padded one by one (parameter_alignment) are not read")
    shapes: list[Mapping[str, torch.Size]] = stored["param_shapes"]
    masters: dict[str, Tensor] = {}
    for number, group in enumerate(shapes):
        flat = torch.cat([part["single_partition_of_fp32_groups"][number] for part in parts])
        masters.update(_cut(flat.detach(), group, folder))
    used = {name: value.detach() for name, value in stored["module"].items()}
    # Compared by name; a weight that shares another's memory is stored once and found by it.
    wrong = [
        name
        for name, master in masters.items()
        if name not in used or not torch.equal(master.to(used[name].dtype), used[name])
    ]
    if wrong:
        names = ", ".join(sorted(wrong))
        raise CheckpointError(f"{folder}: the master weights are not those the model used: {names}")
    checkpoint = dict(stored[RUN_STATE])
    checkpoint["state_dict"] = {name: masters.get(name, used[name]) for name in used}
    checkpoint["optimizer_states"] = [_optimizer_state(parts, shapes, folder)]
    return checkpoint, used


def _cut(flat: Tensor, shapes: Mapping[str, torch.Size], folder: Path) -> dict[str, Tensor]:
    """Cut a flat vector into named tensors; what is left at its end is padding."""
    sizes = [shape.numel() for shape in shapes.values()]
    if flat.numel() < sum(sizes):
        raise CheckpointError(f"{folder}: {flat.numel()} values stored, {sum(sizes)} needed")
    pieces: tuple[Tensor, ...] = torch.split(flat[: sum(sizes)], sizes)
    return {
        name: piece.reshape(shape).clone()
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def _optimizer_state(
    parts: Sequence[Mapping[str, Any]], shapes: Sequence[Mapping[str, torch.Size]], folder: Path
) -> dict[str, Any]:
    """The optimiser's state as PyTorch numbers it: weights in order of the groups."""
    bases = [part["base_optimizer_state"] for part in parts]
    state: dict[int, dict[str, Any]] = {}
    groups = []
    for number, (group, settings) in enumerate(zip(shapes, bases[0]["param_groups"], strict=True)):
        first = len(state)
        flat = [base["state"].get(number, {}) for base in bases]
        moments = {
            key: _cut(torch.cat([values[key] for values in flat]), group, folder)
            for key, value in flat[0].items()
            if isinstance(value, Tensor) and value.ndim
        }
        scalars = {key: value for key, value in flat[0].items() if key not in moments}
        for index, name in enumerate(group, start=first):
            own = {k: v.clone() if isinstance(v, Tensor) else v for k, v in scalars.items()}
            state[index] = {key: pieces[name] for key, pieces in moments.items()} | own
        groups.append({**settings, "params": list(range(first, len(state)))})
    return {"state": state, "param_groups": groups}
