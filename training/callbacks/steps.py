"""What happens at the steps of every run: seeds, agreement of ranks, validations, the bar.

Invariant: every rank calls `ranks_agree` and `of_all_ranks` equally often, in the same order.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from torch import distributed
from tqdm import tqdm

_GROUP = "_ponet_control_group"


def ranks_agree(trainer: Trainer, value: int) -> int:
    """The highest value over all ranks; on one rank the value itself.

    It travels through a gloo group of its own, between the hosts: no GPU has to finish its work
    first, as it would with NCCL.

    Args:
        trainer: The trainer, after its strategy has set up the processes.
        value: A small whole number of this rank.
    """
    if trainer.world_size == 1 or not distributed.is_initialized():
        return value
    wish = torch.tensor(value, dtype=torch.int64)
    distributed.all_reduce(wish, op=distributed.ReduceOp.MAX, group=_control_group(trainer))
    return int(wish)


def of_all_ranks(trainer: Trainer, value: str) -> list[str]:
    """The values of all ranks, in their order; they travel as those of `ranks_agree`."""
    if trainer.world_size == 1 or not distributed.is_initialized():
        return [value]
    found = [""] * trainer.world_size
    distributed.all_gather_object(found, value, group=_control_group(trainer))
    return found


def _control_group(trainer: Trainer) -> Any:
    group = getattr(trainer.strategy, _GROUP, None)
    if group is None:
        group = distributed.new_group(backend="gloo")
        setattr(trainer.strategy, _GROUP, group)
    return group


class StepSeeds(Callback):
    """Seed torch anew before every training forward pass.

    So dropout is a function of the place in the run, whatever happened before, and nothing has to
    be stored to go on.

    Args:
        seed_of: The seed of a micro-batch: of the trainer, and its number in the epoch.
    """

    def __init__(self, seed_of: Callable[[Trainer, int], int]) -> None:
        self._seed_of = seed_of

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of the host and of the device."""
        seed = self._seed_of(trainer, batch_idx)
        # torch.manual_seed would format a stack trace for every kind of device that is absent.
        torch.default_generator.manual_seed(seed)
        kind = pl_module.device.type
        if kind != "cpu":
            getattr(torch, kind).manual_seed(seed)


class EvaluationInterval(Callback):
    """Set Lightning's validation interval, which counts micro-batches, from optimiser steps.

    The last step is validated too where the interval does not divide the run, so that every run
    ends in a score of the weights it leaves. Set up after the data module, which derives the
    accumulation from the devices, and before all other callbacks: EarlyStopping asks the trainer
    there whether to look at validations or at the end of epochs.

    Args:
        every_n_steps: Optimiser steps between validations, > 0.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Translate steps to micro-batches for the fit loop."""
        if stage == "fit":
            trainer.check_val_every_n_epoch = None
            trainer.val_check_interval = self.every_n_steps * trainer.accumulate_grad_batches

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Ask for a validation after the last step: Lightning validates where a run shall stop."""
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True


class _Lines:
    """stderr for a log file: what would redraw the line begins a new one."""

    def write(self, text: str) -> int:
        """Write without carriage returns and empty lines."""
        shown = text.strip("\r\n ")
        return sys.stderr.write(shown + "\n") if shown else 0

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


class RunProgressBar(ProgressBar):
    """A bar with one tick per optimiser step, also over several epochs and after a resume.

    Where the output is not a terminal, a line every 30 seconds. Whoever logs sets what it shows.

    Args:
        doing: What the bar is called.
    """

    def __init__(self, doing: str) -> None:
        super().__init__()
        self.shown: Mapping[str, str] = {}
        """Label -> value."""
        self._doing = doing
        self._bar: Any = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (other ranks)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step the run continues from."""
        form = "{desc}: {n_fmt}/{total_fmt} steps, {elapsed} so far, {remaining} left{postfix}"
        in_file = {"file": _Lines(), "bar_format": form, "mininterval": 30.0, "maxinterval": 60.0}
        self._bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc=self._doing,
            unit="step",
            disable=not self._enabled,
            **({"dynamic_ncols": True, "mininterval": 0.5} if sys.stderr.isatty() else in_file),
        )

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Tick, and show the newest values."""
        self._bar.set_postfix(self.shown, refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        if self._bar is not None:
            self._bar.close()

    def print(self, *args: Any, file: TextIO | None = None, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=file or sys.stdout)


def show(trainer: Trainer, values: Mapping[str, str]) -> None:
    """Let the run's bar show these values, by their labels; where there is one."""
    if isinstance(trainer.progress_bar_callback, RunProgressBar):
        trainer.progress_bar_callback.shown = values


def say_above(trainer: Trainer, text: str, *, file: TextIO | None = None) -> None:
    """Print on the first rank, above the progress bar where there is one."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(text, file=file or sys.stdout)
    elif trainer.is_global_zero:
        print(text, file=file or sys.stdout)
