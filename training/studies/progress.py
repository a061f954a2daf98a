"""How far the trials of a study are: what is said as each ends, and what is left in the end."""

import contextlib
import math
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from data_prep.command import EXIT_INTERRUPT, counted
from training.interruption import EXIT_STOPPED, RunInterrupted
from training.studies.runner import LocalRunner, Stream
from training.studies.trials import LOG_FILE, Likeness, Outcome, Trial

ALIKE_FAILURES = 3
"""So many first trials that fail with the same words stop a study: it is a mistake in it."""


def duration(seconds: float) -> str:
    """Return a time in words, such as 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def expected_s(likeness: Likeness, spent: Sequence[tuple[Likeness, float]]) -> float:
    """Return how long a trial may take: the mean of those most like it.

    Args:
        likeness: Of the trial.
        spent: Likeness and seconds of each trial that has ended.

    Returns:
        Seconds; NaN where none is like it in the first word.
    """
    for length in range(len(likeness), 0, -1):
        found = [seconds for other, seconds in spent if other[:length] == likeness[:length]]
        if found:
            return fmean(found)
    return math.nan


def count_text(states: Sequence[str]) -> str:
    """Return how many trials are in which state, in words."""
    found = Counter(states)
    return f"{found['done']} done, {found['failed']} failed, {found['open']} to run"


class Progress:
    """The trials of a sweep or a grid, and how far they are.

    Args:
        trials: All of them.
        folder: Where they are kept.
        runner: Runs them.
    """

    def __init__(self, trials: Sequence[Trial], folder: Path, runner: LocalRunner) -> None:
        self.trials, self.folder, self.runner = trials, folder, runner
        self.states = {trial.name: trial.state() for trial in trials}
        wanted = ("open", "failed") if runner.retry_failed else ("open",)
        self.waiting = [trial for trial in trials if self.states[trial.name] in wanted]
        self._ended: list[tuple[Trial, Outcome]] = []

    def run(self, stream: Stream | None = None) -> None:
        """Run what is waiting and say how each trial ended, what failed, and how to go on.

        Args:
            stream: Of another engine.

        Raises:
            ValueError: The first ones failed alike, or one failed.
            RunInterrupted: The trials were asked to stop.
        """
        try:
            with contextlib.closing(stream or self.runner.run(self.waiting)) as ended:
                for trial, outcome in ended:
                    self._ended.append((trial, outcome))
                    self._say(trial, outcome, len(self.waiting) - len(self._ended))
        except KeyboardInterrupt:
            self.runner.received = signal.SIGINT
        self._finish()

    def _say(self, trial: Trial, outcome: Outcome, left: int) -> None:
        texts = {"failed": f"failed: {outcome.error}", "elsewhere": "left to another runner"}
        text = texts.get(outcome.state, outcome.state)
        text = (trial.found() or text) if outcome.state == "done" else text
        spent = [(t.likeness, o.elapsed_s) for t, o in self._ended if o.elapsed_s]
        text += f", {duration(outcome.elapsed_s)}" if outcome.elapsed_s else ""
        if left:
            text += f"; {left} left"
            ended = {t.name for t, _ in self._ended}
            ahead = [t.likeness for t in self.waiting if t.name not in ended]
            left_s = sum(expected_s(likeness, spent) for likeness in ahead)
            known = not math.isnan(left_s)
            text += f", about {duration(left_s / max(self.runner.jobs, 1))}" if known else ""
        total = len(self.trials)
        print(f"[{total - left}/{total}] {trial.name}: {text}", flush=True)
        run_now = {(o.state, o.error) for _, o in self._ended if o.elapsed_s}
        if left and len(spent) == ALIKE_FAILURES and run_now == {("failed", outcome.error)}:
            raise ValueError(
                f"the first {ALIKE_FAILURES} trials failed alike, so {left} were not run: "
                f"{outcome.error}"
            )

    def _finish(self) -> None:
        states = {trial.name: trial.state() for trial in self.trials}
        failed = [trial for trial in self.trials if states[trial.name] == "failed"]
        for trial in failed:
            error = trial.record()["error"]
            print(f"failed: {trial.name}: {error} (see {trial.folder / LOG_FILE})")
        found, total = Counter(states.values()), len(self.trials)
        print(f"trials done: {found['done']} of {total}, in {self.folder}", flush=True)
        received = self.runner.received
        if received or any(outcome.state == "interrupted" for _, outcome in self._ended):
            code = EXIT_INTERRUPT if received is signal.SIGINT else EXIT_STOPPED
            left = found["open"]
            raise RunInterrupted(
                f"{counted(left, 'trial(s)')} left; the same command goes on", code
            )
        if failed:
            raise ValueError(
                f"trials failed: {len(failed)} of {total}; each folder's {LOG_FILE} says why; "
                "--retry_failed true runs them again"
            )
