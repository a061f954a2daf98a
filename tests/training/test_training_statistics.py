"""Student t intervals against scipy and by hand; what one and two values may claim."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.statistics import (
    Estimate,
    estimate,
    mean_of_means,
    paired_difference,
    ratio,
    student_t_cdf,
    student_t_quantile,
)

GAINS = [0.02, 0.03, 0.025]
FINITE = st.floats(-1e3, 1e3, allow_nan=False)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 29, 30, 99, 100, 500, 1001, 66_933])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.995, 0.025, 1e-4])
def test_t_quantiles_equal_scipys(df: int, probability: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(probability, df)
    assert student_t_quantile(probability, df) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("df", [1, 2, 7, 8, 40])
def test_t_probabilities_equal_scipys(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for t in (-30.0, -2.1, -0.3, 0.0, 0.7, 5.0):
        assert student_t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), rel=1e-9, abs=1e-14)


def test_quantiles_in_printed_tables() -> None:
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}
    for df, value in printed.items():
        assert round(student_t_quantile(0.975, df), 3) == value
    assert student_t_quantile(0.5, 3) == pytest.approx(0.0, abs=1e-12)


def test_three_seeds_by_hand() -> None:
    found = estimate([0.40, 0.50, 0.60])
    half_width = 4.302653 * 0.1 / math.sqrt(3)
    assert found.n == 3 and found.mean == pytest.approx(0.5)
    assert found.half_width == pytest.approx(half_width, rel=1e-6)
    assert (found.minimum, found.maximum) == (0.40, 0.60)


def test_folds_that_share_training_rows_get_a_wider_interval() -> None:
    values = [0.7, 0.8, 0.75, 0.72, 0.81]
    alone, folds = estimate(values), estimate(values, shared_rows_ratio=1 / 3)
    assert folds.mean == alone.mean
    assert folds.half_width / alone.half_width == pytest.approx(math.sqrt((1 / 5 + 1 / 3) * 5))


def test_one_value_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.n, found.low, found.high, found.half_width) == (1, None, None, None)
    assert found.verdict == "one pair: not judged"


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_nothing_or_a_number_that_is_not_finite_is_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="one or more finite"):
        estimate(values)


@given(st.lists(FINITE, min_size=2, max_size=8), FINITE)
def test_the_interval_holds_the_mean_and_moves_with_the_values(
    values: list[float], shift: float
) -> None:
    found, moved = estimate(values), estimate([value + shift for value in values])
    assert found.low <= found.mean <= found.high
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-6)
    assert moved.half_width == pytest.approx(found.half_width, abs=1e-6)


def paired(first: list[float], second: list[float]) -> Estimate:
    found = paired_difference(dict(enumerate(first)), dict(enumerate(second)))
    assert found is not None
    return found


def test_pairing_removes_what_seeds_have_in_common() -> None:
    easy_and_hard_seeds = [0.9, 0.5, 0.7]
    better = [value + gain for value, gain in zip(easy_and_hard_seeds, GAINS, strict=True)]
    difference = paired(better, easy_and_hard_seeds)
    assert difference.verdict == "separable" and difference.low > 0
    assert estimate(better).low < estimate(easy_and_hard_seeds).mean


def test_pairs_that_disagree_are_not_separable() -> None:
    assert paired([0.6, 0.4, 0.5], [0.5, 0.5, 0.5]).verdict == "not separable"


def test_differences_without_spread_are_not_judged() -> None:
    assert paired([0.5, 0.5], [0.5, 0.5]).verdict == "equal in every pair"
    assert paired([0.6, 0.7], [0.5, 0.6]).verdict == "no spread: not judged"


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired_difference({1: 0.3, 2: 0.4, 3: 0.9}, {2: 0.2, 1: 0.1})
    assert found is not None and (found.n, found.mean) == (2, pytest.approx(0.2))
    assert paired_difference({1: 0.3}, {2: 0.2}) is None


def test_a_mean_of_means_counts_every_group_alike_and_is_surer_the_surer_each_is() -> None:
    groups = [[0.0, 1.0, 1.0, 1.0], [0.0, 1.0]]
    found = mean_of_means(groups)
    assert (found.n, found.mean, found.minimum, found.maximum) == (6, 0.625, 0.0, 1.0)
    squared = [0.25 / 4, 0.5 / 2]  # variance 0.75/3 of four values, 0.5 of two
    df = sum(squared) ** 2 / (squared[0] ** 2 / 3 + squared[1] ** 2 / 1)
    assert int(df) == 1
    width = student_t_quantile(0.975, 1) * math.sqrt(sum(squared)) / 2
    assert found.half_width == pytest.approx(width)


def test_one_group_is_an_ordinary_mean_and_a_single_value_takes_the_interval() -> None:
    assert mean_of_means([GAINS]) == estimate(GAINS)
    assert mean_of_means([[1.0] * 4, [1.0] * 5]).has_no_spread
    found = mean_of_means([GAINS, [0.5]])
    assert found.half_width is None and found.n == 4
    assert found.verdict == "too few pairs: not judged"
    assert mean_of_means([GAINS], least_df=2) == estimate(GAINS)
    assert mean_of_means([GAINS], least_df=3).half_width is None


def test_means_of_means_hold_the_truth_as_often_as_they_say() -> None:
    numbers, hits = random.Random(0), 0
    shares = [0.2, 0.6, 0.9]
    for _ in range(400):
        groups = [[float(numbers.random() < share) for _ in range(30)] for share in shares]
        found = mean_of_means(groups)
        assert found.low is not None and found.high is not None
        hits += found.low <= sum(shares) / 3 <= found.high
    assert 0.92 < hits / 400 < 0.98


def test_a_ratio_is_of_the_sums_and_covers_the_truth_as_often_as_it_says() -> None:
    assert ratio([2.0, 6.0], [1.0, 3.0]).half_width == pytest.approx(0)
    numbers, hits = random.Random(1), 0
    for _ in range(400):
        bottoms = [float(numbers.randint(1, 20)) for _ in range(60)]
        tops = [3 * bottom + numbers.gauss(0, 2) * bottom**0.5 for bottom in bottoms]
        found = ratio(tops, bottoms)
        assert found.mean == pytest.approx(sum(tops) / sum(bottoms))
        assert found.low is not None and found.high is not None
        hits += found.low <= 3 <= found.high
    assert 0.92 < hits / 400 < 0.98
