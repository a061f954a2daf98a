"""One ordinary checkpoint out of a ZeRO folder: whole weights and whole optimiser state.

Invariant: the float32 master weights, rounded to the precision of the run, equal the weights that
the engine used, value by value; otherwise nothing is returned.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.strategies.zero_files import (
    MODEL_FILE,
    RUN_STATE,
    TAG,
    partition_files,
    read_file,
    read_info,
)
from training.checkpoints.storage import CheckpointError, verify_checkpoint


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
    info, files = read_info(folder), partition_files(folder)
    if len(files) != info.world_size:
        raise CheckpointError(f"{folder} holds {len(files)} of {info.world_size} partitions")
    stored = read_file(folder / TAG / MODEL_FILE)
    parts = [read_file(file)["optimizer_state_dict"] for file in files]
    paddings = parts[0].get("param_alignment_paddings", ())  # deepspeed before 0.19.7 has none
    if any(padding for group in paddings for padding in group):
        raise ValueError(f"{folder}: weights padded one by one (parameter_alignment) are not read")
    shapes: list[Mapping[str, torch.Size]] = stored["param_shapes"]
    masters: dict[str, Tensor] = {}
    for number, group in enumerate(shapes):
        flat = torch.cat([part["single_partition_of_fp32_groups"][number] for part in parts])
        masters.update(_cut(flat.detach(), group, folder))
    used = {name: value.detach() for name, value in stored["module"].items()}
    _check_masters(masters, used, folder)
    checkpoint = dict(stored[RUN_STATE])
    checkpoint["state_dict"] = {name: masters.get(name, used[name]) for name in used}
    checkpoint["optimizer_states"] = [_optimizer_state(parts, shapes, folder)]
    return checkpoint, used


def _cut(flat: Tensor, shapes: Mapping[str, torch.Size], folder: Path) -> dict[str, Tensor]:
    """Cut a flat vector into named tensors; what is left at its end is padding."""
    needed = sum(shape.numel() for shape in shapes.values())
    if flat.numel() < needed:
        raise CheckpointError(f"{folder}: {flat.numel()} values stored, {needed} needed")
    pieces = flat[:needed].split([shape.numel() for shape in shapes.values()])
    return {
        name: piece.reshape(shape).clone()
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def _check_masters(masters: Mapping[str, Tensor], used: Mapping[str, Tensor], folder: Path) -> None:
    """Compare by name; a weight that shares another's memory is stored once and found by it."""
    unknown = sorted(masters.keys() - used.keys())
    if unknown:
        raise CheckpointError(f"{folder}: master weights without a weight: {', '.join(unknown)}")
    wrong = [
        name
        for name, master in masters.items()
        if not torch.equal(master.to(used[name].dtype), used[name])
    ]
    if wrong:
        raise CheckpointError(
            f"{folder}: the master weights are not those the model used: {', '.join(sorted(wrong))}"
        )


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
            state[index] = {key: pieces[name] for key, pieces in moments.items()}
            state[index] |= {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in scalars.items()
            }
        groups.append({**settings, "params": list(range(first, len(state)))})
    return {"state": state, "param_groups": groups}
