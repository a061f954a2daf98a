"""Several ranks are one run: how they are started, and who prepares the files of all."""

from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher


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


class SharedFiles(LightningDataModule):
    """A data module whose files all nodes see: the first rank alone prepares them."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare_data_per_node = False
