"""Several ranks are one run: how they are started, who prepares the files, how all begin alike."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor

from training.callbacks.steps import of_all_ranks, ranks_agree

CUTTING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
"""Strategies under which a device has parts of the weights, or of what the optimiser keeps."""


class RunStrategy:
    """Marks the strategies whose clipping and checkpoints are those of a run; see `CUTTING`."""


def check_launcher(trainer: Trainer) -> None:
    """Refuse strategies that train in copies of this process (ddp_fork, ddp_spawn, ddp_notebook).

    This process holds the run's folder and ends the run, and nothing of what the copies know
    comes back to it.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ValueError(
            f"trainer.strategy is a {type(trainer.strategy).__name__} that trains in copies of "
            "this process, as ddp_fork, ddp_spawn and ddp_notebook do: the run could not be "
            "finished; use --trainer.strategy ddp, or a file of configs/strategy"
        )


def full_tensor(value: Tensor) -> Tensor:
    """Return the whole of a tensor that may be spread over ranks (DTensor)."""
    gather = getattr(value, "full_tensor", None)
    whole: Tensor = value if gather is None else gather()
    return whole


def check_whole(strategy: Any) -> None:
    """Refuse strategies under which no device has the whole model, where a run keeps it whole."""
    if isinstance(strategy, CUTTING):
        raise ValueError(
            f"trainer.strategy is {type(strategy).__name__}, which cuts the model or what the "
            "optimiser keeps into a part for each device; fine-tuning keeps them whole: use "
            "--trainer.strategy ddp"
        )


class SharedFiles(LightningDataModule):
    """A data module whose files all nodes see: the first rank alone prepares them."""

    _failed: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.prepare_data_per_node = False

    def prepare(self) -> None:
        """Check the files, or make them."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Prepare the files; where other ranks wait, an error is kept until all can end."""
        try:
            self.prepare()
        except Exception as error:
            if self.trainer is None or self.trainer.world_size == 1:
                raise
            self._failed = error

    def setup(self, stage: str) -> None:
        """End all ranks if the first could not prepare the files."""
        if self.trainer is not None and ranks_agree(self.trainer, int(self._failed is not None)):
            reason = "the first rank could not prepare the data; its own message says why"
            raise self._failed or ValueError(reason)


class SameBeginning(Callback):
    """End all ranks, before anything is loaded, where they would not begin alike.

    Each rank looks into the run's folder and measures its device for itself, and may find what the
    others do not.

    Args:
        checkpoint: The checkpoint that this rank goes on from, or evaluates; None: none.
    """

    def __init__(self, checkpoint: str | Path | None) -> None:
        self._checkpoint = checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare; the first moment at which ranks can."""
        name = Path(self._checkpoint).name if self._checkpoint else "no checkpoint"
        _compare(
            trainer,
            name,
            "go on from different checkpoints",
            "Either one of them was unreadable for a rank, or not all see the same folder: look at "
            "the lines above, and run the same command again",
        )
        _compare(
            trainer,
            str(trainer.precision),
            "compute in different precisions",
            "With run.auto_precision each measures its own device: give --trainer.precision",
        )


def _compare(trainer: Trainer, value: str, wrong: str, advice: str) -> None:
    values = of_all_ranks(trainer, value)
    if len(set(values)) > 1:
        each = "; ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
        raise ValueError(f"the ranks would {wrong} ({each}). {advice}")
