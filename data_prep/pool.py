"""Where the tasks of a build run: here, in processes of this machine, or on a Ray cluster.

Results come in order and few tasks are in flight. Workers end when their parent does; one that
dies ends the build, and the same command goes on with the parts that are finished. On Ray the
process that started the build reads and writes all files, and documents and parts travel through
the object store: the machines share no folder, and one that is lost takes only work with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import platform
import secrets
import signal
import socket
import sys
import threading
import time
import types
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from importlib.metadata import version
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
Task = Callable[[], Result]
"""A function of an importable module with its arguments, as `functools.partial`."""

logger = logging.getLogger(__name__)

_MAX_RETRIES = 3
_LOST_AFTER_S = 30.0
"""So long a cluster may be out of reach, in seconds, before the build gives up."""
_STORE_BYTES = 512 << 20
"""Object store of a cluster that is started here; a chunk of 4 MB and its part need 20 MB."""
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray ends the process without a word of ours after this; _LOST_AFTER_S comes first.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
}


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool:
    """Worker processes, begun with the first task; one worker means this process."""

    def __init__(self, num_workers: int) -> None:
        """Set the number of processes; 0 means one per core."""
        self.num_workers = num_workers or available_cores()
        """Number of tasks done at the same time."""
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        """Return itself."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stop the workers; waiting tasks are dropped, and on an error those at work too."""
        if self._executor is not None:
            if kind is not None:
                self._alive.close()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._alive.close()
            self._workers_end.close()
            self._executor = None

    def results(self, tasks: Iterable[Task[Result] | None]) -> Generator[Result | None, None, None]:
        """Yield the result of every task in order; None, for work already done, stays None.

        An error while a task is made is raised in its turn, behind the results of those before it:
        whoever needs no more than these does not meet it, with any number of workers.
        """
        waiting: deque[Any] = deque()
        failures = list[Exception]()
        try:
            for task in _up_to_failure(tasks, failures):
                waiting.append(None if task is None else self._submit(task))
                while len(waiting) >= self._most_in_flight():
                    yield self._wait(waiting.popleft())
            while waiting:
                yield self._wait(waiting.popleft())
            for failure in failures:
                raise failure
        finally:
            for handle in filter(None, waiting):
                self._cancel(handle)

    def run_here(self, task: Task[object]) -> None:
        """Run one task in a worker of this machine, which sees its files."""
        list(self.results([task]))

    def _submit(self, task: Task[Any]) -> Any:
        if self.num_workers == 1:
            done: Future[Any] = Future()
            done.set_result(task())
            return done
        with _names_dead_worker(), _starting_a_worker():  # any submission may start one
            if self._executor is None:
                self._workers_end, self._alive = multiprocessing.Pipe(duplex=False)
                self._executor = ProcessPoolExecutor(
                    self.num_workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_start_worker,
                    initargs=(self._workers_end,),
                )
            return self._executor.submit(task)

    def _wait(self, handle: Any) -> Any:
        with _names_dead_worker():
            return None if handle is None else handle.result()

    def _cancel(self, handle: Any) -> None:
        handle.cancel()

    def _most_in_flight(self) -> int:
        return 2 * self.num_workers if self.num_workers > 1 else 1


def _up_to_failure(tasks: Iterable[Result], failures: list[Exception]) -> Iterator[Result]:
    """Yield tasks; an error while one is made ends them and goes to `failures`."""
    try:
        yield from tasks
    except Exception as error:
        failures.append(error)


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
    resource_tracker.ensure_running()  # its start would let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(alive: Connection) -> None:
    """Prepare this worker: Ctrl-C is for its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: Connection) -> None:
    """End this process as soon as the other end of a pipe is closed, by will or by death."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)


def import_ray(address: str = "") -> Any:
    """Return the module `ray`, told to keep quiet.

    A cluster that will be started here is closed to other users: it takes a secret token.

    Args:
        address: Of a running cluster; empty: one will be started here.
    """
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    if not address and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f"--engine ray needs Ray, which cannot be imported ({error}): pip install -e '.[ray]'."
        ) from error
    return ray


@lru_cache(maxsize=1)
def code_signature() -> dict[str, str]:
    """Return what must be alike on all machines, or their parts would differ."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    return {
        "data_prep code": sha.hexdigest()[:12],
        "Python": ".".join(map(str, sys.version_info[:2])),
        "Unicode": unicodedata.unidata_version,
        **{name: version(name) for name in ("numpy", "sentencex", "tokenizers")},
    }


def _run(expected: dict[str, str], task: Task[Result]) -> Result:
    """Run one task in a worker, after checking that its machine would give the same bytes."""
    differing = [
        f"{name} {value} (here {expected[name]})"
        for name, value in code_signature().items()
        if value != expected[name]
    ]
    if differing:
        raise ValueError(
            f"machine {platform.node()} of the Ray cluster has {', '.join(differing)}; install the "
            "same versions on all machines."
        )
    return task()


class RayPool(WorkerPool):
    """Runs tasks as tasks of Ray; what Ray prints about lost machines is not shown."""

    def __init__(self, num_workers: int, address: str = "") -> None:
        """Prepare a connection; `with` makes it.

        Args:
            num_workers: At most so many tasks at the same time; 0: as many as there are CPUs.
            address: `host:port` of a running cluster, `auto` for the one this machine belongs
                to, or empty to start one on this machine alone.
        """
        super().__init__(num_workers)
        if address and address != "auto" and not _host_and_port(address):
            raise ValueError(
                f"--ray-address {address}: allowed are HOST:PORT of a running cluster, auto, or "
                "nothing. The build must run on a machine of the cluster (`ray start "
                "--address HOST:PORT`); addresses with :// are for clients outside of it."
            )
        self._ray = import_ray(address)
        self._address = address
        self._limit = num_workers
        self._remote = self._ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_run)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> RayPool:
        """Connect to the cluster, or start one."""
        with contextlib.ExitStack() as stack:
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            if not self._ray.is_initialized():
                self._connect()
                stack.callback(self._ray.shutdown)
            self._gcs = _host_and_port(self._ray.get_runtime_context().gcs_address)
            self._seen_at = time.monotonic()
            self._check_cluster()
            nodes = sum(node["Alive"] for node in self._ray.nodes())
            logger.info("Ray: %d nodes, %d tasks at the same time", nodes, self.num_workers)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        """Leave the cluster, or stop the one started here."""
        self._cleanup.__exit__(*details)

    def _connect(self) -> None:
        """Connect; SIGTERM keeps its handler, which Ray replaces by its own."""
        if not _answers(_host_and_port(self._address)):
            raise ValueError(
                f"--ray-address {self._address}: nothing answers there; start the cluster with "
                "`ray start --head --port PORT`, or leave the option out."
            )
        own: dict[str, Any] = {"num_cpus": self.num_workers, "num_gpus": 0}
        own |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        own |= {"_node_ip_address": "127.0.0.1", "address": "local"}
        options = {"address": self._address} if self._address else own
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"--ray-address {self._address or '(none)'}: no Ray cluster can be reached or "
                f"started ({type(error).__name__}: {reason}). The build must run on a machine of "
                "the cluster."
            ) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)

    def run_here(self, task: Task[object]) -> None:
        """Run one task in a process beside this one, which sees the same files."""
        with WorkerPool(max(2, available_cores())) as pool:
            pool.run_here(task)

    def _submit(self, task: Task[Any]) -> Any:
        return self._remote.remote(code_signature(), task)

    def _cancel(self, handle: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(handle)

    def _most_in_flight(self) -> int:
        if time.monotonic() - self._seen_at > 5.0:
            self._check_cluster()
        return self.num_workers if self._limit and self._address else 2 * self.num_workers

    def _wait(self, handle: Any) -> Any:
        if handle is None:
            return None
        errors = self._ray.exceptions
        try:
            while not self._ray.wait([handle], timeout=1.0)[0]:
                self._check_cluster()
            return self._ray.get(handle)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ImportError):
                cause = ValueError(
                    f"a machine of the Ray cluster cannot import what the build needs ({cause}); "
                    "install ponet on all machines."
                )
            raise cause from error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise ValueError(
                f"workers of the Ray cluster died {_MAX_RETRIES + 1} times at the same work "
                f"({type(error).__name__}), probably for want of memory; lower num_workers or "
                "chunk_megabytes and run again: finished parts are kept."
            ) from error
        except errors.RayError as error:
            raise _lost(type(error).__name__) from error

    def _check_cluster(self) -> None:
        """Look how many CPUs the cluster has now: machines come and go; refuse a lost one."""
        now, answers = time.monotonic(), _answers(self._gcs)
        if cpus := int(self._ray.cluster_resources().get("CPU", 0)) if answers else 0:
            self.num_workers = min(self._limit or cpus, cpus)
            self._seen_at = now
        elif now - self._seen_at > _LOST_AFTER_S:
            reason = "no machine with a CPU is left" if answers else "its head node does not answer"
            raise _lost(f"{reason} for {_LOST_AFTER_S:.0f} s")


def _lost(reason: str) -> ValueError:
    return ValueError(
        f"the Ray cluster is lost ({reason}); start it again and run the same command: finished "
        "parts are kept."
    )


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdigit():
        return None
    return host, int(port)


def _answers(place: tuple[str, int] | None) -> bool:
    """Return whether a port takes connections; of no place nothing is known against it."""
    try:
        if place is not None:
            socket.create_connection(place, timeout=5.0).close()
    except OSError:
        return False
    return True
