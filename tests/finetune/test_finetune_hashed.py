"""Texts as words for hashed encoders."""

from pathlib import Path

import pytest
import torch

from finetune.data.hashed import WordEncoder
from finetune.tasks.spec import Row
from ponet import PoNetConfig
from ponet.config import ProjectionConfig
from ponet.projection import WordFeatures

PROJECTION = ProjectionConfig(feature_size=64, num_hashes=8)


def encoder(tokenizer_json: Path) -> WordEncoder:
    sizes = PoNetConfig.preset("nano", vocab_size=19, projection=PROJECTION)
    return WordEncoder(tokenizer_json, sizes, max_len=8)


def test_features_are_those_of_the_words_wherever_they_stand(tokenizer_json: Path):
    words = encoder(tokenizer_json)
    rows = [Row(1, "", "a good, bad good", "", None), Row(2, "", "film", "", None)]
    batch = words.batch(words.encode(rows, "rows"))
    assert batch.mask.tolist() == [[True] * 5, [True] + [False] * 4]
    assert batch.word_features is not None
    found = batch.word_features[batch.input_ids]
    assert torch.equal(found[0, 1], found[0, 4]) and not torch.equal(found[0, 1], found[0, 3])
    expected = WordFeatures(words._tokenizer, PROJECTION)(["a", "good", ",", "bad", "good"])
    assert found[0].tolist() == expected.tolist()
    alone = words.batch(words.encode(rows[1:], "rows"))
    assert alone.word_features is not None
    assert torch.equal(alone.word_features[alone.input_ids][0, 0], found[1, 0])


def test_features_are_made_before_workers_are_started(
    tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
):
    words = encoder(tokenizer_json)
    texts = words.encode_packed([Row(1, "", "a good film", "", None)], "rows")
    monkeypatch.setattr(words, "_features", None)
    assert words.batch([texts[0]]).mask.sum() == 3
