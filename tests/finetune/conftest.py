"""A tiny tokenizer and a tiny bundle for the fine-tuning tests."""

from pathlib import Path

import pytest
from finetune_runs import VOCAB, WORDS, write_bundle
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from data_prep.tokenizer import wordpiece_from_vocab


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    wordpiece_from_vocab(VOCAB, lowercase=True).save(str(path))
    return path


@pytest.fixture(scope="session")
def unigram_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of the kind of the released FNet: SentencePiece, a space before its words."""
    special = ["<unk>", "<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*(f"\u2581{word}" for word in WORDS), "\u2581", ".", "!", *"abcdefghilmnoprstuvw"]
    vocab = [*((token, 0.0) for token in special), *((piece, -len(piece)) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.enable_padding(length=20)  # as transformers stores it; never to be used
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    return write_bundle(tmp_path_factory.mktemp("run") / "bundle", tokenizer_json)
