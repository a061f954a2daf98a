"""Worker processes: results in order, few tasks in flight, nothing imported that is not needed.

A worker that dies is replaced and its task done again; workers end when their parent does.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

MAX_TRIES = 3
_THREADS = "TOKENIZERS_PARALLELISM"
_mask: Any = getattr(signal, "pthread_sigmask", None)  # not on Windows


class Pool(Protocol):
    """What the stages of a build need: somewhere to run functions on tasks."""

    num_workers: int
    """Number of tasks done at the same time."""

    def map_ordered(
        self, function: Callable[[Task], Result], tasks: Iterable[Task | None]
    ) -> Iterator[Result | None]:
        """Yield the result of every task in order; None, for work already done, stays None."""

    def run_here(self, function: Callable[[Task], Result], task: Task) -> None:
        """Run one function on this machine, which sees its files."""


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


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let workers start undisturbed: a signal is acted on afterwards.

    A handler that raises in the middle would leave half a worker, which complains. The mask is
    for the worker, which inherits it: Ctrl-C is for its parent.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(n))]
    before = {n: signal.signal(n, lambda number, _: held.append(number)) for n in numbers}
    mask = _mask(signal.SIG_BLOCK, {signal.SIGINT}) if _mask else None
    try:
        yield
    finally:
        if _mask:
            _mask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _start_worker(alive: Connection) -> None:
    os.environ[_THREADS] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed, by will or by death."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)


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


class _Workers:
    """A set of worker processes, and the pipe whose end is theirs too."""

    def __init__(self, num_workers: int) -> None:
        self._worker_end, self._our_end = multiprocessing.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._worker_end,),
        )

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        with _empty_main_module(), _signals_held():  # any submission may start a worker
            return self._executor.submit(function, task)

    def stop(self, *, now: bool) -> None:
        if now:
            self._our_end.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._our_end.close()
        self._worker_end.close()


@dataclass
class _Running(Generic[Task, Result]):
    """A task in flight."""

    task: Task
    workers: _Workers
    future: Future[Result]
    tries: int = 1


class WorkerPool:
    """Runs functions on tasks; one worker means in this process."""

    def __init__(self, num_workers: int) -> None:
        """Prepare workers; they start with the first task.

        Args:
            num_workers: Number of processes; 0 means one per core.
        """
        self.num_workers = num_workers or available_cores()
        self._workers: _Workers | None = None

    def __enter__(self) -> WorkerPool:
        """Return itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop the workers; waiting tasks are dropped, and on an error those at work too."""
        if self._workers is not None:
            self._workers.stop(now=kind is not None)
            self._workers = None

    def map_ordered(
        self, function: Callable[[Task], Result], tasks: Iterable[Task | None]
    ) -> Iterator[Result | None]:
        """Yield the result of every task in order; at most two tasks per worker are in flight.

        Args:
            function: A function of an importable module; it may run more than once on a task.
            tasks: None stands for work that is already done; its result is None.

        Raises:
            ValueError: Worker processes died again and again, for example for want of memory.
        """
        if self.num_workers == 1:
            with _single_threaded_tokenizers():
                for task in tasks:
                    yield None if task is None else function(task)
            return
        waiting: deque[_Running[Task, Result] | None] = deque()
        try:
            for task in tasks:
                waiting.append(None if task is None else self._submit(function, task))
                if len(waiting) >= 2 * self.num_workers:
                    yield self._result(function, waiting.popleft())
            while waiting:
                yield self._result(function, waiting.popleft())
        finally:
            for running in waiting:
                if running is not None:
                    running.future.cancel()

    def run_here(self, function: Callable[[Task], Result], task: Task) -> None:
        """Run one function in a worker."""
        for _ in self.map_ordered(function, [task]):
            pass

    def _submit(self, function: Callable[[Task], Result], task: Task) -> _Running[Task, Result]:
        if self._workers is None:
            self._workers = _Workers(self.num_workers)
        try:
            future = self._workers.submit(function, task)
        except BrokenProcessPool:
            self._drop(self._workers)
            self._workers = _Workers(self.num_workers)
            future = self._workers.submit(function, task)
        return _Running(task, self._workers, future)

    def _result(
        self, function: Callable[[Task], Result], running: _Running[Task, Result] | None
    ) -> Result | None:
        if running is None:
            return None
        while True:
            try:
                return running.future.result()
            except (BrokenProcessPool, CancelledError) as error:
                self._drop(running.workers)
                if running.tries == MAX_TRIES:
                    raise ValueError(
                        f"a worker process died {MAX_TRIES} times at the same work, probably for "
                        "want of memory; lower num_workers or chunk_megabytes and run again: "
                        "finished parts are kept."
                    ) from error
                again = self._submit(function, running.task)
                again.tries = running.tries + 1
                running = again

    def _drop(self, workers: _Workers) -> None:
        """Forget workers of which one died."""
        if workers is self._workers:
            logger.warning("a worker process died; its work is done again")
            workers.stop(now=True)
            self._workers = None
