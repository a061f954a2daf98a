"""ZeRO 1 and 2 by DeepSpeed, on GPUs and on CPUs, with checkpoints that are sealed and verified.

Invariant: a checkpoint folder appears under its name only when all ranks have written their part
and rank 0 has hashed all of it; nothing is read from a folder before its hashes have been checked.
"""

import logging
import shutil
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from pretrain.strategies.zero_files import (
    RUN_STATE,
    TAG,
    ZeroInfo,
    partition_files,
    read_info,
    replace_file_engine,
    require_deepspeed,
    write_info,
)
from training.checkpoints.storage import (
    CheckpointError,
    is_sharded,
    seal_folder,
    temporary_path,
    verify_checkpoint,
)
from training.checkpoints.writing import serialised


class ZeroStrategy(DeepSpeedStrategy):
    """Shards the optimiser's state (stage 1) and the gradients (stage 2) over all devices.

    Args:
        stage: 1: optimiser state is sharded; 2: gradients as well.
        offload_optimizer: Keep the optimiser's state and step in the host's memory.
        overlap_comm: Reduce gradients while the backward pass goes on.
        reduce_bucket_size: Elements per gradient reduction; two such buffers live on the device.
        allgather_bucket_size: Elements per gathering of updated weights.
        timeout_minutes: How long a collective operation may wait for the other ranks.

    Raises:
        ValueError: If deepspeed is not installed or the stage is another one.
    """

    def __init__(
        self,
        *,
        stage: Literal[1, 2] = 2,
        offload_optimizer: bool = False,
        overlap_comm: bool = True,
        reduce_bucket_size: int = 50_000_000,
        allgather_bucket_size: int = 50_000_000,
        timeout_minutes: float = 30.0,
    ) -> None:
        if stage not in (1, 2):
            raise ValueError(f"ZeRO stage {stage} was asked for; 1 and 2 are supported here")
        require_deepspeed()
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            overlap_comm=overlap_comm,
            reduce_bucket_size=reduce_bucket_size,
            allgather_bucket_size=allgather_bucket_size,
            timeout=timedelta(minutes=timeout_minutes),
        )
        assert isinstance(self.config, dict)
        # PyTorch's AdamW steps the offloaded state: DeepSpeed's own would be compiled at start-up.
        self.config["zero_force_ds_cpu_optimizer"] = False
        self.stage = stage

    # --- on a CPU -----------------------------------------------------------------------------

    @property
    def root_device(self) -> torch.device:
        """This rank's device; DeepSpeed asks for its number, so a CPU gets one as well."""
        device = super().root_device
        return torch.device("cpu", 0) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """Join the other ranks; DeepSpeed's own CPU code is chosen where the trainer runs on it."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        import deepspeed.ops
        from deepspeed.accelerator import set_accelerator
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        set_accelerator(CPU_Accelerator())
        # Shared-memory collectives would be compiled at first use; gloo does without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Start the process group."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    # --- the engine ---------------------------------------------------------------------------

    def _format_batch_size_and_grad_accum_config(self) -> None:
        """Tell the engine the sizes of the run; Lightning would build a loader to guess one."""
        trainer = self.lightning_module.trainer if self.lightning_module else None
        size = getattr(getattr(trainer, "datamodule", None), "micro_batch_size", None)
        if size is not None:
            self.config.setdefault("train_micro_batch_size_per_gpu", size)  # type: ignore[union-attr]
        super()._format_batch_size_and_grad_accum_config()

    def init_deepspeed(self) -> None:
        """Build the engine, whose checkpoint files are written and read by our own rules."""
        with warnings.catch_warnings():
            # It clips inside the engine: true, and no reason for a warning in every run.
            warnings.filterwarnings("ignore", message="Since DeepSpeed handles gradient clipping")
            super().init_deepspeed()
        self._files = replace_file_engine(self.deepspeed_engine)
        if getattr(self.checkpoint_io, "_asynchronous", False):
            rank_zero_warn("checkpoints.asynchronous has no effect under ZeRO: ranks save together")
        # The module must not clip as well: it would see one rank's gradients before their mean.
        self.lightning_module.configure_gradient_clipping = _leave_to_the_engine  # type: ignore

    def backward(
        self, closure_loss: torch.Tensor, optimizer: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Run the engine's backward pass on a loss that is already divided by the accumulation.

        Lightning divides by the number of accumulated batches and so does DeepSpeed: gradients
        would come out too small by that factor, which AdamW hides and clipping does not.
        """
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Step, and hand the norm before clipping to the module as `grad_norm`."""
        output = super().optimizer_step(*args, **kwargs)
        norm = self.deepspeed_engine.get_global_grad_norm()
        if norm is not None:
            self.lightning_module.grad_norm = torch.as_tensor(norm)  # type: ignore[union-attr]
        return output

    # --- checkpoints --------------------------------------------------------------------------

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write all ranks' parts into a temporary folder, then seal it and move it into place.

        Raises:
            CheckpointError: On every rank, if any of them could not write its part.
        """
        path = Path(self.broadcast(str(filepath)))
        temporary = temporary_path(path)
        self._together(lambda: _make_empty(temporary) if self.is_global_zero else None, path)
        state = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        serialised(state)  # refuses what could not be loaded again
        self.deepspeed_engine.save_checkpoint(
            str(temporary), client_state={RUN_STATE: state}, tag=TAG, save_latest=False
        )
        self._together(self._files.raise_errors, path, temporary)
        self._together(lambda: self._seal(temporary, path), path, temporary)

    def _seal(self, temporary: Path, path: Path) -> None:
        if not self.is_global_zero:
            return
        found = len(partition_files(temporary))
        if found != self.world_size:
            raise CheckpointError(
                f"{temporary} holds the optimiser state of {found} of {self.world_size} ranks; "
                "all nodes must write to the same (shared) file system"
            )
        precision = str(self.precision_plugin.precision)
        write_info(
            temporary, ZeroInfo(world_size=self.world_size, stage=self.stage, precision=precision)
        )
        seal_folder(path)
        if (on_saved := getattr(self.checkpoint_io, "on_saved", None)) is not None:
            on_saved(path)

    def _together(self, action: Any, path: Path, temporary: Path | None = None) -> None:
        """Run `action` on every rank; if it fails on one of them, all ranks raise."""
        problem = ""
        try:
            action()
        except OSError as error:  # CheckpointError is one
            problem = f"rank {self.global_rank}: {error}"
        problems = [text for text in gather_objects(problem) if text]
        if problems:
            if temporary is not None and self.is_global_zero:
                shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"{path} was not saved: " + "; ".join(problems))

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verify a checkpoint folder and load it into the engine; returns the rest of the state.

        Raises:
            CheckpointError: The folder is damaged.
            ValueError: It is not a ZeRO checkpoint, or one of another number of devices or stage.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        fitting = self.lightning_module.trainer.state.fn == TrainerFn.FITTING  # type: ignore[union-attr]
        if not is_sharded(path):
            raise ValueError(
                f"{path} is an ordinary checkpoint, and ZeRO can resume its own folders only; "
                "leave the deepspeed config out (configs/strategy/ddp.yaml or fsdp.yaml resume it)"
            )
        self._verify(path)
        info = read_info(path)
        if fitting:
            check_resumable(path, info, world_size=self.world_size)
        _, state = self.deepspeed_engine.load_checkpoint(
            str(path),
            tag=TAG,
            load_optimizer_states=fitting,
            load_lr_scheduler_states=False,
            load_module_strict=True,
        )
        if state is None:
            raise CheckpointError(f"{path}: DeepSpeed found no state in it")
        if fitting:
            self._keep_clip_value()
        run_state: dict[str, Any] = state[RUN_STATE]
        return run_state

    def _verify(self, path: Path) -> None:
        """Check the hashes once, on rank 0; all ranks raise what it found."""
        problem = None
        if self.is_global_zero:
            try:
                verify_checkpoint(path)
            except OSError as error:
                problem = str(error)
        problem = self.broadcast(problem)
        if problem is not None:
            raise CheckpointError(problem)

    def _keep_clip_value(self) -> None:
        """The command line decides the clipping value; DeepSpeed takes the checkpoint's."""
        optimizer = self.deepspeed_engine.optimizer
        wanted = float(self.config["gradient_clipping"])  # type: ignore[index]
        if optimizer.clip_grad != wanted:
            logging.getLogger(__name__).warning(
                "gradient_clip_val: the checkpoint has %s, the run %s; the run's value is used",
                optimizer.clip_grad,
                wanted,
            )
            optimizer.clip_grad = wanted


def check_resumable(path: Path, info: ZeroInfo, *, world_size: int) -> None:
    """Refuse a folder of another number of devices, naming the ways out.

    Raises:
        ValueError: The numbers of devices differ.
    """
    if info.world_size == world_size:
        return
    raise ValueError(
        f"{path} was saved by ZeRO on {info.world_size} device(s), and this run has {world_size}: "
        "its optimiser state is cut into as many parts and cannot be resumed on another number. "
        f"Either resume on {info.world_size} device(s); or make an ordinary checkpoint of it, with "
        "the whole optimiser state, which DDP and FSDP resume on any number of devices: "
        f"`ponet-pretrain export {path} --checkpoint FILE.ckpt`, then the same command with "
        "configs/strategy/ddp.yaml or fsdp.yaml, --resume FILE.ckpt and another --run.name. (A "
        "bundle, made with --output, has the weights alone: its optimiser state is lost.)"
    )


def gather_objects(value: Any) -> list[Any]:
    """The value of every rank, in order of rank; only one's own where there is one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _leave_to_the_engine(*_: Any, **__: Any) -> None:
    """Clip nothing."""


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
