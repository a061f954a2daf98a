"""Processes that run the trials of a grid, one trial after the other in each.

Invariant: a process that is killed costs its own trial only; the others go on.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from finetune.grids.files import RESULT_FILE, FitFunction, Outcome, PlannedTrial, exit_reason
from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, RunInterrupted

TRIALS_PER_PROCESS = 25
"""A process is replaced after so many, so that nothing can pile up in it."""


def fit_trial(trial_yaml: Path) -> None:
    """Run the fit of a trial in this process."""
    from finetune.lightning_cli import run_command

    try:
        run_command(["fit", "--config", str(trial_yaml)])
    except RunInterrupted as stopped:
        if stopped.exit_code in (EXIT_INTERRUPT, EXIT_STOPPED):  # meant for the whole grid
            raise KeyboardInterrupt from stopped
        raise


def gpu_names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: the GPUs this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@dataclass
class Worker:
    """A process and the trial it is at."""

    process: SpawnProcess
    connection: "Connection[Any, Any]"
    planned: PlannedTrial
    num_trials: int = 1

    def give(self, planned: PlannedTrial) -> None:
        """Hand it the next trial."""
        self.planned, self.num_trials = planned, self.num_trials + 1
        self.connection.send(planned)

    def outcome(self) -> Outcome:
        """How its trial ended, once the connection or the process has something to say."""
        try:
            if self.connection.poll():
                outcome = self.connection.recv()
                assert isinstance(outcome, Outcome)
                return outcome
        except (EOFError, ConnectionResetError):
            pass  # it died before it could answer
        self.process.join()
        if (self.planned.folder / RESULT_FILE).is_file():
            return Outcome("done", is_worker_spoilt=True)
        error = exit_reason(self.process.exitcode)
        self.planned.write_failure(error)
        return Outcome("failed", error=error, is_worker_spoilt=True)

    def end(self, *, at_once: bool) -> None:
        """End the process; a trial cut off leaves nothing that counts as done."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(None)
        self.connection.close()
        if not at_once:
            self.process.join(10.0)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


@dataclass
class WorkerPool:
    """Some processes, one GPU each where there are any."""

    fit: FitFunction
    jobs: int
    gpus: Sequence[str]
    retry_failed: bool
    _workers: dict[int, Worker] = field(default_factory=dict)

    def run(self, planned: Sequence[PlannedTrial]) -> Iterator[tuple[PlannedTrial, Outcome]]:
        """Run trials and yield each one that has ended; ends every process when it is closed."""
        waiting = deque(planned)
        try:
            for place in range(min(self.jobs, len(waiting))):
                self._workers[place] = self._started(place, waiting.popleft())
            while self._workers:
                place = self._next_place()
                worker = self._workers[place]
                trial, outcome = worker.planned, worker.outcome()
                is_spent = outcome.is_worker_spoilt or worker.num_trials >= TRIALS_PER_PROCESS
                if is_spent or not waiting:
                    self._workers.pop(place).end(at_once=False)
                if waiting and is_spent:
                    self._workers[place] = self._started(place, waiting.popleft())
                elif waiting:
                    worker.give(waiting.popleft())
                yield trial, outcome
        finally:
            for worker in self._workers.values():
                worker.end(at_once=True)
            self._workers.clear()

    def _started(self, place: int, planned: PlannedTrial) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self.gpus[place % len(self.gpus)] if self.gpus else None
        threads = max(1, (os.cpu_count() or 1) // self.jobs) if self.jobs > 1 else None
        process = context.Process(
            target=_work, args=(theirs, self.fit, self.retry_failed, gpu, threads)
        )
        process.start()
        theirs.close()
        ours.send(planned)
        return Worker(process=process, connection=ours, planned=planned)

    def _next_place(self) -> int:
        """The place of a worker that has answered or died."""
        sources: dict[Any, int] = {}
        for place, worker in self._workers.items():
            sources[worker.connection] = sources[worker.process.sentinel] = place
        return sources[wait(list(sources))[0]]


def _work(
    connection: "Connection[Any, Any]",
    fit: FitFunction,
    retry_failed: bool,
    gpu: str | None,
    threads: int | None,
) -> None:
    """Run trials until there are no more; torch is imported after the devices are chosen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the grid, which ends this process
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    while True:
        try:
            planned = connection.recv()
        except EOFError:  # the grid is gone
            return
        if planned is None:
            return
        outcome = planned.run(fit, retry_failed=retry_failed, redirect=True)
        with suppress(BrokenPipeError):
            connection.send(outcome)


def run_here(
    planned: Sequence[PlannedTrial], fit: FitFunction, *, retry_failed: bool
) -> Iterator[tuple[PlannedTrial, Outcome]]:
    """Run trials in this process, one after the other, with their output on the terminal."""
    for trial in planned:
        yield trial, trial.run(fit, retry_failed=retry_failed, redirect=False)
