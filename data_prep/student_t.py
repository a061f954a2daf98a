"""Student's t distribution for whole degrees of freedom, without a statistics library."""

import math


def student_t_cdf(t: float, df: int) -> float:
    """Probability that Student's t with `df` degrees of freedom is at most `t`.

    Args:
        t: Any finite value.
        df: Degrees of freedom, >= 1.

    Source: the finite series for whole degrees of freedom, Abramowitz and Stegun 26.7.3, 26.7.4.
    """
    angle = math.atan2(t, math.sqrt(df))
    factor = math.cos(angle) ** 2
    if df % 2:
        inside = 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * _sum(factor, df, 1))
    else:
        inside = math.sin(angle) * _sum(factor, df, 0)
    return (1 + inside) / 2


def _sum(factor: float, df: int, odd: int) -> float:
    term, total = 1.0, 0.0
    for k in range((df - odd) // 2):
        total += term
        term *= factor * (2 * k + 1 + odd) / (2 * k + 2 + odd)
    return total


def student_t_quantile(probability: float, df: int) -> float:
    """The t below which Student's t stays with a probability.

    Args:
        probability: In (0, 1).
        df: Degrees of freedom, >= 1.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 0 < probability < 1 or df < 1:
        raise ValueError(
            f"a t quantile needs a probability in (0, 1) and 1 or more degrees of freedom, got "
            f"{probability} and {df}"
        )
    if probability < 0.5:
        return -student_t_quantile(1 - probability, df)
    if probability == 0.5:
        return 0.0
    low, high = 0.0, math.pi / 2  # the angle of t is bounded, t itself is not
    for _ in range(100):
        middle = (low + high) / 2
        if student_t_cdf(math.sqrt(df) * math.tan(middle), df) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(df) * math.tan((low + high) / 2)
