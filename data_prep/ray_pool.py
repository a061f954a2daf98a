"""The pool of workers on a Ray cluster: same interface, same bytes, any number of machines.

The process that started the build reads the input and writes the output; documents and parts
travel through Ray's object store. So the machines share no folder, and a machine that is lost
takes only work with it that another one does again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import platform
import secrets
import signal
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.pool import Pool, Result, WorkerPool, available_cores

logger = logging.getLogger(__name__)

MAX_RETRIES = 3
LOST_AFTER_S = 30.0
"""So long a cluster may be out of reach, in seconds, before the build gives up."""
STORE_BYTES = 512 << 20
"""Object store of a cluster that is started here; a chunk of 4 MB and its part need 20 MB."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray ends the process without a word of ours after this; LOST_AFTER_S comes first.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
}


def import_ray(address: str = "") -> Any:
    """Return the module `ray`, told to keep quiet.

    A cluster that will be started here is closed to other users: it takes a secret token.

    Args:
        address: Of a running cluster; empty: one will be started here.

    Raises:
        ValueError: It is not installed.
    """
    for name, value in _SETTINGS.items():
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


def _run(expected: dict[str, str], task: Callable[[], Result]) -> Result:
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


class RayPool(Pool):
    """Runs tasks as tasks of Ray; what Ray prints about lost machines is not shown."""

    def __init__(self, num_workers: int, address: str = "") -> None:
        """Prepare a connection; `with` makes it.

        Args:
            num_workers: At most so many tasks at the same time; 0: as many as there are CPUs.
            address: `host:port` of a running cluster, `auto` for the one this machine belongs
                to, or empty to start one on this machine alone.

        Raises:
            ValueError: Ray is not installed, or the address is none.
        """
        if address and address != "auto" and not _host_and_port(address):
            raise ValueError(
                f"--ray-address {address}: allowed are HOST:PORT of a running cluster, auto, or "
                "nothing. The build must run on a machine of the cluster (`ray start "
                "--address HOST:PORT`); addresses with :// are for clients outside of it."
            )
        self._ray = import_ray(address)
        self._address = address
        self._limit = num_workers
        self.num_workers = num_workers or available_cores()
        self._remote = self._ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_run)
        self._looked_at = 0.0
        self._lost_since = math.inf
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> RayPool:
        """Connect to the cluster, or start one.

        Raises:
            ValueError: The cluster cannot be reached, or has no CPU.
        """
        with contextlib.ExitStack() as stack:
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            if not self._ray.is_initialized():
                self._connect()
                stack.callback(self._ray.shutdown)
            self._gcs = _host_and_port(self._ray.get_runtime_context().gcs_address)
            self._check_cluster()
            nodes = sum(node["Alive"] for node in self._ray.nodes())
            logger.info("Ray: %d nodes, %d tasks at the same time", nodes, self.num_workers)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        """Leave the cluster, or stop the one started here."""
        self._cleanup.__exit__(*details)

    def _connect(self) -> None:
        place = _host_and_port(self._address)
        if place and not _answers(place):
            raise ValueError(
                f"--ray-address {self._address}: nothing answers there; start the cluster with "
                "`ray start --head --port PORT`, or leave the option out."
            )
        options: dict[str, Any] = {"address": self._address}
        if not self._address:
            options = {
                "address": "local",
                "num_cpus": self.num_workers,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
            }
        with _signal_handlers_kept():
            try:
                self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"--ray-address {self._address or '(none)'}: no Ray cluster can be reached or "
                    f"started ({type(error).__name__}: {reason}). The build must run on a machine "
                    "of the cluster."
                ) from error

    def run_here(self, task: Callable[[], object]) -> None:
        """Run one task in a process beside this one, which sees the same files."""
        with WorkerPool(max(2, available_cores())) as pool:
            pool.run_here(task)

    def _submit(self, task: Callable[[], object]) -> Any:
        return self._remote.remote(code_signature(), task)

    def _cancel(self, handle: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(handle)

    def _most_in_flight(self) -> int:
        if time.monotonic() - self._looked_at > 5.0:
            self._check_cluster()
        return self.num_workers if self._limit and self._address else 2 * self.num_workers

    def _wait(self, handle: Any) -> Any:
        errors = self._ray.exceptions
        try:
            while not self._ray.wait([handle], timeout=1.0)[0]:
                self._check_cluster()
            return self._ray.get(handle)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise ValueError(
                    f"a machine of the Ray cluster cannot import what the build needs "
                    f"({error.cause}); install ponet on all machines."
                ) from error
            raise error.cause from error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise ValueError(
                f"workers of the Ray cluster died {MAX_RETRIES + 1} times at the same work "
                f"({type(error).__name__}), probably for want of memory; lower num_workers or "
                "chunk_megabytes and run again: finished parts are kept."
            ) from error
        except errors.RayError as error:
            raise _lost(type(error).__name__) from error

    def _check_cluster(self) -> None:
        """Look how many CPUs the cluster has now: machines come and go.

        Raises:
            ValueError: It has been out of reach, or without a CPU, for too long.
        """
        now = self._looked_at = time.monotonic()
        reason = "its head node does not answer"
        if _answers(self._gcs):
            reason = "no machine with a CPU is left"
            if cpus := int(self._ray.cluster_resources().get("CPU", 0)):
                self.num_workers = min(self._limit or cpus, cpus)
                self._lost_since = math.inf
                return
        self._lost_since = min(self._lost_since, now)
        if now - self._lost_since > LOST_AFTER_S:
            raise _lost(f"{reason} for {LOST_AFTER_S:.0f} s")


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
    """Return whether a port takes connections."""
    if place is None:
        return True
    try:
        socket.create_connection(place, timeout=5.0).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray replaces by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
