"""Many trials while they run: one line for each that ends, and at the end how far it is.

Invariant: what is done is never run twice; a mistake that fails every trial stops early.
"""

import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Generic, TypeVar

from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, RunInterrupted
from training.studies.trials import Outcome, Trial

ALIKE_FAILURES = 3
"""So many first trials that fail with the same words stop a study: it is a mistake in it."""
AnyTrial = TypeVar("AnyTrial", bound=Trial)
Stream = Iterator[tuple[Trial, Outcome]]
"""Trials that have ended, one after the other."""


def duration(seconds: float) -> str:
    """Return a time in words, such as 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def count_text(states: Sequence[str]) -> str:
    """Return how many trials are in which state, in words."""
    found = Counter(states)
    return f"{found['done']} done, {found['failed']} failed, {found['open']} to run"


@dataclass
class Progress(Generic[AnyTrial]):
    """The trials of a sweep or a grid."""

    trials: Sequence[AnyTrial]
    """All of them."""
    folder: Path
    """Where they are kept."""
    retry_failed: bool = False
    """Run again what failed in an earlier start."""
    jobs: int = 1
    """So many run at once."""
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _elapsed_s: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look how far each trial is."""
        self.states = {trial.name: trial.state() for trial in self.trials}

    def waiting(self) -> list[AnyTrial]:
        """Return what is to be run."""
        wanted = ("open", "failed") if self.retry_failed else ("open",)
        return [trial for trial in self.trials if self.states[trial.name] in wanted]

    def watch(self, stream: Stream) -> None:
        """Say how each trial ended.

        Raises:
            ValueError: The first ones failed alike.
            RunInterrupted: Ctrl-C, twice.
        """
        try:
            with closing(stream) as ended:  # type: ignore[type-var]
                for trial, outcome in ended:
                    self._note(trial, outcome)
        except KeyboardInterrupt:
            self.finish(signal.SIGINT)

    def _note(self, trial: Trial, outcome: Outcome) -> None:
        self._outcomes[trial.name] = outcome
        if outcome.elapsed_s:
            self._elapsed_s.setdefault(trial.group, []).append(outcome.elapsed_s)
        left = [t for t in self.waiting() if t.name not in self._outcomes]
        place = f"[{len(self.trials) - len(left)}/{len(self.trials)}]"
        print(f"{place} {self._line(trial, outcome, left)}", flush=True)
        if left and self._fail_alike():
            raise ValueError(
                f"the first {ALIKE_FAILURES} trials failed alike, so {len(left)} were not run: "
                f"{outcome.error}"
            )

    def _line(self, trial: Trial, outcome: Outcome, left: Sequence[Trial]) -> str:
        texts = {"failed": f"failed: {outcome.error}", "elsewhere": "left to another runner"}
        text = texts.get(outcome.state, outcome.state)
        if outcome.state == "done":
            text = trial.found() or text
        spent = f", {duration(outcome.elapsed_s)}" if outcome.elapsed_s else ""
        rest = f"; {len(left)} left{self._estimate(left)}" if left else ""
        return f"{trial.name}: {text}{spent}{rest}"

    def _estimate(self, left: Sequence[Trial]) -> str:
        """How long the rest takes, from what trials of the same group took."""
        everything = [value for values in self._elapsed_s.values() for value in values]
        if not everything:
            return ""
        seconds = sum(fmean(self._elapsed_s.get(trial.group, everything)) for trial in left)
        return f", about {duration(seconds / max(self.jobs, 1))}"

    def _fail_alike(self) -> bool:
        run_now = [outcome for outcome in self._outcomes.values() if outcome.elapsed_s]
        return (
            len(run_now) == ALIKE_FAILURES
            and all(outcome.state == "failed" for outcome in run_now)
            and len({outcome.error for outcome in run_now}) == 1
        )

    def finish(self, received: signal.Signals | None) -> None:
        """Say what failed and how to go on.

        Args:
            received: What asked the runner to stop.

        Raises:
            ValueError: A trial failed.
            RunInterrupted: The trials were asked to stop.
        """
        self.states = {trial.name: trial.state() for trial in self.trials}
        failed = [trial for trial in self.trials if self.states[trial.name] == "failed"]
        for trial in failed:
            print(f"failed: {trial.name}: {trial.error()} (see {trial.folder / trial.log_file})")
        found = Counter(self.states.values())
        print(
            f"{found['done']} of {len(self.trials)} trials are done, in {self.folder}", flush=True
        )
        if received or any(o.state == "interrupted" for o in self._outcomes.values()):
            code = EXIT_INTERRUPT if received is signal.SIGINT else EXIT_STOPPED
            left = found["open"]
            raise RunInterrupted(f"{left} trials are left; the same command goes on", code)
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(self.trials)} trials failed; each folder's "
                f"{failed[0].log_file} says why; --retry_failed true runs them again"
            )
