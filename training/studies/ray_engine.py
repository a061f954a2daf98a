"""Trials spread over a Ray cluster by Ray Tune.

Invariant: Tune only chooses where and when a trial runs. How far it is stands in the sweep's
folder, on a disk that all machines share, so a sweep may be begun with one engine and finished
with the other.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.ray_pool import import_ray
from training.studies.runner import LocalRunner
from training.studies.trials import Outcome, Trial

_STATE_FOLDER = ".ray"


def run_on_ray(
    trials: Sequence[Trial],
    folder: Path,
    *,
    jobs: int,
    resources: Mapping[str, float],
    retry_failed: bool,
    address: str,
) -> Iterator[tuple[Trial, Outcome]]:
    """Run trials on a cluster; yields each with its outcome when all have ended.

    Args:
        trials: What to run.
        folder: Of the sweep, on a disk that every machine has at the same path.
        jobs: At most so many at once; 0: as many as the cluster has room for.
        resources: `cpu` and `gpu` of one trial.
        retry_failed: Run again what failed before.
        address: Of a running cluster, or auto; empty: start one on this machine alone.

    Raises:
        ValueError: Ray Tune is not installed, or no cluster answers at the address.
    """
    ray = import_ray(address)
    tune = _import_tune()
    try:
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at --ray_address {address}: {error}") from error
    try:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(trials, retry_failed, Path.cwd()), dict(resources)),
            param_space={"trial": tune.grid_search([trial.name for trial in trials])},
            tune_config=tune.TuneConfig(max_concurrent_trials=jobs or None),
            run_config=tune.RunConfig(
                name="tune", storage_path=str((folder / _STATE_FOLDER).absolute()), verbose=0
            ),
        )
        errors = _errors_of(tuner.fit())
    finally:
        ray.shutdown()
    for trial in trials:
        yield trial, _outcome(trial, errors.get(trial.name, ""))


def _import_tune() -> Any:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    try:
        from ray import tune
    except ImportError as error:
        raise ValueError(
            f"--engine ray needs Ray Tune, which cannot be imported ({error}): "
            "pip install -e '.[ray]'"
        ) from error
    return tune


def _trainable(trials: Sequence[Trial], retry_failed: bool, place: Path) -> Any:
    """What Tune calls on a worker: run one trial in the folder the sweep was started from."""
    by_name = {trial.name: trial for trial in trials}

    def run_one(chosen: dict[str, Any]) -> dict[str, Any]:
        os.chdir(place)
        trial = by_name[chosen["trial"]]
        runner = LocalRunner(retry_failed=retry_failed)
        outcomes = [outcome for _, outcome in runner.run([trial])]
        metrics = {k: v for k, v in trial.last_metrics().items() if isinstance(v, int | float)}
        return {**metrics, "trial": trial.name, "outcome": outcomes[-1].state}

    return run_one


def _errors_of(results: Any) -> dict[str, str]:
    """Trial -> why Ray itself could not run it."""
    errors = {}
    for result in results:
        if result.error is not None and result.config:
            lines = str(result.error).strip().splitlines()
            errors[result.config["trial"]] = lines[-1] if lines else repr(result.error)
    return errors


def _outcome(trial: Trial, error: str) -> Outcome:
    """What its folder says of a trial, now that Tune has ended."""
    state = trial.state()
    if state == "done":
        return Outcome("done")
    if state == "failed":
        return Outcome("failed", error=str(trial.record()["error"]))
    return Outcome("failed", error=f"Ray: {error}") if error else Outcome("interrupted")
