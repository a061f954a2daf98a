"""Where the tasks of a build run: processes of this machine, here, or Ray, in `ray_pool`.

Results come in order and few tasks are in flight. Workers end when their parent does; one that
dies ends the build, and the same command goes on with the parts that are finished.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")

_mask: Any = getattr(signal, "pthread_sigmask", None)  # not on Windows


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool(ABC):
    """Runs tasks: functions of importable modules with their arguments, as `functools.partial`."""

    num_workers: int
    """Number of tasks done at the same time."""

    def results(
        self, tasks: Iterable[Callable[[], Result] | None]
    ) -> Generator[Result | None, None, None]:
        """Yield the result of every task in order; None, for work already done, stays None.

        Raises:
            ValueError: A worker died, for example for want of memory.
        """
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(None if task is None else self._submit(task))
                while len(waiting) >= self._most_in_flight():
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for handle in waiting:
                if handle is not None:
                    self._cancel(handle)

    def _result(self, handle: Any) -> Any:
        return None if handle is None else self._wait(handle)

    @abstractmethod
    def run_here(self, task: Callable[[], object]) -> None:
        """Run one task on this machine, which sees its files."""

    @abstractmethod
    def _submit(self, task: Callable[[], object]) -> Any:
        """Return the handle of a task that has begun or will begin."""

    @abstractmethod
    def _wait(self, handle: Any) -> Any:
        """Return the result of a task."""

    @abstractmethod
    def _cancel(self, handle: Any) -> None:
        """Forget a task."""

    @abstractmethod
    def _most_in_flight(self) -> int:
        """Number of tasks that wait or run at most."""


class WorkerPool(Pool):
    """Worker processes; one worker means this process."""

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

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop the workers; waiting tasks are dropped, and on an error those at work too."""
        if self._executor is None:
            return
        if kind is not None:
            self._alive.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._alive.close()
        self._workers_end.close()
        self._executor = None

    def run_here(self, task: Callable[[], object]) -> None:
        """Run one task in a worker."""
        list(self.results([task]))

    def _submit(self, task: Callable[[], Result]) -> Future[Result]:
        if self.num_workers == 1:
            done: Future[Result] = Future()
            done.set_result(task())
            return done
        with _names_dead_worker(), _starting_a_worker():  # any submission may start one
            if self._executor is None:
                self._executor = self._start()
            return self._executor.submit(task)

    def _start(self) -> ProcessPoolExecutor:
        self._workers_end, self._alive = multiprocessing.Pipe(duplex=False)
        return ProcessPoolExecutor(
            self.num_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._workers_end,),
        )

    def _wait(self, handle: Future[Result]) -> Result:
        with _names_dead_worker():
            return handle.result()

    def _cancel(self, handle: Future[Result]) -> None:
        handle.cancel()

    def _most_in_flight(self) -> int:
        return 2 * self.num_workers if self.num_workers > 1 else 1


@contextlib.contextmanager
def _names_dead_worker() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, probably for want of memory; lower num_workers or "
            "chunk_megabytes and run the same command again: finished parts are kept."
        ) from error


@contextlib.contextmanager
def _starting_a_worker() -> Iterator[None]:
    """Let a worker start undisturbed, without the parent's main module.

    A signal is acted on afterwards: a handler that raises in the middle would leave half a worker,
    which complains. And spawned workers import the main module again: with a training script that
    costs many seconds per worker, and a script without a main guard would start itself anew. The
    functions run here live in importable modules, so the workers do not need it.
    """
    if _mask:
        resource_tracker.ensure_running()  # its start would let signals through
        before = _mask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if _mask:
            _mask(signal.SIG_SETMASK, before)


def _start_worker(alive: Connection) -> None:
    """Prepare this worker: Ctrl-C is for its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _mask:
        _mask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed, by will or by death."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)
