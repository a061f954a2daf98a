"""A corpus small enough for a test: 24 documents of 12 sentences over 60 words."""

from pathlib import Path

import numpy as np
import pytest
from pretrain_corpora import tiny_options

from data_prep.shards import write_shards

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_tokenizer(path: Path, num_words: int = 60) -> Path:
    """A WordPiece tokenizer.json over w0 .. w<n-1>, the last six of them continuations."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [f"w{i}" for i in range(num_words - 6)] + [f"##c{i}" for i in range(6)]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards where every document draws from ten words of its own."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)

    def document(number: int) -> list[list[int]]:
        words = 5 + (number * 7 + np.arange(10)) % 54
        return [rng.choice(words, rng.integers(3, 9)).tolist() for _ in range(12)]

    splits = {
        "train": [document(i) for i in range(24)],
        "validation": [document(i) for i in range(9)],
    }
    write_shards(folder / "shards", splits, tiny_tokenizer(folder / "tokenizer.json"))
    return folder / "shards"


@pytest.fixture
def tiny_run(tiny_shards: Path, tmp_path: Path) -> list[str]:
    """Options of a `fit` of four steps that takes a second."""
    return tiny_options(tiny_shards, tmp_path)
