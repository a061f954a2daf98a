"""Words alone tell foreign texts where documents have words of their own, and no order."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pair_signals
from benchmarks.runs import synthetic_folder


@pytest.fixture(scope="module")
def options() -> argparse.Namespace:
    return argparse.Namespace(pairs=300, texts=32, max_len=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_folder(
        tmp_path_factory.mktemp("signals") / "shards", num_sentences=2000, vocab_size=600,
        validation_sentences=800, words_per_document=20,
    )  # fmt: skip


def test_words_tell_foreign_texts_and_not_the_order(
    folder: Path, options: argparse.Namespace
) -> None:
    pytest.importorskip("sklearn", reason="the linear model is scikit-learn's")
    found = pair_signals.words_alone(folder, options)
    assert found["foreign"] > 0.9
    assert abs(found["order"] - 0.5) < 0.2


def test_balanced_shares_count_both_classes_alike() -> None:
    truth = np.array([True, False, False, False])
    assert pair_signals.balanced(np.array([True, False, False, True]), truth) == pytest.approx(
        5 / 6
    )
    assert pair_signals.balanced(np.array([False] * 4), truth) == 0.5


def test_wider_weights_let_the_first_token_see_more(
    folder: Path, options: argparse.Namespace
) -> None:
    shares = [
        pair_signals.first_token(folder, "ponet", 64, init_range, options)["share"]
        for init_range in (0.02, 0.1)
    ]
    assert shares[1] > 5 * shares[0]
