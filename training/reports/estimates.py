"""Paired differences of configurations over the seeds that both have."""

from collections.abc import Mapping

from training.statistics import Estimate, estimate


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> Estimate | None:
    """First minus second over the seeds that both have; None: they share no seed.

    Args:
        first: Value by seed.
        second: Value by seed.
    """
    shared = [seed for seed in first if seed in second]
    return estimate([first[seed] - second[seed] for seed in shared]) if shared else None
