"""Texts to encoder input: special tokens and segments by position, cutting, padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.encoding import TextEncoder, shortened_lengths
from finetune.tables import TextRow

PAD, CLS, SEP = 0, 2, 3


def rows(*texts: tuple[str, str]) -> list[TextRow]:
    return [TextRow(number, *text, "") for number, text in enumerate(texts, start=2)]


def test_a_pair_has_a_segment_for_each_text_and_each_separator(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    texts = encoder.encode(rows(("Good film", "it was fine"), ("bad", "awful")), "x.csv")
    batch = encoder.batch(texts)
    words = encoder._tokenizer.token_to_id
    assert batch.input_ids.tolist() == [
        [CLS, words("good"), words("film"), SEP, words("it"), words("was"), words("fine"), SEP],
        [CLS, words("bad"), SEP, words("awful"), SEP, PAD, PAD, PAD],
    ]
    assert batch.segment_ids[0].tolist() == [0, 1, 1, 2, 3, 3, 3, 4]
    assert batch.segment_ids[1].tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batch.mask.sum(1).tolist() == [8, 5]
    special = batch.special_mask.nonzero().tolist()
    assert special == [[0, 0], [0, 3], [0, 7], [1, 0], [1, 2], [1, 4]]


def test_a_single_text_has_three_segments_and_one_token_type(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    batch = encoder.batch(encoder.encode(rows(("it was good", "")), "x.csv"))
    assert batch.segment_ids.tolist() == [[0, 1, 1, 1, 2]]
    assert not batch.token_type_ids.any()


def test_a_literal_separator_in_a_text_is_text(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    (text,) = encoder.encode(rows(("good [SEP] film", "")), "x.csv")
    assert (text.input_ids == SEP).sum() == 1
    assert encoder.batch([text]).segment_ids.max() == 2


@pytest.mark.parametrize("pair", ["", "the film was awful it was"])
@pytest.mark.parametrize("max_len", [5, 8, 9, 24])
def test_examples_are_cut_to_the_length_and_counted(tokenizer_json, pair, max_len) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=max_len)
    (text,) = encoder.encode(rows(("it was a good film a great film", pair)), "x.csv")
    whole = 8 + 2 + (6 + 1 if pair else 0)
    assert len(text.input_ids) == min(max_len, whole)
    assert text.is_truncated == (whole > max_len)
    assert text.input_ids[0] == CLS
    assert text.input_ids[-1] == SEP == text.input_ids[text.pair_start - 1]


@settings(max_examples=200, deadline=None)
@given(num_text=st.integers(1, 40), num_pair=st.integers(0, 40), room=st.integers(2, 50))
def test_the_longer_text_is_cut_first(num_text, num_pair, room) -> None:
    lengths = [num_text, num_pair]
    while sum(lengths) > room:
        lengths[int(lengths[1] > lengths[0])] -= 1
    kept = shortened_lengths(num_text, num_pair, room)
    assert sum(kept) == sum(lengths)
    assert np.abs(np.subtract(kept, lengths)).max() <= 1
    assert kept[0] >= 1
    assert kept[1] >= min(1, num_pair)


def test_a_text_without_tokens_is_an_error_with_its_line(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    with pytest.raises(ValueError, match=r"x\.csv, line 3"):
        encoder.encode(rows(("good", ""), ("\u200b", "")), "x.csv")
