"""The folder of a sweep and of its trials: what is run, how each ended, and what it found.

Invariant: a trial is done when its trial.json says so: exit code 0, metrics readable. Whoever
writes there holds the trial's lock, so two runners never run the same trial; a process of the
trial that outlives its runner holds it as well.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TextIO

import yaml

from data_prep.file_lock import file_lock
from data_prep.files import write_atomic
from training.metrics_rows import own_test_rows, read_metrics
from training.studies.reading import Sweep

FORMAT_VERSION = 1
TRIAL_FILE, LOG_FILE, LOCK_FILE = "trial.json", "trial.log", ".trial.lock"
SWEEP_FILE, SETTINGS_FILE = "sweep.yaml", "sweep.json"
METRICS_FILE, RESULT_FILE = "metrics.jsonl", "result.json"

State = Literal["done", "failed", "open"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Name of its folder below the sweep's, and of its run."""
    folder: Path
    """Where it is kept; the folder of its run."""
    parameters: Mapping[str, Any]
    """What the sweep chose for it."""
    command: tuple[str, ...]
    """What is started."""

    def record(self) -> dict[str, Any]:
        """What trial.json holds; empty before the first start.

        Raises:
            ValueError: The file is damaged.
        """
        path = self.folder / TRIAL_FILE
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path}: is not valid JSON ({error}); remove it, and the trial is run again"
            ) from error
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path}: is not a trial of format_version {FORMAT_VERSION}; remove it, and the "
                "trial is run again"
            )
        return content

    def state(self) -> State:
        """How far it is; whatever was interrupted is open."""
        record = self.record()
        state = record.get("state")
        return state if state in ("done", "failed") else "open"

    @contextlib.contextmanager
    def locked(self) -> Iterator[TextIO | None]:
        """The open lock file, or None while another runner or a process it left has the trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / LOCK_FILE) as stream:
            yield stream

    def write_start(self) -> None:
        """Note that it is being run."""
        before = self.record()
        self._write(
            {
                "state": "running",
                "exit_code": None,
                "error": "",
                "starts": int(before.get("starts", 0)) + 1,
                "first_started": before.get("first_started") or _now(),
                "started": _now(),
                "ended": None,
                "machine": platform.node(),
                "metrics": {},
            }
        )

    def write_end(self, exit_code: int, *, interrupted: bool) -> str:
        """Note how its process ended; returns why it failed, or nothing.

        Args:
            exit_code: Of the process; below 0: the signal that ended it.
            interrupted: It was asked to stop, and is to be started again.
        """
        error, metrics = "", {}
        if exit_code and not interrupted:
            error = exit_reason(exit_code, self._log_end())
        try:
            metrics = self.last_metrics()
        except ValueError as problem:
            error = error or str(problem)
        state = "failed" if error else "interrupted" if exit_code else "done"
        ended = {"state": state, "exit_code": exit_code, "error": error, "ended": _now()}
        self._write({**self.record(), **ended, "metrics": metrics})
        return error

    def _write(self, values: Mapping[str, Any]) -> None:
        content = {
            **values,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "parameters": dict(self.parameters),
            "command": list(self.command),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomic(self.folder / TRIAL_FILE, text.encode("utf-8"))

    def last_metrics(self) -> dict[str, float]:
        """The newest value of every metric the run has logged, and what a fine-tuning run scored.

        Raises:
            ValueError: A metrics file is damaged.
        """
        metrics: dict[str, float] = {}
        if (self.folder / METRICS_FILE).is_file():
            rows = [*read_metrics(self.folder / METRICS_FILE), *own_test_rows(self.folder)]
            for row in rows:
                metrics.update(row)
        if (self.folder / RESULT_FILE).is_file():
            result = json.loads((self.folder / RESULT_FILE).read_text(encoding="utf-8"))
            for split, scores in result.get("evaluation", {}).items():  # of the best epoch
                stage = split.replace("validation", "val", 1)
                metrics.update({f"{stage}/{name}": value for name, value in scores.items()})
        return metrics

    def _log_end(self) -> str:
        """The last line its process printed."""
        path = self.folder / LOG_FILE
        if not path.is_file():
            return ""
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
        return next((line.strip()[-400:] for line in reversed(lines) if line.strip()), "")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def exit_reason(exit_code: int, last_line: str) -> str:
    """In words, how a process ended that did not end well."""
    number = -exit_code if exit_code < 0 else exit_code - 128  # as a shell counts
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        memory = ", often because the memory ran out" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    return f"exit code {exit_code}" + (f": {last_line}" if last_line else "")


def prepare_folder(folder: Path, sweep: Sweep, *, seed: int, extra: Sequence[str]) -> None:
    """Keep the sweep's file and settings in its folder.

    Args:
        folder: Of the sweep; made if it is missing.
        sweep: The file.
        seed: Of method random.
        extra: What the command line adds to every trial.

    Raises:
        ValueError: The folder is of another sweep.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "seed": seed if sweep.method == "random" else None,
        "extra": list(extra),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / LOCK_FILE, wait=True):
        check_folder(folder, sweep, settings)
        if not (folder / SWEEP_FILE).exists():  # written last: what has one has both
            text = json.dumps(settings, indent=2) + "\n"
            write_atomic(folder / SETTINGS_FILE, text.encode("utf-8"))
            write_atomic(folder / SWEEP_FILE, sweep.path.read_bytes())


def check_folder(folder: Path, sweep: Sweep, settings: Mapping[str, Any]) -> None:
    """Refuse the folder of another sweep.

    Raises:
        ValueError: It was made from another file, seed or command line; says what differs.
    """
    if not (folder / SWEEP_FILE).is_file():
        return
    stored = yaml.safe_load((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    before = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    if stored != sweep.content:
        keys = [k for k in {**stored, **sweep.content} if stored.get(k) != sweep.content.get(k)]
        what = f"another sweep file than {sweep.path} ({', '.join(keys)} differ)"
    elif before["seed"] != settings["seed"]:
        what = f"--seed {before['seed']}, not {settings['seed']}"
    elif before["extra"] != settings["extra"]:
        words = shlex.join(before["extra"]) or "nothing"
        what = f"other additions to the command: {words}, not {shlex.join(settings['extra'])!r}"
    else:
        return
    raise ValueError(f"{folder} holds trials of {what}: give another --output")


def environment_of(place: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment of a trial's process: its share of GPUs and cores, and who started it.

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


RUNNER_VARIABLE = "PONET_SWEEP_RUNNER"
"""Environment variable with the process id of the runner that started a trial."""
