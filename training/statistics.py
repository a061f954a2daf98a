"""Means with Student t intervals and paired differences: of a handful of seeds, of many rows.

Invariant: nothing is claimed that the number of values cannot carry; one value has no interval.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist
from typing import Any

CONFIDENCE = 0.95
_NO_SPREAD = 1e-12
_MANY = 1000
"""Degrees of freedom beyond which sums over them take long and a short expansion is exact."""


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


@functools.cache
def student_t_quantile(probability: float, df: int) -> float:
    """The t below which Student's t stays with a probability.

    Args:
        probability: In (0, 1).
        df: Degrees of freedom, >= 1.

    Source for many degrees of freedom: the expansion of Abramowitz and Stegun 26.7.5.
    """
    assert 0 < probability < 1 and df >= 1, (probability, df)
    if df > _MANY:
        z = NormalDist().inv_cdf(probability)
        parts = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return z + math.fsum(part / df**power for power, part in enumerate(parts, start=1))
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
    """Lower end of the 95 % interval of the mean; None: too few values for one."""
    high: float | None
    """Upper end; None: too few values."""
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
            return "one pair: not judged" if self.n == 1 else "too few pairs: not judged"
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
        error = math.sqrt(_squared_error(values, mean) * (1 + n * shared_rows_ratio))
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


def mean_of_means(groups: Sequence[Sequence[float]], *, least_df: int = 1) -> Estimate:
    """Mean over groups of the mean of each, and how sure it is for other values of these groups.

    The groups are what they are, as the strata of a sample are: that others would have other means
    does not widen the interval. Of one group it is `estimate`.

    Args:
        groups: One or more of one or more finite numbers each.
        least_df: Degrees of freedom that an interval must rest on, >= 1.

    Returns:
        `n`, `minimum` and `maximum` are of all values; no interval where a group has one value, or
        where fewer degrees of freedom are left.

    Source of the degrees of freedom: Satterthwaite 1946, An Approximate Distribution of Estimates
    of Variance Components; rounded down.
    """
    single = [estimate(values) for values in groups]
    mean = math.fsum(found.mean for found in single) / len(single)
    values = list(chain.from_iterable(groups))
    low = high = None
    if all(found.n > 1 for found in single):
        squared = [_squared_error(values, e.mean) for values, e in zip(groups, single, strict=True)]
        total = math.fsum(squared)
        spread = math.fsum(part**2 / (e.n - 1) for part, e in zip(squared, single, strict=True))
        df = int(total**2 / spread + 1e-9) if spread else len(values) - len(groups)
        if df >= least_df:
            width = student_t_quantile((1 + CONFIDENCE) / 2, df) * math.sqrt(total) / len(groups)
            low, high = mean - width, mean + width
    return Estimate(
        n=len(values), mean=mean, low=low, high=high, minimum=min(values), maximum=max(values)
    )


def _squared_error(values: Sequence[float], mean: float) -> float:
    """Squared standard error of the mean of two or more values."""
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def ratio(tops: Sequence[float], bottoms: Sequence[float]) -> Estimate:
    """Sum of some values over the sum of others, one of each from every one of some units.

    Args:
        tops: Finite numbers.
        bottoms: As many, none below 0 and their sum above.

    Returns:
        `minimum` and `maximum` are of the linearised values, whose mean the ratio is.

    Source of the interval: the ratio estimator by linearisation, Cochran 1977, Sampling Techniques,
    section 6.4.
    """
    whole = math.fsum(tops) / math.fsum(bottoms)
    mean = math.fsum(bottoms) / len(bottoms)
    return estimate(
        [whole + (top - whole * bottom) / mean for top, bottom in zip(tops, bottoms, strict=True)]
    )
