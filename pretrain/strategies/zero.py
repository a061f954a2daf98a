"""ZeRO 1 and 2 by DeepSpeed, on GPUs and on CPUs, with checkpoints that are sealed and verified.

Invariant: a checkpoint folder appears under its name only when all ranks have written their part
and rank 0 has hashed all of it; nothing is read from a folder before its hashes have been checked,
and reading never runs code: tensors, plain values and the few classes that DeepSpeed itself stores
are accepted, everything else is refused.
"""

import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from training.checkpoints.storage import (
    CheckpointError,
    is_sharded,
    seal_folder,
    serialised,
    temporary_path,
    verify_checkpoint,
)
from training.ranks import RunStrategy

TAG = "state"
MODEL_FILE = "mp_rank_00_model_states.pt"
RUN_STATE = "run_state"
"""Key of what is no weight and no optimiser state: all else that Lightning stores."""


def partition_files(folder: Path) -> list[Path]:
    """The files of the optimiser's state, one of each rank, in order of rank.

    Raises:
        ValueError: There are none: it is not a ZeRO checkpoint.
    """
    found = list((folder / TAG).glob("*zero_pp_rank_*_mp_rank_00_optim_states.pt"))
    if not found:
        raise ValueError(f"{folder} is not a ZeRO checkpoint: it has no optimiser states in {TAG}/")
    return sorted(found, key=lambda path: int(path.name.split("pp_rank_")[1].split("_")[0]))


def require_deepspeed() -> None:
    """See that deepspeed can be imported, on a machine without GPUs as well.

    Raises:
        ValueError: It is not installed.
    """
    if find_spec("deepspeed") is None:
        raise ValueError(
            "ZeRO needs deepspeed, which is not installed; run `pip install -c constraints.txt "
            "deepspeed`, or use configs/strategy/ddp.yaml or fsdp.yaml"
        )
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def read_file(path: str | Path, *, map_location: Any = "cpu") -> Any:
    """Return the content of one file of a ZeRO checkpoint without running code from it.

    Raises:
        CheckpointError: The file is missing, damaged or holds objects of other classes.
    """
    require_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


def replace_file_engine(engine: Any) -> list[Exception]:
    """Let a DeepSpeed engine write its files itself and read them by `read_file`.

    Returns:
        Where a rank that cannot write keeps its errors, since the others wait for it inside
        DeepSpeed's save.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    errors: list[Exception] = []

    class FileEngine(TorchCheckpointEngine):  # type: ignore[misc]
        """Errors are kept while a save goes on, and pickled objects are refused."""

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            self._kept(lambda: Path(path).mkdir(parents=True, exist_ok=exist_ok))

        def save(self, state_dict: Any, path: str) -> None:
            self._kept(lambda: torch.save(state_dict, path))

        def load(self, path: str, map_location: Any = None) -> Any:
            return read_file(path, map_location=map_location)

        def _kept(self, action: Callable[[], None]) -> None:
            try:
                action()
            except (OSError, RuntimeError) as error:  # torch turns "disk full" into the latter
                errors.append(error)

    engine.checkpoint_engine = FileEngine(None)
    engine._copy_recovery_script = lambda path: None  # `ponet-pretrain export` does its work
    return errors


class ZeroStrategy(RunStrategy, DeepSpeedStrategy):
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
        self._errors = replace_file_engine(self.deepspeed_engine)
        if getattr(self.checkpoint_io, "asynchronous", False):
            rank_zero_warn("checkpoints.asynchronous has no effect under ZeRO: ranks save together")
        # The module must not clip as well: it would see one rank's gradients before their mean.
        self.lightning_module.configure_gradient_clipping = lambda *_, **__: None  # type: ignore

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

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write all ranks' parts into a temporary folder, then seal it and move it into place.

        Raises:
            CheckpointError: On every rank, if any of them could not write its part.
        """
        path = Path(self.broadcast(str(filepath)))
        temporary = temporary_path(path)
        state = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        serialised(state)  # refuses what could not be loaded again
        if self.is_global_zero:
            shutil.rmtree(temporary, ignore_errors=True)
        self._together(lambda: temporary.mkdir(parents=True), path, "saved", first_alone=True)
        self.deepspeed_engine.save_checkpoint(
            str(temporary), client_state={RUN_STATE: state}, tag=TAG, save_latest=False
        )
        self._together(self._raise_errors, path, "saved")
        self._together(lambda: self._seal(temporary, path), path, "saved", first_alone=True)

    def _raise_errors(self) -> None:
        errors = self._errors.copy()
        self._errors.clear()
        if errors:
            raise CheckpointError(str(errors[0])) from errors[0]

    def _seal(self, temporary: Path, path: Path) -> None:
        found = len(partition_files(temporary))
        if found != self.world_size:
            raise CheckpointError(
                f"{temporary} holds the optimiser state of {found} of {self.world_size} ranks; "
                "all nodes must write to the same (shared) file system"
            )
        seal_folder(path)
        if (on_saved := getattr(self.checkpoint_io, "on_saved", None)) is not None:
            on_saved(path)

    def _together(
        self, action: Callable[[], None], path: Path, doing: str, *, first_alone: bool = False
    ) -> None:
        """Do something on every rank, or the first alone; if it fails on one, all ranks raise."""
        problem = ""
        try:
            if self.is_global_zero or not first_alone:
                action()
        except OSError as error:  # CheckpointError is one
            problem = f"rank {self.global_rank}: {error}"
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, problem)
        if any(found):
            if self.is_global_zero:
                shutil.rmtree(temporary_path(path), ignore_errors=True)
            raise CheckpointError(f"{path} was not {doing}: {'; '.join(filter(None, found))}")

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
        self._together(lambda: verify_checkpoint(path), path, "loaded", first_alone=True)
        if fitting:
            check_resumable(path, world_size=self.world_size)
        _, state = self.deepspeed_engine.load_checkpoint(
            str(path),
            tag=TAG,
            load_optimizer_states=fitting,
            load_lr_scheduler_states=False,
            load_module_strict=True,
        )
        if state is None:
            raise CheckpointError(f"{path}: DeepSpeed found no state in it")
        if fitting:  # the command line decides the clipping value; DeepSpeed takes the checkpoint's
            self.deepspeed_engine.optimizer.clip_grad = float(self.config["gradient_clipping"])  # type: ignore[index]
        run_state: dict[str, Any] = state[RUN_STATE]
        return run_state


def check_resumable(path: Path, *, world_size: int) -> None:
    """Refuse a folder of another number of devices, naming the ways out.

    Raises:
        ValueError: The numbers of devices differ.
    """
    saved_on = len(partition_files(path))
    if saved_on != world_size:
        raise ValueError(
            f"{path} was saved by ZeRO on {saved_on} device(s), and this run has {world_size}: its "
            "optimiser state is cut into as many parts. Either resume on as many; or make an "
            "ordinary checkpoint of it, which DDP and FSDP resume on any number: `ponet-pretrain "
            f"export {path} --checkpoint FILE.ckpt`, then the same command with "
            "configs/strategy/ddp.yaml or fsdp.yaml, --resume FILE.ckpt and another --run.name"
        )
