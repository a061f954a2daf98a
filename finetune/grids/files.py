"""The folder of one trial: what is to be run, by whom, and how it ended.

Invariant: a trial is done when its result.json is there, and a file lock that a killed process
leaves behind open keeps two grids, also on a shared disk, from running the same trial.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from data_prep.file_lock import file_lock
from data_prep.files import write_atomic
from finetune.grids.trials import Trial, flat
from training.inputs import changed_inputs
from training.interruption import RunInterrupted

TRIAL_FILE, FAILED_FILE, LOG_FILE, LOCK_FILE = "trial.yaml", "failed.json", "log.txt", ".lock"
RESULT_FILE, CLASSIFIER_FOLDER = "result.json", "classifier"
# A mistake in the input, a full disk, or what torch raises, running out of GPU memory included.
# Anything else ends the worker with a traceback, and counts as a failure too.
TRIAL_ERRORS = (ValueError, OSError, RuntimeError, SystemExit, RunInterrupted)

FitFunction = Callable[[Path], None]
"""Runs the fit of a YAML file; result.json then lies beside that file."""


class Outcome(NamedTuple):
    """How a trial ended."""

    state: Literal["done", "failed", "elsewhere"]
    """elsewhere: another grid is at work on it."""
    error: str = ""
    """Why it failed, in one line."""
    elapsed_s: float = 0.0
    """Wall time; 0 where nothing was run."""
    is_worker_spoilt: bool = False
    """Whether the process may be in a bad state: its next trial gets a new one."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial and where it is kept."""

    trial: Trial
    """What is run."""
    output: Path
    """Folder of the grid."""

    @property
    def folder(self) -> Path:
        """Folder of the trial."""
        return self.output / self.trial.name

    @property
    def settings(self) -> dict[str, Any]:
        """The whole YAML of its fit."""
        run = dict(self.trial.settings.get("run") or {})
        run |= {"root": str(self.folder.parent), "name": self.folder.name, "overwrite": True}
        return {**self.trial.settings, "run": run}

    def state(self) -> Literal["done", "failed", "open"]:
        """How far it is; a failure under other settings, data or weights does not count.

        Raises:
            ValueError: It was done with other settings, data or weights.
        """
        done = (self.folder / RESULT_FILE).is_file()
        differing = self._differences()
        if done and differing:
            raise ValueError(
                f"{self.folder / RESULT_FILE} was found with other settings or files "
                f"({'; '.join(differing[:3])}): give another --output, or remove {self.folder} "
                "to train it anew"
            )
        if done:
            return "done"
        return "failed" if (self.folder / FAILED_FILE).is_file() and not differing else "open"

    def _differences(self) -> list[str]:
        stored = self._stored_settings()
        if stored is None:
            return []
        return [*_differences(stored, self.settings), *changed_inputs(self.folder)]

    def _stored_settings(self) -> dict[str, Any] | None:
        path = self.folder / TRIAL_FILE
        if not path.is_file():
            return None
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}

    def error(self) -> str:
        """Why it failed in an earlier start."""
        content = json.loads((self.folder / FAILED_FILE).read_text(encoding="utf-8"))
        return str(content["error"])

    def write_failure(self, error: str) -> None:
        """Keep why it failed."""
        content = {"format_version": 1, "error": error, "log": LOG_FILE}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomic(self.folder / FAILED_FILE, text.encode("utf-8"))

    def run(self, fit: FitFunction, *, retry_failed: bool, redirect: bool) -> Outcome:
        """Run it, unless it is done, has failed, or another grid is at work on it.

        Args:
            fit: Runs one fit.
            retry_failed: Run it also where it has failed before.
            redirect: Write everything this process prints into the trial's log from now on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / LOCK_FILE) as lock:
            if lock is None:
                return Outcome("elsewhere")
            state = self.state()
            if state == "done":
                return Outcome("done")
            if state == "failed" and not retry_failed:
                return Outcome("failed", error=self.error())
            (self.folder / FAILED_FILE).unlink(missing_ok=True)
            header = (
                "# One trial of a grid; python -m finetune fit --config <this file> repeats it.\n"
            )
            settings = self.settings
            settings["run"]["overwrite"] = bool(self._differences())  # else it goes on
            text = header + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
            write_atomic(self.folder / TRIAL_FILE, text.encode("utf-8"))
            if redirect:
                redirect_output(self.folder / LOG_FILE)
            return self._fit(fit)

    def _fit(self, fit: FitFunction) -> Outcome:
        started = time.monotonic()
        error, is_spoilt = "", False
        try:
            fit(self.folder / TRIAL_FILE)
        except TRIAL_ERRORS as caught:
            error = " ".join(f"{type(caught).__name__}: {caught}".split())
            is_spoilt = isinstance(caught, RuntimeError)
        elapsed_s = time.monotonic() - started
        if (self.folder / RESULT_FILE).is_file():
            return Outcome("done", elapsed_s=elapsed_s, is_worker_spoilt=is_spoilt)
        error = error or f"the fit ended without {RESULT_FILE}"
        self.write_failure(error)
        return Outcome("failed", error=error, elapsed_s=elapsed_s, is_worker_spoilt=is_spoilt)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Options that differ, in words; where a run writes and is tracked does not count."""
    first, second = flat(_without_run(stored)), flat(_without_run(wanted))
    return [
        f"{name} was {first.get(name, 'not given')}, is {second.get(name, 'not given')}"
        for name in sorted({*first, *second})
        if first.get(name) != second.get(name)
    ]


def _without_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "run"}


def redirect_output(path: Path) -> None:
    """Write what this process and those it starts print to the end of a file, from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.close(descriptor)


def exit_reason(exit_code: int | None) -> str:
    """In words, how the process of a trial ended before the trial did."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = ", often because the memory ran out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with exit code {exit_code}; the end of its {LOG_FILE} says why"


def validation_score(result: Mapping[str, Any]) -> float:
    """The score on the first validation split; minus infinity where there is none."""
    return float(result["evaluation"].get("validation", {}).get("score", -float("inf")))


def remove_classifiers(folder: Path, *, keep: str) -> None:
    """Remove classifiers of finished trials below the folder of a task and encoder.

    Args:
        folder: `<grid>/<task>/<encoder>`.
        keep: best: all but the one with the best validation score; none: all of them.
    """
    with file_lock(folder / LOCK_FILE, wait=True):
        found = []
        for path in sorted(folder.glob(f"*/{RESULT_FILE}")):
            if (path.parent / CLASSIFIER_FOLDER).is_dir():
                result = json.loads(path.read_text(encoding="utf-8"))
                found.append((validation_score(result), path.parent / CLASSIFIER_FOLDER))
        best = max(found, key=lambda entry: entry[0], default=None)
        for entry in found:
            if keep == "none" or entry is not best:
                shutil.rmtree(entry[1])
