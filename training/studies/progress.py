"""Many trials while they run: one line for each that ends, and at the end how far it is.

Invariant: what is done is never run twice; a mistake that fails every trial stops early.
"""

import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, RunInterrupted
from training.studies.runner import Stream
from training.studies.trials import LOG_FILE, Outcome, Trial

ALIKE_FAILURES = 3
"""So many first trials that fail with the same words stop a study: it is a mistake in it."""


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


class Progress:
    """The trials of a sweep or a grid.

    Args:
        trials: All of them.
        folder: Where they are kept.
        retry_failed: Run again what failed in an earlier start.
        jobs: So many run at once.
    """

    def __init__(
        self, trials: Sequence[Trial], folder: Path, *, retry_failed: bool, jobs: int
    ) -> None:
        self.trials, self.folder, self.jobs = trials, folder, max(jobs, 1)
        self.states = {trial.name: trial.state() for trial in trials}
        wanted = ("open", "failed") if retry_failed else ("open",)
        self.waiting = [trial for trial in trials if self.states[trial.name] in wanted]
        self._outcomes: list[Outcome] = []

    def watch(self, stream: Stream) -> None:
        """Say how each trial ended."""
        try:
            with closing(stream) as ended:  # type: ignore[type-var]
                for trial, outcome in ended:
                    self._outcomes.append(outcome)
                    self._say(trial, outcome, len(self.waiting) - len(self._outcomes))
        except KeyboardInterrupt:
            self.finish(signal.SIGINT)

    def _say(self, trial: Trial, outcome: Outcome, left: int) -> None:
        texts = {"failed": f"failed: {outcome.error}", "elsewhere": "left to another runner"}
        text = texts.get(outcome.state, outcome.state)
        text = (trial.found() or text) if outcome.state == "done" else text
        spent = [o.elapsed_s for o in self._outcomes if o.elapsed_s]
        text += f", {duration(outcome.elapsed_s)}" if outcome.elapsed_s else ""
        if left:
            rest = f", about {duration(fmean(spent) * left / self.jobs)}" if spent else ""
            text += f"; {left} left{rest}"
        print(f"[{len(self.trials) - left}/{len(self.trials)}] {trial.name}: {text}", flush=True)
        run_now = {(o.state, o.error) for o in self._outcomes if o.elapsed_s}
        if left and len(spent) == ALIKE_FAILURES and run_now == {("failed", outcome.error)}:
            raise ValueError(
                f"the first {ALIKE_FAILURES} trials failed alike, so {left} were not run: "
                f"{outcome.error}"
            )

    def finish(self, received: signal.Signals | None) -> None:
        """Say what failed and how to go on.

        Args:
            received: What asked the runner to stop.
        """
        states = {trial.name: trial.state() for trial in self.trials}
        failed = [trial for trial in self.trials if states[trial.name] == "failed"]
        for trial in failed:
            error = trial.record()["error"]
            print(f"failed: {trial.name}: {error} (see {trial.folder / LOG_FILE})")
        found, total = Counter(states.values()), len(self.trials)
        print(f"{found['done']} of {total} trials are done, in {self.folder}", flush=True)
        if received or any(outcome.state == "interrupted" for outcome in self._outcomes):
            code = EXIT_INTERRUPT if received is signal.SIGINT else EXIT_STOPPED
            left = found["open"]
            raise RunInterrupted(f"{left} trials are left; the same command goes on", code)
        if failed:
            raise ValueError(
                f"{len(failed)} of {total} trials failed; each folder's {LOG_FILE} says why; "
                "--retry_failed true runs them again"
            )
