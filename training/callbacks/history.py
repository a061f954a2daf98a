"""How a run begins in its folder, and the story that the folder tells of it.

Invariant: an earlier run is lost with the first optimiser step of the new one, or with the first
checkpoint of one that was asked to stop, and not before; until then every error brings it back.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import Logger

from data_prep.command import EXIT_INTERRUPT, counted
from training.callbacks.steps import ranks_agree
from training.checkpoints.resume import ConfiguredModule, changed_options, set_aside
from training.checkpoints.storage import remove_temporaries, saved_checkpoints
from training.interruption import EXIT_STOPPED, RunInterrupted, say
from training.run_config import CHECKPOINT_FOLDER, CONFIG_KEY, RunConfig
from training.run_folder import add_event, own_files, provenance, read_events, replacing
from training.tracking import tracked_run

_ASKED = (EXIT_STOPPED, EXIT_INTERRUPT)
"""Exit codes of a run that was asked to stop, and whose command goes on from what it saved."""


def rewind_metrics(trainer: Trainer) -> int:
    """Let the metrics go on behind the trainer's step; returns the number of lines cut off.

    A validation of that step which the run makes up for is cut off too.
    """
    loggers: list[Any] = [logger for logger in trainer.loggers if hasattr(logger, "rewind")]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    owes = any(getattr(callback, "owes_validation", False) for callback in callbacks)
    return sum(logger.rewind(trainer.global_step, validated=not owes) for logger in loggers)


class RunBegin(Callback):
    """Begin a run in its folder, in the place of an earlier one.

    Comes before all other callbacks: nothing may be logged before the metrics are rewound. By then
    data, model, trainer, callbacks and checkpoint have passed all their checks; an earlier run that
    is replaced is brought back if W&B or the first step still fails.

    Args:
        run: The run; the process holds its folder.
        resumes: Whether it goes on from a checkpoint.
        tracker: Makes the logger of W&B, if any; called when nothing else can be wrong.
    """

    def __init__(
        self, run: RunConfig, *, resumes: bool, tracker: Callable[[], Logger | None]
    ) -> None:
        self.run = run
        self.resumes = resumes
        self.replaces = not resumes
        """Whether what the folder holds is not continued."""
        self.tracker = tracker
        self.started = False
        self.begun_at = 0
        """Optimiser steps that were done when this start began."""
        self._replacement = ExitStack()
        self._first_step: int | None = None

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what a run has from the start; on the first rank."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin on the first rank; if that fails, all ranks end."""
        failed, self.begun_at = 1, trainer.global_step
        try:
            if trainer.is_global_zero:
                self._begin(trainer, pl_module)
            failed = 0
        finally:
            any_failed = ranks_agree(trainer, failed)
        if any_failed:
            raise ValueError("the first rank could not begin the run; its own message says why")
        if not trainer.is_global_zero:
            self.track(trainer)
        self.started = True

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.replaces:
            self._replacement.enter_context(replacing(self.run.folder, own=self.run.files))
        self._first_step = self.begun_at + 1
        self.track(trainer)
        self.begin(trainer, pl_module)

    def track(self, trainer: Trainer) -> None:
        """Begin to log to W&B, if that is asked for."""
        logger = self.tracker()
        if logger is not None:
            _ = logger.experiment  # type: ignore[attr-defined]  # begins the run there
            trainer.loggers = [*trainer.loggers, logger]

    def write_config(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the resolved configuration."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveConfigCallback):
                callback.save_config(trainer, pl_module, "fit")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """With the first step done, what is in the folder is this run's."""
        if trainer.global_step == self._first_step:
            self.take_over(trainer, pl_module)

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the run that was to be replaced; on the first rank."""
        self._first_step = None
        self._replacement.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Bring back an earlier run if this one made no step."""
        if self._first_step is not None:
            if self.replaces and (tracked := tracked_run(trainer)):
                tracked.finish(exit_code=1)  # its files are among those that go
            self._replacement.__exit__(type(exception), exception, None)
            self.started = self.started and not self.replaces


class RunHistory(RunBegin):
    """Begin or rewind a run with checkpoints, and keep a list of its events.

    A run that a callback has ended, as EarlyStopping does, is ended for the same command too, also
    where it was killed after the decision.

    Args:
        run: The run.
        resumed_from: The checkpoint it goes on from, or None.
        tracker: See `RunBegin`.
    """

    def __init__(
        self, run: RunConfig, *, resumed_from: Path | None, tracker: Callable[[], Logger | None]
    ) -> None:
        super().__init__(run, resumes=resumed_from is not None, tracker=tracker)
        self.resumed_from = resumed_from
        self.replaces = run.overwrite or not own_files(run.folder, own=run.files)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Ask for no further step where the run has ended and no option has changed since."""
        stored = checkpoint.get(CONFIG_KEY, {}).get("config", {})
        if (
            stored
            and isinstance(pl_module, ConfiguredModule)
            and not changed_options(stored, pl_module.resolved_config)
        ):
            was_asked = checkpoint["callbacks"].get(self.state_key, {}).get("should_stop", False)
            was_asked = was_asked and self._goes_on_from_its_newest()
            if was_asked or _last_end(self.run.folder) == checkpoint["global_step"]:
                trainer.should_stop = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep whether a callback has asked for the end; this may be the last sign of it."""
        checkpoint["callbacks"][self.state_key] = {"should_stop": trainer.should_stop}

    def _goes_on_from_its_newest(self) -> bool:
        """Return whether this is no branch, of another run or of an earlier step."""
        saved = saved_checkpoints(self.run.folder / CHECKPOINT_FOLDER)
        return self.resumed_from is not None and any(
            self.resumed_from.samefile(newest.path) for newest in saved[-1:]
        )

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut off what came after this step."""
        step, checkpoints = trainer.global_step, self.run.folder / CHECKPOINT_FOLDER
        remove_temporaries(checkpoints)
        for saved in saved_checkpoints(checkpoints):
            if saved.step > step:
                say(f"{saved.path.name} is not part of this run any more: {set_aside(saved.path)}")
        cut = rewind_metrics(trainer)
        if cut:
            lines = counted(cut, "line(s)")
            say(f"cut off the metrics: {lines} after step {step}; these steps come again")
        if self.resumed_from is None:
            add_event(self.run.folder, "started", **provenance())
            return
        changes: list[str] = []
        if isinstance(pl_module, ConfiguredModule):
            changes = changed_options(pl_module.stored_config, pl_module.resolved_config)
        if changes:
            say("options that differ from the checkpoint's; those of now count:")
            for change in changes:
                say(f"  {change}")
        source = os.path.realpath(self.resumed_from)
        details = {"checkpoint": self.resumed_from.name, "source": source, "changed": changes}
        add_event(self.run.folder, "resumed", step=step, **details, **provenance())

    def take_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration, once: a run that is refused, or done, leaves it alone."""
        if self._first_step is not None:
            self.write_config(trainer, pl_module)
            super().take_over(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        self.take_over(trainer, pl_module)
        if self.started and trainer.is_global_zero:
            add_event(self.run.folder, "finished", step=trainer.global_step)

    def note_late_end(self, trainer: Trainer, pl_module: ConfiguredModule) -> None:
        """Note the end of a run that an earlier start did not live to note; on the first rank.

        With other options it is not the end of what was begun, whose own command still goes on.
        """
        folder, step = self.run.folder, trainer.global_step
        if (
            self._goes_on_from_its_newest()
            and _last_end(folder) != step
            and not changed_options(pl_module.stored_config, pl_module.resolved_config)
        ):
            add_event(folder, "finished", step=step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Note why a run ended early; if it made no step and saved nothing, it never was."""
        asked = isinstance(exception, RunInterrupted) and exception.exit_code in _ASKED
        if asked and saved_checkpoints(self.run.folder / CHECKPOINT_FOLDER):
            self.take_over(trainer, pl_module)
        super().on_exception(trainer, pl_module, exception)
        if self.started and trainer.is_global_zero:
            reason = str(exception) or type(exception).__name__
            add_event(self.run.folder, "stopped", step=trainer.global_step, reason=reason)


def _last_end(folder: Path) -> int:
    """Return the step at which a run finished, if nothing came after that; else -1."""
    last: dict[str, Any] = next(reversed(read_events(folder)), {})
    return int(last["step"]) if last.get("event") == "finished" else -1
