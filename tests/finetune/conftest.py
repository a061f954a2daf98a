"""A tiny tokenizer and a tiny bundle for the fine-tuning tests."""

from pathlib import Path

import pytest
import torch

from data_prep.tokenizer import wordpiece_from_vocab
from ponet import PoNetConfig, PretrainingModel, save_bundle

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "great", "fine", "bad", "awful", "poor", "a", "film", "it", "was", "the", "[", "]"]
VOCAB = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *WORDS, "sep"])}


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    wordpiece_from_vocab(VOCAB, lowercase=True).save(str(path))
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    torch.manual_seed(0)
    config = PoNetConfig.preset(
        "nano", vocab_size=len(VOCAB), num_layers=1, hidden_size=32, ffn_size=64, max_positions=24
    )
    model = PretrainingModel(config)
    folder = tmp_path_factory.mktemp("run") / "bundle"
    return save_bundle(folder, model, tokenizer_json=tokenizer_json)
