"""Word pieces as whole words: grouping, delimiters, segments, features."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ponet import EncoderBatch, MLPMixerConfig, PoNetConfig, ProjectionConfig
from ponet.projection import PieceWords, WordFeatures

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning", "##s", "the", "sun", "."]
CLS, SEP, MASK = 2, 3, 4
CONFIG = PoNetConfig.preset("nano", projection=ProjectionConfig(kind="spelling", num_hashes=2))
NO_PLACES = torch.zeros(2, 1, dtype=torch.int64)


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def pieces(rows: list[list[int]], segments: list[list[int]] | None = None) -> EncoderBatch:
    """Rows with their delimiters, padded on the right."""
    longest = max(map(len, rows))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    numbers = segments or [[0] * len(row) for row in rows]
    segment_ids = torch.tensor([row + [0] * (longest - len(row)) for row in numbers])
    return EncoderBatch(
        input_ids=padded, mask=mask, token_type_ids=(padded.cumsum(1) > 20).long() * mask,
        segment_ids=segment_ids, special_mask=mask & ((padded == CLS) | (padded == SEP)),
    )  # fmt: skip


def spelled(tokenizer: Tokenizer, batch: EncoderBatch, words: list[list[str]]) -> bool:
    """Whether the real places of a batch have the features of these words."""
    features, table = WordFeatures(tokenizer, CONFIG.projection), batch.word_features
    return all(
        int(mask.sum()) == len(row)
        and np.array_equal(table[ids[mask]].numpy(), features(row).astype(np.int64))
        for ids, mask, row in zip(batch.input_ids, batch.mask, words, strict=True)
    )


def test_pieces_of_a_word_become_one_place_with_the_features_of_its_spelling(tokenizer):
    rows = [[CLS, 8, 5, 6, 7, 10, SEP, 9, 7, SEP], [CLS, MASK, 9, SEP]]
    batch, _ = PieceWords(tokenizer, CONFIG)(pieces(rows), NO_PLACES)
    words = [["the", "runnings", ".", "[SEP]", "suns"], ["[MASK]", "sun"]]
    assert spelled(tokenizer, batch, words)
    assert not batch.special_mask.any()


def test_a_piece_that_continues_nothing_in_its_text_is_a_word(tokenizer):
    batch, _ = PieceWords(tokenizer, CONFIG)(
        pieces([[CLS, 7, 5, SEP, 6, 7, SEP], [CLS, 5, SEP]]), NO_PLACES
    )
    assert spelled(tokenizer, batch, [["##s", "run", "[SEP]", "##nings"], ["run"]])


def test_places_types_and_segments_are_those_of_the_first_piece(tokenizer):
    given = pieces([[CLS, 8, 5, 6, 10, 9, SEP], [CLS, 9, SEP]], [[0, 1, 1, 1, 1, 2, 3], [0, 1, 2]])
    places = torch.tensor([[1, 2, 3, 5], [1, 1, 0, 0]])
    batch, found = PieceWords(tokenizer, CONFIG)(given, places)
    assert found.tolist() == [[0, 1, 1, 3], [0, 0, 0, 0]]
    assert batch.segment_ids[0].tolist() == [0, 0, 0, 1]
    first = [1, 2, 4, 5]
    assert batch.token_type_ids[0].tolist() == given.token_type_ids[0, first].tolist()


def test_an_empty_text_keeps_a_delimiter(tokenizer):
    batch, _ = PieceWords(tokenizer, CONFIG)(pieces([[CLS, SEP], [CLS, SEP]]), NO_PLACES)
    assert spelled(tokenizer, batch, [["[CLS]"], ["[CLS]"]])


def test_fixed_places_are_filled_up(tokenizer):
    make = PieceWords(tokenizer, MLPMixerConfig(max_positions=12))
    batch, _ = make(pieces([[CLS, 8, SEP], [CLS, 5, 6, SEP]]), NO_PLACES)
    assert batch.mask.shape == (2, 12) and batch.mask.sum(1).tolist() == [1, 1]


def test_words_are_forgotten_before_there_are_too_many(tokenizer, monkeypatch):
    make = PieceWords(tokenizer, CONFIG)
    before, _ = make(pieces([[CLS, 8, 9, SEP], [CLS, 5, 6, SEP]]), NO_PLACES)
    monkeypatch.setattr("ponet.projection.pieces.MOST_KEPT", 2)
    for _ in range(2):
        again, _ = make(pieces([[CLS, 8, 9, SEP], [CLS, 5, 6, SEP]]), NO_PLACES)
        assert torch.equal(again.word_features, before.word_features)
        assert make._features.num_known == 0
