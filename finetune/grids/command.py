"""`grid`: run every trial that is not done yet, and say how far it is.

Invariant: the same command again goes on; what is done is never run twice or replaced.
"""

import contextlib
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from finetune.grids.config import GridConfig, RunOptions, parse_grid
from finetune.grids.files import (
    RESULT_FILE,
    FitFunction,
    Outcome,
    PlannedTrial,
    remove_classifiers,
)
from finetune.grids.trials import encoder_choices, expand
from finetune.grids.workers import WorkerPool, fit_trial, gpu_names, run_here

OWN_TASK = "own"
ALIKE_FAILURES = 3
"""So many first trials that fail with the same words stop the grid: it is a mistake in it."""
EXIT_INTERRUPT = 130


def run_grid(arguments: Sequence[str], *, fit: FitFunction = fit_trial) -> None:
    """`grid --config GRID.yaml --encoder PATH [--encoder PATH ...]`.

    Args:
        arguments: What stands after the command.
        fit: Runs one trial.

    Raises:
        ValueError: A mistake in the options, or a trial failed.
    """
    config, options = parse_grid(arguments)
    planned = plan(config, options)
    states = {item.trial.name: item.state() for item in planned}
    print("\n".join(plan_lines(planned, states)), flush=True)
    if options.dry_run:
        return
    progress = Progress(planned=planned, options=options, states=states)
    try:
        with _interrupted_by_sigterm():
            progress.run(fit)
    except KeyboardInterrupt:
        print(f"stopped; {progress.num_left()} trials are left: the same command goes on")
        raise SystemExit(EXIT_INTERRUPT) from None
    progress.finish()


def plan(config: GridConfig, options: RunOptions) -> list[PlannedTrial]:
    """Every trial of a grid with its folder.

    Raises:
        ValueError: An unknown task, or an encoder that is not there.
    """
    from finetune.tasks.registry import task_named

    for choice in encoder_choices(config.encoders):
        _check_encoder(choice.path)
    folds = {t: task_named(t).num_folds for t in config.tasks if t != OWN_TASK}
    trials = expand(config, folds)
    return [PlannedTrial(trial=trial, output=options.output) for trial in trials]


def _check_encoder(path: str) -> None:
    if not Path(path).exists():
        raise ValueError(
            f"--encoder {path}: no such folder; give a pretraining run, a bundle or released "
            "weights, or random:PATH to take no weights"
        )


def plan_lines(planned: Sequence[PlannedTrial], states: Mapping[str, str]) -> list[str]:
    """One line per task and encoder: settings, seeds, and how far it is.

    Args:
        planned: All trials.
        states: Name of a trial -> done, failed or open.
    """
    groups: dict[tuple[str, str], list[PlannedTrial]] = defaultdict(list)
    for item in planned:
        groups[item.trial.task, item.trial.encoder.name].append(item)
    width = max(len(f"{task} {name}") for task, name in groups)
    lines = []
    for (task, name), items in groups.items():
        settings = {(item.trial.lr, item.trial.batch_size) for item in items}
        seeds = {item.trial.seed for item in items}
        found = Counter(states[item.trial.name] for item in items)
        lines.append(
            f"{f'{task} {name}':<{width}}  {len(settings)} settings x {len(seeds)} seeds: "
            f"{found['done']} done, {found['failed']} failed, {found['open']} to run"
        )
    found = Counter(states.values())
    lines.append(
        f"{len(planned)} trials: {found['done']} done, {found['failed']} failed, "
        f"{found['open']} to run"
    )
    return lines


@dataclass
class Progress:
    """A grid while it runs."""

    planned: Sequence[PlannedTrial]
    """All trials."""
    options: RunOptions
    """How to run them."""
    states: Mapping[str, str]
    """Name of a trial -> done, failed or open, when the grid started."""
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _elapsed_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _jobs: int = 1
    _stopped_by: str = ""

    def run(self, fit: FitFunction) -> None:
        """Run what is not done; one printed line per trial that ends."""
        waiting = [item for item in self.planned if self._is_to_run(item)]
        if not waiting:
            return
        retry = self.options.retry_failed
        if self.options.in_process:
            stream = run_here(waiting, fit, retry_failed=retry)
        else:
            gpus = gpu_names()
            self._jobs = self.options.jobs or len(gpus) or 1
            pool = WorkerPool(fit=fit, jobs=self._jobs, gpus=gpus, retry_failed=retry)
            stream = pool.run(waiting)
        with contextlib.closing(stream) as outcomes:  # type: ignore[type-var]
            for item, outcome in outcomes:
                self._note(item, outcome)
                if self._fail_alike():
                    self._stopped_by = outcome.error
                    break

    def _is_to_run(self, item: PlannedTrial) -> bool:
        state = self.states[item.trial.name]
        if state == "done":
            self._outcomes[item.trial.name] = Outcome("done")
        elif state == "failed" and not self.options.retry_failed:
            self._outcomes[item.trial.name] = Outcome("failed", error=item.error())
        else:
            return True
        return False

    def _note(self, item: PlannedTrial, outcome: Outcome) -> None:
        self._outcomes[item.trial.name] = outcome
        if outcome.elapsed_s:
            key = (item.trial.task, item.trial.encoder.name)
            self._elapsed_s.setdefault(key, []).append(outcome.elapsed_s)
        text = {"done": "", "failed": outcome.error, "elsewhere": "another grid runs it"}
        found = text[outcome.state] or _score_text(item)
        place = f"[{len(self._outcomes)}/{len(self.planned)}]"
        left = self.num_left()
        rest = f"; {left} left{self._estimate()}" if left else ""
        spent = f", {duration(outcome.elapsed_s)}" if outcome.elapsed_s else ""
        print(f"{place} {item.trial.name}: {found}{spent}{rest}", flush=True)
        if outcome.state == "done" and self.options.keep != "all":
            remove_classifiers(item.folder.parent, keep=self.options.keep)

    def _fail_alike(self) -> bool:
        run_now = [o for o in self._outcomes.values() if o.elapsed_s]
        if len(run_now) != ALIKE_FAILURES or self.num_left() == 0:
            return False
        return all(o.state == "failed" for o in run_now) and len({o.error for o in run_now}) == 1

    def num_left(self) -> int:
        """Trials that have no outcome yet."""
        return len(self.planned) - len(self._outcomes)

    def _estimate(self) -> str:
        """How long the rest takes, from what trials of the same task and encoder took."""
        everything = [value for values in self._elapsed_s.values() for value in values]
        if not everything:
            return ""
        seconds = 0.0
        for item in self.planned:
            if item.trial.name in self._outcomes:
                continue
            alike = self._elapsed_s.get((item.trial.task, item.trial.encoder.name))
            task = [
                s
                for (t, _), all_s in self._elapsed_s.items()
                if t == item.trial.task
                for s in all_s
            ]
            seconds += fmean(alike or task or everything)
        return f", about {duration(seconds / self._jobs)}"

    def finish(self) -> None:
        """Print what failed and how to go on.

        Raises:
            ValueError: Something failed.
        """
        states = Counter(outcome.state for outcome in self._outcomes.values())
        failed = {n: o.error for n, o in self._outcomes.items() if o.state == "failed"}
        for name, error in failed.items():
            print(f"failed: {name}: {error}")
        away = f", {states['elsewhere']} run by another grid" if states["elsewhere"] else ""
        print(
            f"{states['done']} of {len(self.planned)} trials done, {len(failed)} failed{away}; "
            f"table: python -m finetune report {self.options.output}"
        )
        if self._stopped_by:
            raise ValueError(
                f"the first {ALIKE_FAILURES} trials failed alike, so {self.num_left()} were not "
                f"run: {self._stopped_by}"
            )
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(self.planned)} trials failed; each folder's log.txt says "
                "why; --retry_failed true runs them again"
            )


def _score_text(item: PlannedTrial) -> str:
    from finetune.metrics import metric_title
    from training.result import read_result

    result = read_result(item.folder / RESULT_FILE)
    scores = result["evaluation"].get("validation", {})
    flag = "DIVERGED " if result["diverged"] else ""
    f1_label = result["data"].get("f1_label", "")
    metrics = ", ".join(
        f"{metric_title(name, f1_label)} {_number(scores.get(name))}" for name in result["score"]
    )
    return f"{flag}{metrics} (validation)"


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}"


def duration(seconds: float) -> str:
    """A time in words, such as 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let a SIGTERM end the grid as Ctrl-C does, with its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
