"""Means with Student t intervals, and paired differences, of a handful of seeds.

Invariant: nothing is claimed that the number of values cannot carry; one value has no interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
_NO_SPREAD = 1e-12


def student_t_cdf(t: float, df: int) -> float:
    """Probability that Student's t with `df` degrees of freedom is at most `t`.

    Args:
        t: Any finite value.
        df: Degrees of freedom, >= 1.

    Source: the finite series for whole degrees of freedom, Abramowitz and Stegun 26.7.3, 26.7.4.
    """
    angle = math.atan(t / math.sqrt(df))
    cos_squared, odd = math.cos(angle) ** 2, df % 2
    term, total = 1.0, 0.0
    for k in range((df - odd) // 2):
        total += term
        term *= cos_squared * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    if odd:
        centre = (angle + math.sin(angle) * math.cos(angle) * total) * 2 / math.pi
    else:
        centre = math.sin(angle) * total
    return (1 + centre) / 2


def student_t_quantile(probability: float, df: int) -> float:
    """The t below which Student's t stays with a probability.

    Args:
        probability: In (0, 1).
        df: Degrees of freedom, >= 1.
    """
    assert 0 < probability < 1 and df >= 1, (probability, df)
    low, high = -math.pi / 2, math.pi / 2  # t = sqrt(df) tan(angle) is bisected by its angle
    for _ in range(200):
        middle = (low + high) / 2
        if student_t_cdf(math.sqrt(df) * math.tan(middle), df) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan((low + high) / 2)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean of some values and how sure it is."""

    n: int
    """Number of values."""
    mean: float
    """Their mean."""
    low: float | None
    """Lower end of the 95 % interval of the mean; None: fewer than two values."""
    high: float | None
    """Upper end; None: fewer than two values."""
    minimum: float
    """Least value."""
    maximum: float
    """Greatest value."""

    @property
    def half_width(self) -> float | None:
        """Distance from the mean to an end of the interval; None: no interval."""
        return None if self.high is None else self.high - self.mean

    @property
    def has_no_spread(self) -> bool:
        """Whether several values are all the same number."""
        return self.n > 1 and self.maximum - self.minimum < _NO_SPREAD

    @property
    def verdict(self) -> str:
        """Of a difference: whether its interval leaves zero out."""
        if self.low is None or self.high is None:
            return "one pair: not judged"
        if self.has_no_spread:
            equal = abs(self.mean) < _NO_SPREAD
            return "equal in every pair" if equal else "no spread: not judged"
        return "separable" if self.low > 0 or self.high < 0 else "not separable"


def estimate(values: Sequence[float], *, shared_rows_ratio: float = 0.0) -> Estimate:
    """Mean, 95 % Student t interval, least and greatest of one or more values.

    Args:
        values: One or more finite numbers.
        shared_rows_ratio: For the folds of a cross-validation, test rows / training rows: folds
            share training rows, so their scores vary less than those of fresh samples would, and
            the interval is widened accordingly. 0: the values are independent.

    Raises:
        ValueError: No value, or one that is not finite.

    Source of the widening: Nadeau and Bengio 2003, Inference for the Generalization Error.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values are {list(values)}; a mean needs one or more finite numbers")
    n = len(values)
    mean = math.fsum(values) / n
    low = high = None
    if n > 1:
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        error = math.sqrt(variance * (1 / n + shared_rows_ratio))
        width = student_t_quantile((1 + CONFIDENCE) / 2, n - 1) * error
        low, high = mean - width, mean + width
    return Estimate(n=n, mean=mean, low=low, high=high, minimum=min(values), maximum=max(values))


def paired_difference(
    first: Mapping[Any, float], second: Mapping[Any, float], *, shared_rows_ratio: float = 0.0
) -> Estimate | None:
    """The mean of first minus second over the seeds that both have, as `estimate` gives it.

    Args:
        first: Score by seed, or by whatever makes a pair.
        second: The same of another one.
        shared_rows_ratio: As in `estimate`.

    Returns:
        None: they share no seed.
    """
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    return estimate(differences, shared_rows_ratio=shared_rows_ratio) if differences else None
