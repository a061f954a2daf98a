"""Student's t: against printed tables and against an independent implementation."""

import math

import pytest

from data_prep.student_t import student_t_cdf, student_t_quantile


@pytest.mark.parametrize(
    ("df", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (30, 2.042)]
)
def test_the_quantiles_of_the_printed_table_come_out(df: int, expected: float) -> None:
    assert student_t_quantile(0.975, df) == pytest.approx(expected, abs=5e-4)
    assert student_t_quantile(0.025, df) == pytest.approx(-expected, abs=5e-4)


def test_the_distribution_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 4, 7, 20, 101):
        for t in (-8.0, -1.3, 0.0, 0.2, 2.5, 40.0):
            assert student_t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-12)


def test_quantile_and_distribution_undo_each_other() -> None:
    for df in (1, 2, 5, 12):
        for probability in (0.001, 0.2, 0.5, 0.9, 0.9995):
            found = student_t_quantile(probability, df)
            assert math.isclose(student_t_cdf(found, df), probability, rel_tol=1e-9)


@pytest.mark.parametrize(("probability", "df"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_arguments_out_of_range_are_refused(probability: float, df: int) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        student_t_quantile(probability, df)
