"""`grid`: run every trial that is not done yet, and say how far it is.

Invariant: the same command again goes on; what is done is never run twice or replaced.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from finetune.grids.config import GridConfig, RunOptions, parse_grid
from finetune.grids.files import TRIAL_FILE, GridTrial
from finetune.grids.trials import encoder_choices, expand
from training.interruption import EXIT_INTERRUPT, EXIT_STOPPED, RunInterrupted
from training.studies.progress import Progress, Stream, count_text
from training.studies.runner import LocalRunner, gpu_names
from training.studies.trials import Outcome

OWN_TASK = "own"
# A mistake in the input, a full disk, or what torch raises, running out of GPU memory included.
TRIAL_ERRORS = (ValueError, OSError, RuntimeError, SystemExit, RunInterrupted)


def fit_here(trial_yaml: Path) -> None:
    """Run the fit of a trial in this process."""
    from finetune.lightning_cli import run_command

    run_command(["fit", "--config", str(trial_yaml)])


def run_grid(arguments: Sequence[str], *, fit: Callable[[Path], None] = fit_here) -> None:
    """`grid --config GRID.yaml --encoder PATH [--encoder PATH ...]`.

    Args:
        arguments: What stands after the command.
        fit: Runs one trial with --in_process; result.json then lies beside its YAML file.

    Raises:
        ValueError: A mistake in the options, or a trial failed.
        RunInterrupted: The grid was asked to stop.
    """
    config, options = parse_grid(arguments)
    trials = plan(config, options)
    gpus = gpu_names()
    jobs = options.jobs or len(gpus) or 1
    progress = Progress(trials, options.output, retry_failed=options.retry_failed, jobs=jobs)
    print("\n".join(plan_lines(trials, progress.states)), flush=True)
    if options.dry_run:
        return
    runner = LocalRunner(jobs=jobs, gpus=gpus, retry_failed=options.retry_failed, wait=False)
    if options.in_process:
        progress.watch(run_here(progress.waiting(), fit, retry_failed=options.retry_failed))
    else:
        progress.watch(runner.run(progress.waiting()))
    print(f"table: python -m finetune report {options.output}")
    progress.finish(runner.received)


def plan(config: GridConfig, options: RunOptions) -> list[GridTrial]:
    """Return every trial of a grid with its folder.

    Raises:
        ValueError: An unknown task, or an encoder that is not there.
    """
    from finetune.tasks.registry import task_named

    for choice in encoder_choices(config.encoders):
        if not Path(choice.path).exists():
            raise ValueError(
                f"--encoder {choice.path}: no such folder; give a pretraining run, a bundle or "
                "released weights, or random:PATH to take no weights"
            )
    folds = {t: task_named(t).num_folds for t in config.tasks if t != OWN_TASK}
    return expand(config, folds, output=options.output, keep=options.keep)


def plan_lines(trials: Sequence[GridTrial], states: Mapping[str, str]) -> list[str]:
    """Return one line per task and encoder: settings, seeds, and how far it is.

    Args:
        trials: All trials.
        states: Name of a trial -> done, failed or open.
    """
    width = max(len(trial.group) for trial in trials)
    lines = []
    order = {group: number for number, group in enumerate(dict.fromkeys(t.group for t in trials))}
    for group, found in groupby(sorted(trials, key=lambda t: order[t.group]), lambda t: t.group):
        items = list(found)
        settings = {(item.parameters["lr"], item.parameters["batch_size"]) for item in items}
        seeds = {item.parameters["seed"] for item in items}
        text = count_text([states[item.name] for item in items])
        lines.append(f"{group:<{width}}  {len(settings)} settings x {len(seeds)} seeds: {text}")
    return [*lines, f"{len(trials)} trials: {count_text(list(states.values()))}"]


def run_here(
    trials: Sequence[GridTrial], fit: Callable[[Path], None], *, retry_failed: bool
) -> Stream:
    """Run trials in this process, one after the other, with their output on the terminal."""
    for trial in trials:
        with trial.locked() as lock:
            outcome = trial.settled(retry_failed=retry_failed) if lock else Outcome("elsewhere")
            if outcome is None:
                trial.write_start()
                outcome = _fit_outcome(trial, fit)
        yield trial, outcome


def _fit_outcome(trial: GridTrial, fit: Callable[[Path], None]) -> Outcome:
    began, reason = time.monotonic(), "the fit ended without a result"
    try:
        fit(trial.folder / TRIAL_FILE)
    except TRIAL_ERRORS as caught:
        codes = (EXIT_INTERRUPT, EXIT_STOPPED)
        if isinstance(caught, RunInterrupted) and caught.exit_code in codes:
            raise  # meant for the whole grid
        reason = " ".join(f"{type(caught).__name__}: {caught}".split())
    error = trial.end(reason)
    return Outcome("failed" if error else "done", error, time.monotonic() - began)
