"""A tiny tokenizer and a tiny bundle for the fine-tuning tests."""

from pathlib import Path

import pytest
from finetune_runs import VOCAB, write_bundle

from data_prep.tokenizer import wordpiece_from_vocab


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    wordpiece_from_vocab(VOCAB, lowercase=True).save(str(path))
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    return write_bundle(tmp_path_factory.mktemp("run") / "bundle", tokenizer_json)
