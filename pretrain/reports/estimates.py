"""Mean, spread and paired difference of a handful of seeds.

Invariant: one value has no spread, and nothing is called better that the seeds cannot tell apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data_prep.student_t import student_t_quantile

CONFIDENCE = 0.95
_SAME = 1e-12

Verdict = Literal["separable", "not separable", "one pair: not judged", "no spread: not judged"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean of some finite values and how sure it is."""

    n: int
    """Number of values, >= 1."""
    mean: float
    """Their mean."""
    half_width: float | None
    """Half of the 95 % Student t interval of the mean; None: a single value."""
    minimum: float
    """Least value."""
    maximum: float
    """Greatest value."""

    @property
    def verdict(self) -> Verdict:
        """Of a difference: whether its interval leaves zero out."""
        if self.half_width is None:
            return "one pair: not judged"
        if self.maximum - self.minimum < _SAME:
            return "no spread: not judged"
        return "separable" if abs(self.mean) > self.half_width else "not separable"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, 95 % Student t half width, least and greatest.

    Raises:
        ValueError: No value, or one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values are {list(values)}; a mean needs one or more finite numbers")
    n = len(values)
    mean = math.fsum(values) / n
    half_width = None
    if n > 1:
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        half_width = student_t_quantile((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(variance / n)
    return Estimate(n=n, mean=mean, half_width=half_width, minimum=min(values), maximum=max(values))


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> Estimate | None:
    """First minus second over the seeds that both have; None: they share no seed.

    Args:
        first: Value by seed.
        second: Value by seed.
    """
    shared = [seed for seed in first if seed in second]
    return estimate([first[seed] - second[seed] for seed in shared]) if shared else None
