"""What is chosen when an adapted encoder is measured."""

from benchmarks.adaptation import chosen


def test_of_equal_dev_scores_the_test_score_does_not_decide():
    assert chosen([(0.5, 0.3), (0.5, 0.4), (0.4, 0.9)]) == 0.3
