"""Trials as processes of this machine, some at a time.

Invariant: a trial is started only under its lock, which its process inherits. A runner that is
asked to stop hands that on and waits, so every run saves a checkpoint; exit code 75 means that the
trial is to be started again.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal, NamedTuple

from training.interruption import EXIT_STOPPED, say
from training.studies.trials import LOG_FILE, Trial, environment_of

POLL_S, RETRY_S = 0.1, 2.0
MAX_STARTS = 50
"""So often in a row a trial that ends with exit code 75 is started again by one runner."""


class Outcome(NamedTuple):
    """How a trial ended."""

    state: Literal["done", "failed", "interrupted", "elsewhere"]
    """interrupted: this runner was asked to stop; elsewhere: another one has it."""
    error: str = ""
    """Why it failed, in one line."""
    elapsed_s: float = 0.0
    """Wall time of its last start; 0 where nothing was run."""


def gpu_names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: the GPUs this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


@dataclass
class _Started:
    """A process of a trial, and the lock it runs under."""

    trial: Trial
    process: "subprocess.Popen[bytes]"
    resources: contextlib.ExitStack
    began: float


@dataclass
class LocalRunner:
    """Runs trials, `jobs` at a time."""

    jobs: int = 1
    """Trials at once."""
    gpus: Sequence[str] = ()
    """GPUs that they share, if jobs is more than 1."""
    retry_failed: bool = False
    """Run again what failed before."""
    wait: bool = True
    """Wait for trials that another runner has, and take over what it leaves open."""
    received: signal.Signals | None = None
    """What asked the runner to stop."""
    _waiting: deque[Trial] = field(default_factory=deque)
    _elsewhere: deque[Trial] = field(default_factory=deque)
    _running: dict[int, _Started] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome]]:
        """Run trials and yield each that has ended, or that is left to another runner."""
        self._waiting.extend(trials)
        try:
            with self._signals():
                while self._running or (self._has_more() and self.received is None):
                    yield from self._fill()
                    yield from self._ended()
                    if not self._running and self._elsewhere and not self._waiting:
                        if not self.wait:
                            break
                        self._wait_for_others()
                    time.sleep(POLL_S)
        finally:
            self._stop_all()
        if not self.wait:
            yield from ((trial, Outcome("elsewhere")) for trial in self._elsewhere)

    def _has_more(self) -> bool:
        return bool(self._waiting or self._elsewhere)

    def _fill(self) -> Iterator[tuple[Trial, Outcome]]:
        """Start trials in the free places."""
        for place in range(self.jobs):
            while place not in self._running and self._waiting and self.received is None:
                trial = self._waiting.popleft()
                outcome = self._start(trial, place)
                if outcome is not None and outcome.state == "elsewhere":
                    self._elsewhere.append(trial)
                elif outcome is not None:
                    yield trial, outcome

    def _start(self, trial: Trial, place: int) -> Outcome | None:
        """Start a trial; an outcome where there is nothing to start."""
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(trial.locked())
            if lock is None:
                return Outcome("elsewhere")
            state = trial.state()
            if state == "done":
                return Outcome("done")
            if state == "failed" and not self.retry_failed:
                return Outcome("failed", error=str(trial.record().get("error", "")))
            trial.write_start()
            self._starts[trial.name] = self._starts.get(trial.name, 0) + 1
            log = stack.enter_context(open(trial.folder / LOG_FILE, "ab"))
            try:
                process = subprocess.Popen(
                    trial.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment_of(place, self.jobs, self.gpus),
                    start_new_session=True,
                    pass_fds=(lock.fileno(),) if os.name != "nt" else (),
                )
            except OSError as error:
                raise ValueError(
                    f"{trial.command[0]} cannot be started ({error}): look at `command` and "
                    "`program` of the sweep file"
                ) from error
            began = time.monotonic()
            self._running[place] = _Started(trial, process, stack.pop_all(), began)
            return None

    def _ended(self) -> Iterator[tuple[Trial, Outcome]]:
        for place, started in list(self._running.items()):
            code = started.process.poll()
            if code is None:
                continue
            trial = self._running.pop(place).trial
            with started.resources:
                outcome = self._note(trial, code, time.monotonic() - started.began)
            if outcome is None:
                self._waiting.append(trial)
            else:
                yield trial, outcome

    def _note(self, trial: Trial, code: int, elapsed_s: float) -> Outcome | None:
        """Write down how a trial ended; None: it is to be started again."""
        asked = self.received is not None and code != 0
        again = code == EXIT_STOPPED and self._starts[trial.name] < MAX_STARTS
        error = trial.write_end(code, interrupted=asked or again)
        if asked:
            return Outcome("interrupted", elapsed_s=elapsed_s)
        if again:
            say(f"{trial.name}: stopped with a checkpoint (exit code 75), started again")
            return None
        return Outcome("failed" if error else "done", error=error, elapsed_s=elapsed_s)

    def _wait_for_others(self) -> None:
        say(f"waiting for {len(self._elsewhere)} trials that another runner has")
        while self._elsewhere and self.received is None:
            time.sleep(RETRY_S)
            for _ in range(len(self._elsewhere)):
                trial = self._elsewhere.popleft()
                with trial.locked() as lock:
                    is_free = lock is not None
                (self._waiting if is_free else self._elsewhere).append(trial)
            if self._waiting:
                return

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM and SIGHUP stop the runner and its trials; twice: at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        numbers = [getattr(signal, name) for name in names]
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        os.write(2, b"\nstopping: every run saves a checkpoint first; once more stops at once\n")
        for started in list(self._running.values()):
            started.process.send_signal(signal.SIGTERM)

    def _stop_all(self) -> None:
        """End what still runs; a trial cut off here is open."""
        for started in self._running.values():
            started.process.send_signal(signal.SIGTERM)
            started.resources.close()
        self._running.clear()
