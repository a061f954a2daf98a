"""Worker processes: results in order, few tasks in flight, nothing imported that is not needed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREADS = "TOKENIZERS_PARALLELISM"


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _empty_main_module() -> Iterator[None]:
    """Hide the main module while workers start.

    Spawned workers import the parent's main module again: with a training script that costs
    many seconds per worker, and a script without a main guard would start itself anew. The
    functions run here live in importable modules, so the workers do not need it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    os.environ[_THREADS] = "false"


@contextlib.contextmanager
def _single_threaded_tokenizers() -> Iterator[None]:
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


class WorkerPool:
    """Runs functions on tasks; one worker means in this process."""

    def __init__(self, num_workers: int) -> None:
        """Prepare workers; they start with the first task.

        Args:
            num_workers: Number of processes; 0 means one per core.
        """
        self.num_workers = num_workers or available_cores()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers; waiting tasks are dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def map_ordered(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """Yield the result of every task in order; at most two tasks per worker are in flight.

        Raises:
            ValueError: A worker process died, for example for want of memory.
        """
        if self.num_workers == 1:
            with _single_threaded_tokenizers():
                yield from map(function, tasks)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(self._submit(function, task))
                if len(waiting) >= 2 * self.num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process died, probably for want of memory; lower num_workers or "
                "chunk_megabytes and run again: finished parts are kept."
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.num_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        with _empty_main_module():  # any submission may start a worker
            return self._executor.submit(function, task)
