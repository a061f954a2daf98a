"""Trials as processes of this machine, some at a time.

Invariant: a trial is started only under its lock, which its process inherits. A runner that is
asked to stop hands that on and waits, so every run saves a checkpoint; exit code 75 means that the
trial is to be started again. A run whose runner is gone stops by itself.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import TextIO

from training.interruption import EXIT_STOPPED, RUNNER_VARIABLE, RunnerWatch, say
from training.studies.trials import Outcome, Trial

POLL_S, RETRY_S = 0.1, 2.0
MAX_STARTS = 50
"""So often in a row a trial that ends with exit code 75 is started again by one runner."""
AGENT_VARIABLES = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What would make W&B take what follows a fit for the fit's own run."""


def gpu_names() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES may name: the GPUs this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


def environment_of(place: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment of a trial: its share of GPUs and cores, and who started it.

    Args:
        place: Which of the trials that run at once, from 0.
        jobs: How many run at once; 1 leaves devices and threads as they are.
        gpus: Names of all GPUs.
    """
    environment = {**os.environ, RUNNER_VARIABLE: str(os.getpid())}
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if gpus:
            own = list(gpus[place::jobs]) or [gpus[place % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return environment


@dataclass
class _Started:
    """A trial that runs: its process, what follows it, and the lock they run under."""

    trial: Trial
    lock: TextIO
    log: TextIO | None
    environment: Mapping[str, str]
    steps: deque[Sequence[str]]
    process: "subprocess.Popen[bytes] | None" = None
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    began: float = field(default_factory=time.monotonic)

    def start_next(self) -> None:
        """Start the next process.

        Raises:
            ValueError: There is no such program.
        """
        command = self.steps.popleft()
        if self.process is not None:
            print(f"after the fit: {' '.join(command[2:])}", file=self.log, flush=True)
            own = self.environment.items()
            self.environment = {n: value for n, value in own if n not in AGENT_VARIABLES}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT if self.log else None,
                env=self.environment,
                start_new_session=True,
                pass_fds=(self.lock.fileno(),) if os.name != "nt" else (),
            )
        except OSError as error:
            raise ValueError(
                f"{command[0]} cannot be started ({error}): look at `command` and `program` of "
                "the sweep file"
            ) from error

    def exit_code(self) -> int | None:
        """Return how its process ended; None: it runs."""
        return self.process.poll() if self.process else 0

    def stop(self) -> None:
        """Ask its process to stop."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)


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
    max_starts: int = MAX_STARTS
    """So often a trial is started that ends with exit code 75."""
    received: signal.Signals | None = None
    """What asked the runner to stop."""
    _waiting: deque[Trial] = field(default_factory=deque)
    _elsewhere: deque[Trial] = field(default_factory=deque)
    _running: dict[int, _Started] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome]]:
        """Run trials and yield each that has ended, or that is left to another runner."""
        self._waiting.extend(trials)
        watch = RunnerWatch()
        try:
            with self._signals():
                while self._running or (self._has_more() and self.received is None):
                    yield from self._fill()
                    yield from self._ended()
                    if watch.is_gone and self.received is None:
                        self._stop(signal.SIGTERM, None)
                    if not self._running and self._elsewhere and not self._waiting:
                        if not self.wait:
                            break
                        self._wait_for_others()
                    time.sleep(POLL_S)
        finally:
            self._stop_all()
        if not self.wait:
            yield from ((trial, Outcome("elsewhere")) for trial in self._elsewhere)

    def run_one(self, trial: Trial) -> Outcome:
        """Run a trial and return how it ended."""
        outcomes = [outcome for _, outcome in self.run([trial])]
        return outcomes[-1] if outcomes else Outcome("interrupted", exit_code=EXIT_STOPPED)

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
            settled = trial.settled(retry_failed=self.retry_failed)
            if settled is not None:
                return settled
            steps = deque(trial.steps())
            trial.write_start()
            self._starts[trial.name] = self._starts.get(trial.name, 0) + 1
            log = stack.enter_context(trial.open_log())
            environment = environment_of(place, self.jobs, self.gpus)
            started = _Started(trial, lock, log, environment, steps)
            self._start_next(started)
            started.resources = stack.pop_all()
            self._running[place] = started
            return None

    def _start_next(self, started: _Started) -> None:
        if started.steps:
            started.start_next()
        if self.received is not None:  # it came during the start
            started.stop()

    def _ended(self) -> Iterator[tuple[Trial, Outcome]]:
        for place, started in list(self._running.items()):
            code = started.exit_code()
            if code is None:
                continue
            if code == 0 and started.steps:
                if self.received is None:
                    self._start_next(started)
                    continue
                code = EXIT_STOPPED
            del self._running[place]
            with started.resources:
                outcome = self._note(started.trial, code, time.monotonic() - started.began)
            if outcome is None:
                self._waiting.append(started.trial)
            else:
                yield started.trial, outcome

    def _note(self, trial: Trial, code: int, elapsed_s: float) -> Outcome | None:
        """Write down how a trial ended; None: it is to be started again."""
        asked = self.received is not None and code != 0
        again = code == EXIT_STOPPED and self._starts[trial.name] < self.max_starts
        error = trial.write_end(code, interrupted=asked or again)
        if asked:
            return Outcome("interrupted", elapsed_s=elapsed_s, exit_code=code)
        if again:
            say(f"{trial.name}: stopped with a checkpoint (exit code 75), started again")
            return None
        return Outcome("failed" if error else "done", error, elapsed_s, code)

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
        """Let what asks for a stop end the runner and its trials; twice: the runner at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
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
            started.stop()

    def _stop_all(self) -> None:
        """End what still runs; a trial cut off here is open."""
        for started in self._running.values():
            started.stop()
            started.resources.close()
        self._running.clear()
