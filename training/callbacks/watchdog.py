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
_SAVING = "saves a checkpoint at step {0}"


def _note(doing: str) -> Any:
    """Return a hook that takes note of progress, and of what comes next."""

    def hook(self: "Watchdog", trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Take a note."""
        self._mark = (time.monotonic(), doing.format(trainer.global_step, trainer.global_step + 1))

    return hook


class Watchdog(Callback):
    """End the process with exit code 76 if a `fit` makes no progress.

    Args:
        minutes: How long nothing may happen; 0: nothing is watched.
    """

    def __init__(self, minutes: float) -> None:
        self.limit_s = 60 * minutes
        self._interval_s = min(30.0, self.limit_s / 10)
        self._stopped = threading.Event()
        self._mark = (time.monotonic(), "")
        self._awake_since = 0.0
        self._started = False
        self._saving = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start watching a fit."""
        if stage != "fit" or not self.limit_s:
            return
        self._stopped.set()  # the thread of an earlier fit
        self._stopped, self._started, self._saving = threading.Event(), False, 0
        self._mark = (time.monotonic(), "is still starting and has no data yet")
        self._awake_since = time.monotonic()
        watched = (trainer, self._stopped)
        threading.Thread(target=self._watch, args=watched, name="watchdog", daemon=True).start()

    on_train_batch_start = _note("is inside step {1} (forward, backward or a collective)")
    on_validation_batch_start = _note("is inside a validation batch after step {0}")
    on_validation_batch_end = _due = _note("waits for data after step {0}")
    on_save_checkpoint = _note(_SAVING)
    on_train_end = _note("is finishing after step {0}")

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """The batch is done, the next one is due."""
        self._started = True
        self._due(trainer)

    @contextmanager
    def saving(self, trainer: Trainer) -> Iterator[None]:
        """Around a save: however long it takes, it is no hang."""
        self._saving += 1
        self.on_save_checkpoint(trainer)
        try:
            yield
        finally:
            self._due(trainer)
            self._saving -= 1

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._stopped.set()

    on_exception = teardown

    def _watch(self, trainer: Trainer, stopped: threading.Event) -> None:
        """Look now and then; in a thread of its own."""
        looked = time.monotonic()
        while not stopped.wait(self._interval_s):
            now = time.monotonic()
            if now - looked > self.limit_s / 2:  # the whole process was suspended meanwhile
                self._awake_since = now
            looked = now
            since, doing = self._mark
            is_quick = self._started and not doing.startswith(_SAVING[:5])
            patience = 1 if is_quick else PATIENCE_AT_START
            stalled_s = now - max(since, self._awake_since)
            if stalled_s > patience * self.limit_s and not self._saving and not stopped.is_set():
                self._end(trainer, stalled_s)

    def _end(self, trainer: Trainer, stalled_s: float) -> None:
        """Say where the process stands, with all its stacks, and end it and all below it."""
        try:
            rank = f"rank {trainer.global_rank} (pid {os.getpid()}) {self._mark[1]}"
            message = f"watchdog: no progress for {stalled_s / 60:.1f} minutes: {rank}"
            os.write(2, f"\n{message}\nStacks of this process:\n".encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
            if trainer.global_rank:  # the first rank hangs too, and its exit code is the run's
                time.sleep(2 * self._interval_s + 1)
        finally:
            kill_descendants()
            os._exit(EXIT_WATCHDOG)
