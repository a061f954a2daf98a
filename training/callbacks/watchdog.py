"""Watchdog: a run that makes no progress says which rank or data worker it waits for, and ends.

Invariant: the training thread only takes notes. Two daemon threads read them: one tells the other
ranks where this one is, one watches. So a file system that hangs cannot silence the second.

Not seen: a hang in C code that keeps Python's lock, and one before Lightning's `setup`.
"""

import faulthandler
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer

from training.heartbeats import (
    Heartbeat,
    in_words,
    lagging,
    main_thread_place,
    read_heartbeats,
)
from training.interruption import EXIT_WATCHDOG
from training.processes import kill_descendants, process_state

PATIENCE_AT_START = 5
"""Limits that pass before start-up, compilation or a save outside `saving` count as a hang."""
_ANSWER_S = 10.0
_Answer = TypeVar("_Answer")


class Watchdog(Callback):
    """End the process with exit code 76 if a `fit` makes no progress.

    Args:
        folder: The run's folder; each rank keeps `heartbeats/rank-<r>.json` there.
        minutes: How long nothing may happen; 0: nothing is watched.
        on_stall: Called with the message before the end, for at most ten seconds.
    """

    def __init__(
        self, folder: str | Path, minutes: float, on_stall: Callable[[str], None] | None = None
    ) -> None:
        self.folder = Path(folder) / "heartbeats"
        self.limit_s = 60 * minutes
        self._on_stall = on_stall
        self._interval_s = min(30.0, self.limit_s / 10)
        self._stopped = threading.Event()
        self._mark = (time.monotonic(), "start", 0)
        self._awake_since = 0.0
        self._started = False
        self._saving = 0
        self._threads: list[threading.Thread] = []

    # --- notes of the training thread ---------------------------------------------------------

    def _note(self, trainer: Trainer, phase: str) -> None:
        self._mark = (time.monotonic(), phase, trainer.global_step)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start watching a fit."""
        if stage != "fit" or not self.limit_s:
            return
        self._stopped.set()  # threads of an earlier fit
        self._stopped, self._started, self._saving = threading.Event(), False, 0
        self._note(trainer, "start")
        self._awake_since = time.monotonic()
        self._threads = [
            threading.Thread(
                target=target,
                args=(trainer, self._stopped),
                name=f"watchdog{target.__name__}",
                daemon=True,
            )
            for target in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch has come."""
        self._note(trainer, "step")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """The batch is done, the next one is due."""
        self._started = True
        self._note(trainer, "data")

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """A validation batch has come."""
        self._note(trainer, "validation")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """A validation batch is done, the next one is due."""
        self._note(trainer, "data")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
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

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching."""
        self._stop(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop watching: the run is ending."""
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if self.limit_s:
            self._stopped.set()
            for thread in self._threads:  # a beat that is being written would stay
                thread.join(timeout=1)
            with suppress(OSError):
                self._file(trainer).unlink(missing_ok=True)
                self.folder.rmdir()  # unless other ranks are still in it

    # --- the two threads ----------------------------------------------------------------------

    def _file(self, trainer: Trainer) -> Path:
        return self.folder / f"rank-{trainer.global_rank}.json"

    def heartbeat(self, trainer: Trainer) -> Heartbeat:
        """Where this rank is now."""
        _, phase, step = self._mark
        return Heartbeat(
            rank=trainer.global_rank,
            pid=os.getpid(),
            host=socket.gethostname(),
            step=step,
            phase=phase,
            place=main_thread_place(),
            beat=time.time(),
        )

    def _beat(self, trainer: Trainer, stopped: threading.Event) -> None:
        path = self._file(trainer)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        while not stopped.is_set():
            with suppress(OSError):  # a full disk is the checkpoint's to report
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(asdict(self.heartbeat(trainer))), encoding="utf-8")
                os.replace(temporary, path)
            stopped.wait(self._interval_s)
        with suppress(OSError):
            path.unlink(missing_ok=True)

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
        try:
            message = f"watchdog: no progress for {in_words(stalled_s)}: "
            message += _within(_ANSWER_S, lambda: self._details(trainer), f"{self._mark}")
            os.write(2, f"\n{message}\nStacks of this process:\n".encode())
            faulthandler.dump_traceback(file=2, all_threads=True)
            call = self._on_stall
            if call is not None:
                _within(_ANSWER_S, lambda: call(message), None)
            if trainer.global_rank:  # the first rank hangs too, and its exit code is the run's
                time.sleep(2 * self._interval_s + 1)
        finally:
            kill_descendants()
            os._exit(EXIT_WATCHDOG)

    def _details(self, trainer: Trainer) -> str:
        own = self.heartbeat(trainer)
        parts = [str(own)]
        if own.phase in ("data", "start"):
            parts.append(next_worker(trainer))
        peers = read_heartbeats(self.folder, trainer.world_size)
        silent_s = 3 * self._interval_s + self.limit_s / 2
        parts.append(lagging(own, peers, world_size=trainer.world_size, silent_s=silent_s))
        return ". ".join(part for part in parts if part)


def next_worker(trainer: Trainer) -> str:
    """Which data worker the next batch comes from, and how that process is."""
    loop: Any = trainer.fit_loop
    if trainer.validating or trainer.sanity_checking:
        loop = loop.epoch_loop.val_loop
    loaders = getattr(loop._combined_loader, "flattened", [])
    if not loaders:
        return ""
    iterator = getattr(loaders[0], "_iterator", None)
    workers = getattr(iterator, "_workers", None)
    if iterator is None or not workers:
        number = getattr(loaders[0], "num_workers", 0)
        return "" if number else "Batches are built in this process (num_workers 0)"
    due = iterator._rcvd_idx
    index = iterator._task_info.get(due, (due % len(workers),))[0]
    pid = workers[index].pid
    return (
        f"The next batch is due from data worker {index} of {len(workers)} "
        f"(pid {pid}, {process_state(pid)})"
    )


def _within(seconds: float, function: Callable[[], _Answer], default: _Answer) -> _Answer:
    """The answer of a function that might hang or fail, or `default`."""
    answers = [default]
    asked = threading.Thread(target=lambda: answers.append(function()), daemon=True)
    asked.start()
    asked.join(seconds)
    return answers[-1]
