"""Trials as processes, some at a time, on this machine or a Ray cluster.

Invariant: what is done is never run twice. A trial is started only under its lock, which its
process inherits. A runner that is asked to stop hands that on and waits, so every run saves a
checkpoint; exit code 75 means that the trial is to be started again. A run whose runner is gone
stops by itself. Ray only chooses where and when: how far a trial is stands in its folder, on a
disk that all machines share.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TextIO

from data_prep.command import counted
from training.interruption import (
    EXIT_STOPPED,
    RUNNER_VARIABLE,
    RunnerWatch,
    say,
)
from training.studies.trials import LOG_FILE, Outcome, Trial

POLL_S, RETRY_S = 0.1, 2.0
AGENT_VARIABLES = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What would make W&B take what follows a fit for the fit's own run."""
Stream = Generator[tuple[Trial, Outcome], None, None]
"""Trials that have ended, one after the other."""


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
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        if gpus:
            own = list(gpus[place::jobs]) or [gpus[place % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return environment


@dataclass
class LocalRunner:
    """Runs trials, `jobs` at a time, which share `gpus`.

    With `wait` it waits for trials that another runner has, and takes over what that leaves open;
    a trial that ends with exit code 75 is started `max_starts` times. `here` does what a command
    says and returns its exit code, instead of a process. `received` asked the runner to stop.
    """

    jobs: int = 1
    gpus: Sequence[str] = ()
    retry_failed: bool = False
    wait: bool = True
    max_starts: int = 50
    here: Callable[[Sequence[str]], int] | None = None
    received: signal.Signals | None = None
    _is_over: bool = False
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _starting: threading.RLock = field(default_factory=threading.RLock)

    def run(self, trials: Sequence[Trial]) -> Stream:
        """Run trials and yield each that has ended, or that is left to another runner."""
        if self.here is not None:
            yield from ((trial, self._run(trial, 0)) for trial in trials if not self.received)
            return
        waiting, watch, told = list(trials), RunnerWatch(), False
        with self._signals():
            while waiting and not self._stops:
                elsewhere = []
                with contextlib.closing(self._run_all(deque(waiting), watch)) as ended:
                    for trial, outcome in ended:
                        if outcome.state == "elsewhere" and self.wait:
                            elsewhere.append(trial)
                        else:
                            yield trial, outcome
                waiting = elsewhere
                if waiting and not told:
                    say(f"waiting for {counted(len(waiting), 'trial(s)')} that another runner has")
                told = bool(waiting)
                time.sleep(RETRY_S if waiting and not self._stops else 0)

    def run_one(self, trial: Trial) -> Outcome:
        """Run a trial and return how it ended."""
        outcomes = [outcome for _, outcome in self.run([trial])]
        return outcomes[-1] if outcomes else Outcome("interrupted", exit_code=EXIT_STOPPED)

    def _run_all(self, waiting: deque[Trial], watch: RunnerWatch) -> Stream:
        ended: SimpleQueue[tuple[Trial, Outcome] | BaseException | None] = SimpleQueue()

        def work(place: int) -> None:
            try:
                while not self._stops:
                    try:
                        trial = waiting.popleft()
                    except IndexError:
                        break
                    ended.put((trial, self._run(trial, place)))
                ended.put(None)
            except BaseException as error:  # of the study, not of a trial
                ended.put(error)

        left = min(self.jobs, len(waiting))
        for place in range(left):
            threading.Thread(target=work, args=(place,), daemon=True).start()
        try:
            while left:
                if watch.is_gone and self.received is None:
                    self._stop(signal.SIGTERM, None)
                try:
                    found = ended.get(timeout=POLL_S)
                except Empty:
                    continue
                if isinstance(found, BaseException):
                    raise found
                left -= found is None
                if found is not None:
                    yield found
        finally:
            self._is_over = left > 0
            if self._is_over:
                self._pass_on()

    @property
    def _stops(self) -> bool:
        return self._is_over or self.received is not None

    def _run(self, trial: Trial, place: int) -> Outcome:
        """Run a trial to its end, if no other runner has it and it is not done."""
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(trial.locked())
            if lock is None:
                return Outcome("elsewhere")
            state, log = trial.state(), None
            if state == "done" or (state == "failed" and not self.retry_failed):
                return Outcome(state, error=str(trial.record().get("error", "")))
            if trial.recorded:
                log = stack.enter_context(open(trial.folder / LOG_FILE, "a", encoding="utf-8"))
            for start in range(1, self.max_starts + 1):
                trial.write_start()
                began = time.monotonic()
                code = self._run_steps(trial, place, lock, log)
                elapsed_s, asked = time.monotonic() - began, self._stops and code != 0
                again = code == EXIT_STOPPED and start < self.max_starts and not asked
                error = trial.write_end(code, interrupted=asked or again)
                if not again:
                    break
                say(f"{trial.name}: stopped with a checkpoint (exit code 75), started again")
            if asked:
                return Outcome("interrupted", error, elapsed_s, code)
            return Outcome("failed" if error else "done", error, elapsed_s, code)

    def _run_steps(self, trial: Trial, place: int, lock: TextIO, log: TextIO | None) -> int:
        """Run the processes of a trial; the exit code of the last."""
        environment = environment_of(place, self.jobs, self.gpus)
        for number, command in enumerate(trial.steps or (trial.command,)):
            if number:
                if self._stops:
                    return EXIT_STOPPED
                print(f"after the fit: {' '.join(command[2:])}", file=log, flush=True)
                environment = {n: v for n, v in environment.items() if n not in AGENT_VARIABLES}
            if self.here is not None:
                code = self.here(command)
            else:
                process = self._start(command, environment, lock, log)
                code = process.wait()
                self._running.discard(process)
            if code:
                return code
        return 0

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], lock: TextIO, log: Any
    ) -> "subprocess.Popen[bytes]":
        with self._starting:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT if log else None,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(lock.fileno(),) if os.name != "nt" else (),
                )
            except OSError as error:
                raise ValueError(
                    f"{command[0]} cannot be started ({error}): look at `command` and `program` "
                    "of the sweep file"
                ) from error
            self._running.add(process)
            if self._stops:  # it came during the start
                process.send_signal(signal.SIGTERM)
            return process

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let what asks for a stop end the runner and its trials; twice: the runner at once."""
        can = threading.current_thread() is threading.main_thread()
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if can else ()
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
        with self._starting:
            self.received = signal.Signals(number)
            text = b"\nstopping: every run saves a checkpoint first; once more stops at once\n"
            os.write(2, text)
            self._pass_on()

    def _pass_on(self) -> None:
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)


def run_on_ray(
    trials: Sequence[Trial],
    *,
    jobs: int,
    resources: Mapping[str, float],
    retry_failed: bool,
    address: str,
) -> Stream:
    """Run trials on a cluster and yield each that has ended.

    Args:
        trials: What to run, in folders on a disk that every machine has at the same path.
        jobs: At most so many at once; 0: as many as the cluster has room for.
        resources: `num_cpus` and `num_gpus` of one trial.
        retry_failed: Run again what failed before.
        address: Of a running cluster, or auto; empty: start one on this machine alone.
    """
    from data_prep.pool import import_ray

    ray = import_ray(address)
    try:
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at --ray_address {address}: {error}") from error
    task = ray.remote(max_retries=0, **resources)(_run_one)
    waiting, running = deque(trials), dict[Any, Trial]()
    try:
        while waiting or running:
            while waiting and len(running) < (jobs or len(trials)):
                trial = waiting.popleft()
                running[task.remote(trial, retry_failed, Path.cwd())] = trial
            [ended], _ = ray.wait(list(running))
            trial = running.pop(ended)
            try:
                outcome = ray.get(ended)
            except ray.exceptions.RayError as error:
                words = [line for line in str(error).splitlines() if line.strip()]
                outcome = Outcome("failed", f"Ray: {words[-1] if words else error!r}")
            yield trial, outcome
    finally:
        ray.shutdown()


def _run_one(trial: Trial, retry_failed: bool, place: Path) -> Outcome:
    """Run a trial in the folder that the study was started from."""
    os.chdir(place)
    return LocalRunner(retry_failed=retry_failed).run_one(trial)
