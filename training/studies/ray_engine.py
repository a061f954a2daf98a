"""Trials spread over a Ray cluster.

Invariant: Ray only chooses where and when a trial runs. How far it is stands in the study's
folder, on a disk that all machines share, so a study may be begun with one engine and finished
with the other.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.pool import import_ray
from training.studies.runner import LocalRunner
from training.studies.trials import Outcome, Trial


def run_on_ray(
    trials: Sequence[Trial],
    *,
    jobs: int,
    resources: Mapping[str, float],
    retry_failed: bool,
    address: str,
) -> Iterator[tuple[Trial, Outcome]]:
    """Run trials on a cluster and yield each that has ended.

    Args:
        trials: What to run, in folders on a disk that every machine has at the same path.
        jobs: At most so many at once; 0: as many as the cluster has room for.
        resources: `num_cpus` and `num_gpus` of one trial.
        retry_failed: Run again what failed before.
        address: Of a running cluster, or auto; empty: start one on this machine alone.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """
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
