"""A corpus small enough for a test, and the options of a run on it."""

from pathlib import Path

import pytest
from pretrain_corpora import tiny_corpus, tiny_options


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards where every document draws from ten words of its own."""
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def tiny_run(tiny_shards: Path, tmp_path: Path) -> list[str]:
    """Options of a `fit` of four steps that takes a second."""
    return tiny_options(tiny_shards, tmp_path)
