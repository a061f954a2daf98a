"""One trial of a sweep or a grid: what is run, in which folder, how it ended, and what it is worth.

Invariant: a trial is done when its trial.json says so: exit code 0, metrics readable. Whoever
writes there holds the trial's lock, so two runners never run the same trial; a process of the
trial that outlives its runner holds it as well. In study.json, as in the tables of fine-tuning,
settings are chosen on validation scores alone, and a seed that diverged counts as the constant
answer and is named, never left out.
"""

import contextlib
import json
import os
import platform
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, TextIO

from data_prep.files import file_lock, write_json
from training.metrics_file import run_rows
from training.run_config import METRICS_FILE, RESULT_FILE, STUDY_FILE, TRIAL_FILE
from training.run_folder import is_first_process, now

FORMAT_VERSION = 1
LOG_FILE, LOCK_FILE = "trial.log", ".trial.lock"
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)\b")
State = Literal["done", "failed", "open"]
Likeness = tuple[str, ...]
"""What makes trials take alike long, the coarsest word first."""


class Outcome(NamedTuple):
    """How a trial ended, and why it failed, in one line.

    interrupted: its runner was asked to stop; elsewhere: another runner has it. The time is that
    of its last start, 0 where nothing was run; an exit code below 0 is the signal that ended it.
    """

    state: Literal["done", "failed", "interrupted", "elsewhere"]
    error: str = ""
    elapsed_s: float = 0.0
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a study, and its record in trial.json.

    `folder` is that of its run, `command` what is run, in one line, and `steps` the processes that
    this takes, one after the other, where it is a `trial`; `parameters` is what the study chose for
    it, `metric` the one that counts. One that is not `recorded` is always run, and prints where its
    runner does.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    recorded: bool = True

    @property
    def likeness(self) -> Likeness:
        """Return what says how long it takes: all trials of a sweep are alike."""
        return ("trial",)

    def record(self) -> dict[str, Any]:
        """Return what trial.json holds; empty before the first start."""
        path = self.folder / TRIAL_FILE
        if not self.recorded or not path.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format_version"] == FORMAT_VERSION:
                return content
            what = f"is not a trial of format_version {FORMAT_VERSION}"
        except (ValueError, TypeError, KeyError) as error:
            what = f"is not valid JSON of a trial ({error})"
        raise ValueError(f"{path}: {what}; remove it, and the trial is run again")

    def state(self) -> State:
        """Return how far it is; whatever was interrupted is open."""
        state = self.record().get("state")
        return state if state in ("done", "failed") else "open"

    @contextlib.contextmanager
    def locked(self) -> Iterator[TextIO | None]:
        """Give the open lock file, or None while a runner or a process it left has the trial."""
        path = self.folder / LOCK_FILE if self.recorded else Path(os.devnull)
        with file_lock(path) if self.recorded else path.open(encoding="utf-8") as stream:
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
                "first_started": before.get("first_started") or now(),
                "started": now(),
                "ended": None,
                "machine": platform.node(),
                "metrics": {},
            }
        )

    def write_end(self, exit_code: int, *, interrupted: bool) -> str:
        """Note how its processes ended; returns why it failed, or nothing.

        Args:
            exit_code: Of the last process; below 0: the signal that ended it.
            interrupted: It was asked to stop, and is to be started again.
        """
        failed = exit_code and not interrupted
        error, metrics = _exit_reason(self.folder / LOG_FILE, exit_code) if failed else "", {}
        try:
            if not exit_code:
                self.conclude()
            metrics = self.last_metrics()
        except ValueError as problem:
            error = error or str(problem)
        state = "failed" if error else "interrupted" if exit_code else "done"
        ended = {"state": state, "exit_code": exit_code, "error": error, "ended": now()}
        self._write({**self.record(), **ended, "metrics": metrics})
        return error

    def conclude(self) -> None:
        """Write what is to be written once every process has ended well."""
        is_pretraining = self.steps and self.steps[0][2:3] != ("finetune",)
        if is_pretraining and is_first_process():
            write_study(self.folder)

    def found(self) -> str:
        """Return what it found, in words; empty: nothing that counts."""
        value = self.record()["metrics"].get(self.metric)
        return f"{self.metric} {value:.4f}" if isinstance(value, int | float) else ""

    def _write(self, values: Mapping[str, Any]) -> None:
        if not self.recorded:
            return
        own = {"name": self.name, "parameters": self.parameters, "command": self.command}
        content = {**values, "format_version": FORMAT_VERSION, **own}
        write_json(self.folder / TRIAL_FILE, content, default=str)

    def last_metrics(self) -> dict[str, float]:
        """Return the newest value of every logged metric, and what a fine-tuning run scored."""
        metrics = {name: value for row in metric_rows(self.folder) for name, value in row.items()}
        if (self.folder / RESULT_FILE).is_file():
            result = json.loads((self.folder / RESULT_FILE).read_text(encoding="utf-8"))
            for split, scores in result.get("evaluation", {}).items():  # of the best epoch
                stage = split.replace("validation", "val", 1)
                metrics.update({f"{stage}/{name}": value for name, value in scores.items()})
        return metrics


def _exit_reason(log: Path, exit_code: int) -> str:
    """How a process ended that did not end well, with the last line it printed."""
    number = -exit_code if exit_code < 0 else exit_code - 128  # as a shell counts
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        memory = ", often because the memory ran out" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    words = _last_words(log)
    return f"exit code {exit_code}" + (f": {words}" if words else "")


def _last_words(log: Path) -> str:
    """The last line that was printed, or the message of an exception, however long."""
    text = ""
    if log.is_file():
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            text = stream.read().decode("utf-8", errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    if lines and not lines[-1].startswith("error:"):
        raised = [number for number, line in enumerate(lines) if _RAISED.match(line)]
        lines = [" ".join(lines[raised[-1] :])] if raised else lines
    return lines[-1][:400] if lines else ""


DOWNSTREAM_FOLDER = "downstream"


def write_study(run: Path) -> dict[str, Any]:
    """Collect what a run and its downstream folder hold into its study.json.

    Args:
        run: Folder of the run.

    Returns:
        `{"pretraining": {metric: last value}, "downstream": {task: {"score", "n", ...}}}`.
    """
    rows = metric_rows(run)
    if not rows:
        raise ValueError(f"{run} is not a run folder: it has no {METRICS_FILE}")
    metrics = {name: value for row in rows for name, value in row.items() if name != "elapsed_s"}
    metrics.pop("step")
    steps = next((row["step"] for row in reversed(rows) if row["step"]), 0)
    study = {
        "format_version": 1,
        "pretraining": {**metrics, "steps": steps},
        "downstream": downstream_scores(run / DOWNSTREAM_FOLDER),
    }
    write_json(run / STUDY_FILE, study)
    return study


def metric_rows(run: Path) -> list[dict[str, float]]:
    """Return what a run has logged, and what `test` found of its last state; the newest last."""
    return run_rows(run) if (run / METRICS_FILE).is_file() else []


def downstream_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Task -> score over the seeds of its best setting, below the folder of a grid."""
    from training.reports.choice import choose, chosen_settings
    from training.reports.trials import Fit, grouped, scored_split
    from training.result import read_result

    runs = [Fit(path=p.parent, result=read_result(p)) for p in sorted(folder.rglob(RESULT_FILE))]
    fits = [run for run in runs if not run.is_baseline]  # a linear model says nothing of the run
    found: dict[str, dict[str, Any]] = {}
    for task, of_task in sorted(grouped(fits, lambda fit: fit.task).items()):
        settings = list(grouped(of_task, lambda fit: fit.setting).values())
        best = choose(settings)
        split, chosen = scored_split(best), chosen_settings(best)
        scores = [fit.score(split) for fit in best]
        levels = [level for fit in best if (level := fit.constant(split)) is not None]
        found[task] = {
            "score": fmean(scores),
            "sd": stdev(scores) if len(scores) > 1 else None,
            "n": len(scores),
            "scores": scores,
            "split": split,
            "metrics": best[0].result["score"],
            "constant": fmean(levels) if levels else None,
            "num_diverged": sum(bool(fit.result["diverged"]) for fit in best),
            "num_settings": len(settings),
            "setting": {name: value for name, value in chosen[0][0].items() if value is not None},
            "num_chosen_settings": len(chosen),
        }
    return found
