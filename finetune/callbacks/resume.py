"""When a fit saves what it needs to go on where it was, and when it stops.

Invariant: it is saved between two optimiser steps, when every validation of the steps before is
over, and replaced as a whole. With it a fit on a CPU goes on to the bit.
"""

import io
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from finetune.resume_file import write_resume_file
from training.callbacks.agreement import ranks_agree
from training.interruption import EXIT_STORAGE, RunInterrupted, StopRequest
from training.loops import loop_state

SAVE = 1
"""What a rank wishes for: 0 nothing, SAVE, or the exit code to stop with. The highest one wins."""


class ResumePoint(Callback):
    """Saves after every validation and by time; stops the fit when somebody asks for it.

    Args:
        folder: The run's folder.
        every_n_minutes: Longest time between two saves; 0: after validations alone.
        stop: Who may ask the fit to stop.
        started: `time.monotonic()` of the start of the command.
    """

    def __init__(
        self, folder: Path, *, every_n_minutes: float, stop: StopRequest, started: float
    ) -> None:
        self.folder = folder
        self.spent_s = 0.0
        """Seconds of earlier starts."""
        self._every_s = every_n_minutes * 60
        self._stop_request = stop
        self._started = self._saved_at = started
        self._is_due = False
        self._within = 0
        self._path: Path | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of all starts together."""
        return self.spent_s + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Steps of the present epoch, and the time spent."""
        return {"within": self._within, "elapsed_s": self.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting the time."""
        self.spent_s = state_dict["elapsed_s"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put loops and data between two optimiser steps of this run's devices."""
        within = checkpoint["callbacks"][self.state_key]["within"]
        epoch, accumulation = checkpoint["epoch"], trainer.accumulate_grad_batches
        checkpoint["loops"]["fit_loop"] = loop_state(
            checkpoint["global_step"],
            epoch=epoch,
            within=within,
            accumulation=accumulation,
            validation_due=False,
            validation_done=True,
        )
        trainer.datamodule.resume_at = (epoch, within * accumulation)  # type: ignore[attr-defined]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to take notes of signals."""
        if stage == "fit":
            self._stop_request.install()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        if stage == "fit":
            self._stop_request.uninstall()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before the next step."""
        self._is_due = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two optimiser steps: save or stop, if that is due or asked for."""
        self._within, rest = divmod(batch_idx, trainer.accumulate_grad_batches)
        if rest:
            return
        # Lightning passes through a validation of the last step once more, and counts it.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        wish = ranks_agree(trainer, self._wish())
        if wish >= SAVE and trainer.global_step:
            self.save(trainer)
        if wish > SAVE:
            saved = f" with {self._path}" if trainer.global_step else ""
            raise RunInterrupted(
                f"{self._stop_request.reason}: stopped after step {trainer.global_step}{saved}; "
                "the same command goes on from there",
                wish,
            )

    def _wish(self) -> int:
        if self._stop_request.exit_code:
            return self._stop_request.exit_code
        is_late = bool(self._every_s) and time.monotonic() - self._saved_at >= self._every_s
        return int(self._is_due or is_late)

    def save(self, trainer: Trainer) -> None:
        """Replace the file by the state of now; called on all ranks.

        Raises:
            RunInterrupted: It could not be written; on all ranks alike.
        """
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        error: OSError | None = None
        if trainer.is_global_zero:
            buffer = io.BytesIO()
            torch.save(content, buffer)
            try:
                step = trainer.global_step
                self._path = write_resume_file(self.folder, buffer.getbuffer(), step=step)
            except OSError as raised:
                error = raised
        if ranks_agree(trainer, int(error is not None)):
            raise RunInterrupted(
                f"{self.folder}: what the fit needs to go on could not be written: "
                f"{error or 'the first rank says why'}. What was saved before is intact: the same "
                "command goes on from there",
                EXIT_STORAGE,
            ) from error
        self._is_due, self._saved_at = False, time.monotonic()
