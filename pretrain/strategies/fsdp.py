"""Fully sharded data parallelism (FSDP2): weights, gradients and optimiser state over all devices.

Invariant: a checkpoint is the ordinary one, numbered and named as under DDP, so that it
resumes on any number of devices and under either strategy.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.strategies.strategy import Strategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from ponet import PretrainingModel
from training.ranks import RunStrategy, full_tensor


class FsdpStrategy(RunStrategy, ModelParallelStrategy):
    """Shards every encoder block by itself and the rest of the model as one unit.

    Under bf16-mixed the weights stay float32 and autocast chooses the operations, as under DDP.

    Args:
        timeout_minutes: How long a collective operation may wait for the other ranks.
    """

    def __init__(self, *, timeout_minutes: float = 30.0) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def setup_environment(self) -> None:
        """Join the other ranks; all of them are one data-parallel group, over all nodes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Shard the model, then build the optimiser over the sharded weights."""
        assert self.model is not None and self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if not any(isinstance(p, DTensor) for p in self.model.parameters()):
            model: Any = self.model.model
            shard_model(model, self.device_mesh["data_parallel"])
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    # --- checkpoints: whole tensors in the file, shards in memory ----------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: `load_optimizer_state_dict` does it, as under DDP."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0 and nothing elsewhere; all ranks must call it."""
        assert self.model is not None
        return self._whole(self.model.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole optimiser state on rank 0; all ranks must call it."""
        return self._whole(optimizer.state_dict())

    def _whole(self, state: Any) -> dict[str, Any]:
        whole = tree_map_only(Tensor, whole_tensor, state)
        return whole if self.is_global_zero else {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write the file on rank 0 by the trainer's CheckpointIO."""
        Strategy.save_checkpoint(self, checkpoint, self.broadcast(filepath), storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the file on every rank by the trainer's CheckpointIO."""
        return Strategy.load_checkpoint(
            self, self.broadcast(checkpoint_path), weights_only=weights_only
        )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take over this rank's part of the weights."""
        assert self.model is not None
        own = self.model.state_dict()
        state = {
            name: shard_like(value, own[name]) if name in own else value
            for name, value in checkpoint["state_dict"].items()
        }
        self.model.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over this rank's part of the optimiser state."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {
                number: {key: shard_like(v, parameters[number]) for key, v in values.items()}
                for number, values in stored["state"].items()
            }
            optimizer.load_state_dict({**stored, "state": state})


def shard_model(model: PretrainingModel, mesh: Any) -> None:
    """Shard each block, then what is left: embeddings, heads and, with them, the tied decoder.

    The word embeddings belong to the root, which stays whole from the start of a forward pass to
    the end of the backward pass; so the output layer may use them as its weights.
    """
    for block in model.encoder.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("forward_masked", "masked_loss"):
        register_fsdp_forward_method(model, method)


def whole_tensor(value: Tensor) -> Tensor:
    """A sharded tensor as a whole one in the host's memory; a collective operation."""
    return full_tensor(value.detach()).cpu()


def shard_like(value: Any, like: Tensor | nn.Parameter) -> Any:
    """This rank's part of a whole tensor, cut as `like` is; other values as they are."""
    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    # Every rank has read the whole tensor: no data is sent.
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)
