"""When a run saves, what it keeps, and where it stops.

Invariant: a checkpoint is taken between two optimiser steps, on all ranks at the same one, and only
of a state that the guards have passed. What it says of Lightning's loops is never trusted: it was
taken somewhere inside them, perhaps with other devices; `loop_state` is a function of the step.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from training.callbacks.steps import ranks_agree
from training.checkpoints.storage import (
    checkpoint_path,
    is_sharded,
    load_checkpoint,
    point_to,
    remove_checkpoint,
    saved_checkpoints,
    write_checkpoint,
)
from training.interruption import EXIT_STORAGE, RunInterrupted, StopRequest, say
from training.run_config import CheckpointConfig

SAVE = 1
"""What a rank wishes for: 0 nothing, SAVE, or the exit code to stop with. The highest one wins."""


def loop_state(
    step: int,
    *,
    epoch: int,
    within: int,
    accumulation: int,
    owes_validation: bool = False,
    at_validation: bool = False,
) -> dict[str, Any]:
    """The state of Lightning's fit loop after an optimiser step (Lightning 2.6).

    Args:
        step: Optimiser steps done.
        epoch: Lightning epochs that are over.
        within: Optimiser steps done of the next one.
        accumulation: Micro-batches per optimiser step.
        owes_validation: Whether the loop must make up for a validation of this step first.
        at_validation: Whether a validation belongs to this step, done or not: it is passed through
            once more and counted there.
    """

    def progress(total: int, current: int, *names: str) -> dict[str, Any]:
        return {"total": dict.fromkeys(names, total), "current": dict.fromkeys(names, current)}

    started = ("ready", "started", "completed")
    optimizer_step = progress(step, within, "ready", "completed")
    batches = (step * accumulation, within * accumulation)
    # Lightning takes a validation with a batch started and not processed for one to do again.
    evaluation = {"ready": int(owes_validation), "started": int(owes_validation)}
    evaluation |= {"processed": 0, "completed": 0}
    epochs = dict.fromkeys((*started, "processed"), epoch)
    if within:
        epochs |= {"ready": epoch + 1, "started": epoch + 1}
    return {
        "state_dict": {},
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.state_dict": {"_batches_that_stepped": step - int(at_validation)},
        "epoch_loop.batch_progress": {
            **progress(*batches, *started, "processed"),
            "is_last_batch": False,
        },
        "epoch_loop.scheduler_progress": optimizer_step,
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": optimizer_step, "zero_grad": progress(step, within, *started)}
        },
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {
            "total": evaluation,
            "current": dict(evaluation),
            "is_last_batch": False,
        },
    }


class SavesAndStops(Callback):
    """What saves a run and stops it when somebody asks for it.

    Args:
        folder: Where `step-<number>.ckpt` go.
        stop: Who may ask the run to stop.
        every_n_minutes: Longest time between two saves; 0: none by time.
    """

    def __init__(self, folder: str | Path, *, stop: StopRequest, every_n_minutes: float) -> None:
        self.folder = Path(folder)
        self._stop_request = stop
        self._every_s = 60 * every_n_minutes
        self._saved_at = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to take notes of signals."""
        if stage == "fit":
            trainer.strategy.checkpoint_io.on_saved = self.after_save  # type: ignore[attr-defined]
            self._stop_request.install()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        if stage == "fit":
            self._stop_request.uninstall()

    def after_save(self, path: Path) -> None:
        """Remove what need not be kept any more; what others save elsewhere changes nothing."""
        saved = saved_checkpoints(self.folder)
        written = next((found for found in saved if found.path == path), None)
        if written is None:
            return
        kept = {written.step, *self.kept([found.step for found in saved], written.step)}
        for old in saved:
            if old.step in kept:
                continue
            try:
                remove_checkpoint(old.path)
            except OSError as error:  # it takes room, but nothing is lost
                say(f"{old.path} could not be removed: {error}")

    def kept(self, steps: list[int], step: int) -> set[int]:
        """Return which of the saved steps stay beside the one that was just written."""
        return set()

    def wish(self) -> int:
        """Return what this rank wishes for."""
        late = bool(self._every_s) and time.monotonic() - self._saved_at >= self._every_s
        return self._stop_request.exit_code or int(late)

    def write(self, trainer: Trainer) -> None:
        """Save the state after the current step; called on all ranks.

        Raises:
            RunInterrupted: It could not be written (exit code 74); on all ranks alike.
        """
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        path = checkpoint_path(self.folder, trainer.global_step)
        self.attempt(trainer, lambda: trainer.strategy.save_checkpoint(content, path))
        self._saved_at = time.monotonic()

    def attempt(self, trainer: Trainer, action: Callable[[], object]) -> None:
        """Do something that may fail on one rank; then it fails on all, and none waits for it."""
        error: OSError | None = None
        try:
            action()
        except OSError as raised:
            error = raised
        if ranks_agree(trainer, int(error is not None)):
            reason = str(error or "another rank could not write its checkpoint")
            raise RunInterrupted(reason, EXIT_STORAGE) from error

    def stopped(self, trainer: Trainer, code: int) -> RunInterrupted:
        """Return what ends the run with an exit code."""
        step = trainer.global_step
        path = checkpoint_path(self.folder, step)
        return RunInterrupted(
            f"{self._stop_request.reason}: stopped after step {step}"
            f"{f' with {path}' if path.exists() else ''}; {self._stop_request.again} goes on from "
            "there",
            code,
        )


class RunCheckpoints(SavesAndStops, Checkpoint):
    """Save by steps, time, epoch and validation; stop when asked to; keep the last and the best.

    What is due at the same step as a validation waits for it. The links `last.ckpt` and `best.ckpt`
    stand beside the checkpoints.

    Args:
        folder: See `SavesAndStops`.
        config: When to save, what to keep.
        stop: Who may ask the run to stop.
        poll_every_n_steps: Optimiser steps (validation batches) between two agreements of ranks.
        eval_every_n_steps: Optimiser steps between two validations.
        before_save: Called on all ranks before every save; raises to prevent it.
        before_stop: Called on all ranks after the last save of a stopped run.
        around_save: A context that every save runs in.
    """

    def __init__(  # noqa: PLR0913 (wired once)
        self,
        folder: str | Path,
        *,
        config: CheckpointConfig,
        stop: StopRequest,
        poll_every_n_steps: int,
        eval_every_n_steps: int,
        before_save: Callable[[Trainer, LightningModule], None],
        before_stop: Callable[[Trainer, LightningModule], None],
        around_save: Callable[[Trainer], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        super().__init__(folder, stop=stop, every_n_minutes=config.every_n_minutes)
        self.config = config
        self._poll_every = poll_every_n_steps
        self._eval_every = eval_every_n_steps
        self._before_save = before_save
        self._before_stop = before_stop
        self._around_save = around_save
        self._validated_step = 0
        self._best_step = 0
        self._best_loss = math.inf
        self._best_saved = 0
        self._step = 0
        self.owes_validation = False
        """Whether the checkpoint was taken before a validation of its step was over."""
        self._saved: tuple[int, int] | None = None
        self._save_after_validation = False

    def state_dict(self) -> dict[str, Any]:
        """Which step was validated last, and which is the best; plain values."""
        names = ("validated_step", "best_step", "best_loss")
        return {name: getattr(self, f"_{name}") for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a saved run."""
        vars(self).update({f"_{name}": value for name, value in state_dict.items()})
        self._best_saved = self._best_step

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the loops between two optimiser steps of this run's devices and accumulation."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        step = checkpoint["global_step"]
        own = checkpoint["callbacks"].get(self.state_key, {})
        epoch, within = divmod(step, trainer.datamodule.steps_per_epoch)  # type: ignore[attr-defined]
        due = self._validation_due(trainer, step)
        self.owes_validation = due and own.get("validated_step", step) != step
        checkpoint["loops"]["fit_loop"] = loop_state(
            step,
            epoch=epoch,
            within=within,
            accumulation=trainer.accumulate_grad_batches,
            owes_validation=self.owes_validation,
            at_validation=due,
        )

    def _validation_due(self, trainer: Trainer, step: int) -> bool:
        return bool(step and step % self._eval_every == 0 and trainer.enable_validation)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; stop if that was asked for while the run started."""
        self._step = trainer.global_step
        self._saved_at = time.monotonic()
        agreed = ranks_agree(trainer, self.wish())
        self._obey(trainer, pl_module, max(agreed, SAVE * (not self._step and self._keeps(0))))

    def _keeps(self, step: int) -> bool:
        """Return whether the checkpoint of a step is saved and kept for good."""
        every = self.config.keep_every_n_steps
        return every > 0 and step % every == 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """After an optimiser step: save or stop if that is due or asked for."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        agreed = self._agree(trainer, step)
        if self.config.every_n_steps and step % self.config.every_n_steps == 0 or self._keeps(step):
            agreed = max(agreed, SAVE)
        if self._validation_due(trainer, step):
            self._save_after_validation = agreed >= SAVE
            if agreed == SAVE:
                return
        elif step >= trainer.max_steps > 0:
            return  # on_train_end saves
        self._obey(trainer, pl_module, agreed)

    def on_validation_batch_end(  # noqa: PLR0913, PLR0917 (Lightning's signature)
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop inside a validation that belongs to a fit; the resumed run makes up for it."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        agreed = self._agree(trainer, batch_idx + 1)
        if agreed > SAVE:
            self._obey(trainer, pl_module, agreed)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take note of the best; save."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._validated_step = trainer.global_step
        loss = float(trainer.callback_metrics.get("val/loss", math.inf))
        self._is_best(loss, trainer.global_step)
        wish = max(self.wish(), int(self.config.at_validation or self._save_after_validation))
        self._save_after_validation = False
        agreed = ranks_agree(trainer, wish)
        if trainer.global_step >= trainer.max_steps > 0:
            agreed = min(agreed, SAVE)  # the run is done anyway
        self._obey(trainer, pl_module, agreed)

    def _is_best(self, loss: float, step: int) -> bool:
        """Take note of a loss; returns whether it is the best so far."""
        is_best = loss < self._best_loss and self.config.at_validation
        if is_best:
            self._best_loss, self._best_step = loss, step
        return is_best

    def take_late(self, loss: float, step: int) -> None:
        """Take note of a last validation that came when the run was saved and over; on one rank.

        The checkpoint owes it as before: a run that is made longer passes through it once more,
        where all callbacks see it.
        """
        path = checkpoint_path(self.folder, step)
        if not path.exists() or not self._is_best(loss, step):
            return
        if not is_sharded(path):
            content = load_checkpoint(path)
            content["callbacks"][self.state_key] |= {"best_step": step, "best_loss": loss}
            write_checkpoint(content, path)
        self.after_save(path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if the end of an epoch is a time to do so."""
        if self.config.every_epoch:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run and see every save through."""
        self.save(trainer, pl_module)
        self._finish_saves(trainer)

    def _agree(self, trainer: Trainer, count: int) -> int:
        if trainer.world_size > 1 and count % self._poll_every:
            return 0
        return ranks_agree(trainer, self.wish())

    def _obey(self, trainer: Trainer, pl_module: LightningModule, agreed: int) -> None:
        if agreed >= SAVE:
            self.save(trainer, pl_module)
        if agreed > SAVE:
            self._finish_saves(trainer)
            self._before_stop(trainer, pl_module)
            raise self.stopped(trainer, agreed)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state after the current step, if it is not saved yet; see `write`."""
        now = (trainer.global_step, self._validated_step)
        if self._saved != now:
            self._before_save(trainer, pl_module)
            with self._around_save(trainer):
                self.write(trainer)
            self._saved = now

    def _finish_saves(self, trainer: Trainer) -> None:
        self.attempt(trainer, trainer.strategy.checkpoint_io.wait)  # type: ignore[attr-defined]

    def kept(self, steps: list[int], step: int) -> set[int]:
        """Return the newest steps, the best and those for good; let the links point to theirs."""
        path = checkpoint_path(self.folder, step)
        point_to(self.folder / "last.ckpt", path)
        if step == self._best_step:
            point_to(self.folder / "best.ckpt", path)
            self._best_saved = step
        for_good = {old for old in steps if self._keeps(old)}
        return {*steps[-self.config.keep_last :], self._best_step, self._best_saved, *for_good}
