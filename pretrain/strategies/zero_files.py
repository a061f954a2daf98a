"""The files of a ZeRO checkpoint folder: which there are, how they are written and read.

Invariant: reading never runs code from a file. Tensors, plain values and the few classes that
DeepSpeed itself stores are accepted, everything else is refused.
"""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from training.checkpoints.storage import CheckpointError

TAG = "state"
INFO_FILE = "zero.json"
MODEL_FILE = "mp_rank_00_model_states.pt"
RUN_STATE = "run_state"
"""Key of what is no weight and no optimiser state: all else that Lightning stores."""


@dataclass(frozen=True, kw_only=True)
class ZeroInfo:
    """What must be known of a ZeRO checkpoint before it is opened."""

    world_size: int
    """Devices of the run that saved it; its optimiser state is cut into as many parts."""
    stage: int
    """1 or 2."""
    precision: str
    """The trainer's precision."""


def write_info(folder: Path, info: ZeroInfo) -> None:
    """Write `zero.json`."""
    (folder / INFO_FILE).write_text(json.dumps(asdict(info)) + "\n", encoding="utf-8")


def read_info(folder: Path) -> ZeroInfo:
    """Return what `zero.json` says.

    Raises:
        ValueError: The folder has none: it is not a ZeRO checkpoint of this project.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a ZeRO checkpoint: it has no {INFO_FILE}")
    return ZeroInfo(**json.loads(path.read_text(encoding="utf-8")))


def partition_files(folder: Path) -> list[Path]:
    """The optimiser-state files in order of rank."""
    found = (folder / TAG).glob("*zero_pp_rank_*_mp_rank_00_optim_states.pt")
    return sorted(found, key=lambda path: int(path.name.split("pp_rank_")[1].split("_")[0]))


def require_deepspeed() -> None:
    """Check that deepspeed is there, and let it run on a machine without a GPU.

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


@contextmanager
def _known_classes() -> Iterator[None]:
    """Accept the classes that DeepSpeed puts into its files, and no others."""
    require_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    with torch.serialization.safe_globals(known):
        yield


def read_file(path: str | Path, *, map_location: Any = "cpu") -> Any:
    """Return the content of one file of a ZeRO checkpoint without running code from it.

    Raises:
        CheckpointError: The file is missing, damaged or holds objects of other classes.
    """
    try:
        with _known_classes():
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {reason}") from error


def replace_file_engine(engine: Any) -> Any:
    """Let a DeepSpeed engine write and read its files by `read_file`; returns the new writer.

    A rank that cannot write keeps its error until `raise_errors`, since the other ranks wait for
    it inside DeepSpeed's save.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    class FileEngine(TorchCheckpointEngine):  # type: ignore[misc]
        """Errors are kept while a save goes on, and pickled objects are refused."""

        def __init__(self) -> None:
            super().__init__(None)
            self.errors: list[Exception] = []

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            try:
                Path(path).mkdir(parents=True, exist_ok=exist_ok)
            except OSError as error:
                self.errors.append(error)

        def save(self, state_dict: Any, path: str) -> None:
            try:
                torch.save(state_dict, path)
            except (OSError, RuntimeError) as error:  # the zip writer turns "disk full" into one
                self.errors.append(error)

        def load(self, path: str, map_location: Any = None) -> Any:
            return read_file(path, map_location=map_location)

        def raise_errors(self) -> None:
            """Raise the first error of the save that has just ended, as a CheckpointError."""
            errors, self.errors = self.errors, []
            if errors:
                raise CheckpointError(str(errors[0])) from errors[0]

    files = FileEngine()
    engine.checkpoint_engine = files
    engine._copy_recovery_script = lambda path: None  # `ponet-pretrain export` does its work
    return files
