"""Watchdog: a run that makes no progress shows where it stands, and ends.

Invariant: the training thread only takes notes; one daemon thread reads them and touches no file,
so a file system that hangs cannot silence it.

Not seen: a hang in C code that keeps Python's lock, and one before Lightning's `setup`.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from training.interruption import EXIT_WATCHDOG, kill_descendants

PATIENCE_AT_START = 5
"""Limits that pass before start-up, compilation or a save outside `saving` count as a hang."""
_PHASES = {
    "start": "is still starting and has no data yet",
    "data": "waits for data after step {step}",
    "step": "is inside step {done} (forward, backward or a collective)",
    "validation": "is inside a validation batch after step {step}",
    "save": "saves a checkpoint at step {step}",
    "end": "is finishing after step {step}",
}


class Watchdog(Callback):
    """End the process with exit code 76 if a `fit` makes no progress.

    Args:
        minutes: How long nothing may happen; 0: nothing is watched.
    """

    def __init__(self, minutes: float) -> None:
        self.limit_s = 60 * minutes
        self._interval_s = min(30.0, self.limit_s / 10)
        self._stopped = threading.Event()
        self._mark = (time.monotonic(), "start", 0)
        self._awake_since = 0.0
        self._started = False
        self._saving = 0

    # --- notes of the training thread ---------------------------------------------------------

    def _note(self, trainer: Trainer, phase: str) -> None:
        self._mark = (time.monotonic(), phase, trainer.global_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start watching a fit."""
        if stage != "fit" or not self.limit_s:
            return
        self._stopped.set()  # the thread of an earlier fit
        self._stopped, self._started, self._saving = threading.Event(), False, 0
        self._note(trainer, "start")
        self._awake_since = time.monotonic()
        watch = {"target": self._watch, "args": (trainer, self._stopped)}
        threading.Thread(**watch, name="watchdog", daemon=True).start()  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """The batch has come."""
        self._note(trainer, "step")

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """The batch is done, the next one is due."""
        self._started = True
        self._note(trainer, "data")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """A validation batch has come."""
        self._note(trainer, "validation")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """A validation batch is done, the next one is due."""
        self._note(trainer, "data")

    def on_save_checkpoint(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Somebody saves; the next note of the loop ends it."""
        self._note(trainer, "save")

    @contextmanager
    def saving(self, trainer: Trainer) -> Iterator[None]:
        """Around a save: however long it takes, it is no hang."""
        self._saving += 1
        self._note(trainer, "save")
        try:
            yield
        finally:
            self._note(trainer, "data")
            self._saving -= 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports and exports follow."""
        self._note(trainer, "end")

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._stopped.set()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Stop watching: the run is ending."""
        self._stopped.set()

    # --- the watching thread ------------------------------------------------------------------

    def _watch(self, trainer: Trainer, stopped: threading.Event) -> None:
        looked = time.monotonic()
        while not stopped.wait(self._interval_s):
            now = time.monotonic()
            if now - looked > self.limit_s / 2:  # the whole process was suspended meanwhile
                self._awake_since = now
            looked = now
            stalled_s = self._stalled_s(now)
            if stalled_s is not None and not stopped.is_set():
                self._end(trainer, stalled_s)

    def _stalled_s(self, now: float) -> float | None:
        """Seconds without progress if they are too many, else None."""
        since, phase, _ = self._mark
        patience = 1 if self._started and phase != "save" else PATIENCE_AT_START
        stalled = now - max(since, self._awake_since)
        return stalled if stalled > patience * self.limit_s and not self._saving else None

    def _end(self, trainer: Trainer, stalled_s: float) -> None:
        """Say where the process stands, with all its stacks, and end it and all below it."""
        try:
            _, phase, step = self._mark
            doing = _PHASES[phase].format(step=step, done=step + 1)
            rank = f"rank {trainer.global_rank} (pid {os.getpid()})"
            message = f"watchdog: no progress for {stalled_s / 60:.1f} minutes: {rank} {doing}"
            os.write(2, f"\n{message}\nStacks of this process:\n".encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
            if trainer.global_rank:  # the first rank hangs too, and its exit code is the run's
                time.sleep(2 * self._interval_s + 1)
        finally:
            kill_descendants()
            os._exit(EXIT_WATCHDOG)
