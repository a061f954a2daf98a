"""Texts to encoder input: special tokens and segments by position, cutting, padding."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from finetune_runs import run_fit
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.data import encoding as encoding_module
from finetune.data.encoding import (
    TextEncoder,
    paragraph_starts,
    sentence_starts,
    shortened_lengths,
)
from finetune.encoder_file import tokenizer_file
from finetune.tasks.spec import Row
from ponet import FNetConfig, PretrainingModel, save_bundle

PAD, CLS, SEP = 0, 2, 3
RULES = ("separators", "sentences", "paragraphs")
SCRAPS = (
    "good great fine bad awful poor a film it was the sep film. bad! Fine? [ ] [SEP] (a “it ” 😀 "
    "\u200b caf\u00e9. e\u0301 <br/><br/> \n \n\n Mr. Dr. it.was 3.5 \u4f60\u597d\u3002"
).split(" ")
texts_with_tokens = st.lists(st.sampled_from(SCRAPS), max_size=40).map(
    lambda scraps: " ".join(["a", *scraps])
)


def rows(*texts: tuple[str, str]) -> list[Row]:
    return [Row(number, str(number), *text, None) for number, text in enumerate(texts, start=2)]


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


def test_sentences_of_both_texts_are_segments(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=40, segments="sentences")
    (text,) = encoder.encode(rows(("It was bad. A film.", "Good! The film")), "x.csv")
    assert text.segment_starts.tolist() == [1, 5, 9, 11]
    batch = encoder.batch([text])
    assert batch.segment_ids[0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 6]


def test_paragraphs_are_segments_with_rule_paragraphs(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=40, segments="paragraphs")
    (text,) = encoder.encode(rows(("It was bad. A film\n\ngood film", "")), "x.csv")
    assert text.segment_starts.tolist() == [1, 7]


def test_sentences_of_a_sentencepiece_tokenizer_begin_with_their_own_first_token(
    unigram_json,
) -> None:
    encoder = TextEncoder(unigram_json, max_len=40, segments="sentences")
    (text,) = encoder.encode(rows(("It was bad.  A film. Good", "Good! The film")), "x.csv")
    tokens = [encoder._tokenizer.id_to_token(number) for number in text.input_ids.tolist()]
    assert (tokens[0], tokens[-1], encoder.info.pad_id) == ("[CLS]", "[SEP]", 3)
    begins = [tokens[start] for start in text.segment_starts.tolist()]
    assert begins == ["\u2581it", "\u2581a", "\u2581good", "\u2581good", "\u2581the"]


def test_an_encoder_with_a_sentencepiece_tokenizer_is_fine_tuned_and_used(
    unigram_json, tmp_path
) -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "hidden_size": 32, "ffn_size": 64, "max_positions": 24}
    config = FNetConfig.preset("nano", vocab_size=60, **sizes)
    bundle = save_bundle(tmp_path / "bundle", PretrainingModel(config), tokenizer_json=unigram_json)
    assert run_fit(bundle, tmp_path, "fnet", "--data.segments", "sentences") == 0
    loaded = load_classifier(tmp_path / "fnet")
    texts = loaded.encoder.encode(rows(("it was good.", ""), ("bad", "")), "x.csv")
    assert loaded.model(loaded.encoder.batch(texts)).shape == (2, 2)
    predicted = tmp_path / "predicted.jsonl"
    arguments = ["--model", str(tmp_path / "fnet"), "--input", str(tmp_path / "validation.csv")]
    assert main(["predict", *arguments, "--output", str(predicted)]) == 0
    assert len(predicted.read_text().splitlines()) == 50


def test_a_literal_separator_in_a_text_is_text(tokenizer_json) -> None:
    for rule in RULES:
        encoder = TextEncoder(tokenizer_json, max_len=24, segments=rule)
        (text,) = encoder.encode(rows(("good [SEP] film", "")), "x.csv")
        assert (text.input_ids == SEP).sum() == 1
        assert encoder.batch([text]).segment_ids.max() == 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pair", ["", "the film. was awful it was"])
@pytest.mark.parametrize("max_len", [5, 8, 9, 24])
def test_examples_are_cut_to_the_length_and_counted(tokenizer_json, pair, max_len, rule) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=max_len, segments=rule)
    (text,) = encoder.encode(rows(("it was a good film a great film", pair)), "x.csv")
    whole = 8 + 2 + (7 + 1 if pair else 0)
    assert text.num_tokens_whole == whole
    assert len(text.input_ids) == min(max_len, whole)
    assert text.is_truncated == (whole > max_len)
    assert text.input_ids[0] == CLS
    assert text.input_ids[-1] == SEP == text.input_ids[text.pair_start - 1]
    assert (text.segment_starts < len(text.input_ids) - 1).all()


def test_pairs_are_cut_as_the_tokenizers_library_cuts_them() -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, "a"))
    tokenizer.pre_tokenizer = Whitespace()
    for room in range(2, 13):
        tokenizer.enable_truncation(room, strategy="longest_first")
        for num_text, num_pair in product(range(1, 15), repeat=2):
            ids = tokenizer.encode("a " * num_text, "b " * num_pair).ids
            kept = ids.count(0), ids.count(1)
            assert shortened_lengths(num_text, num_pair, room) == kept and min(kept) > 0
        assert shortened_lengths(20, 0, room) == (room, 0)


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(st.tuples(texts_with_tokens, st.just("") | texts_with_tokens), min_size=1),
    rule=st.sampled_from(RULES),
    max_len=st.integers(5, 60),
)
def test_segments_are_runs_of_tokens_that_never_cross_a_separator(
    tokenizer_json, pairs, rule, max_len
) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=max_len, segments=rule)
    batch = encoder.batch(encoder.encode(rows(*pairs), "x.csv"))
    for segment_ids, special, mask in zip(
        batch.segment_ids, batch.special_mask, batch.mask, strict=True
    ):
        steps = segment_ids.diff()
        assert segment_ids[0] == 0
        assert ((steps == 0) | (steps == 1)).all(), "one run of tokens per segment, none left out"
        for place in special.nonzero().flatten():
            assert (segment_ids[mask] == segment_ids[place]).sum() == 1


@settings(max_examples=200, deadline=None)
@given(text=texts_with_tokens, rule=st.sampled_from(RULES[1:]))
def test_one_pass_gives_what_tokenising_piece_by_piece_gives(tokenizer_json, text, rule) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=1000, segments=rule)
    (encoded,) = encoder.encode(rows((text, "")), "x.csv")
    starts = sentence_starts(text) if rule == "sentences" else paragraph_starts(text)
    pieces = [text[a:b] for a, b in pairwise([*starts, len(text)])]
    ids, expected = [CLS], []
    for piece in pieces:
        tokens = encoder._tokenizer.encode(piece, add_special_tokens=False).ids
        expected += [len(ids)] * bool(tokens)
        ids += tokens
    assert encoded.input_ids.tolist() == [*ids, SEP]
    assert encoded.segment_starts.tolist() == expected


def test_tokens_are_the_same_under_every_rule_and_chunk_size(tokenizer_json, monkeypatch) -> None:
    some = rows(*[(f"the film {n * 'was good. '}", "it was" * (n % 2)) for n in range(1, 20)])
    encoders = [TextEncoder(tokenizer_json, max_len=30, segments=rule) for rule in RULES]
    whole = [encoder.encode(some, "x.csv") for encoder in encoders]
    monkeypatch.setattr(encoding_module, "_CHUNK_CHARS", 50)
    for encoder, texts in zip(encoders, whole, strict=True):
        for text, again, first in zip(texts, encoder.encode(some, "x.csv"), whole[0], strict=True):
            np.testing.assert_array_equal(text.input_ids, first.input_ids)
            np.testing.assert_array_equal(text.input_ids, again.input_ids)
            np.testing.assert_array_equal(text.segment_starts, again.segment_starts)
            assert text.pair_start == again.pair_start == first.pair_start


def test_packed_texts_are_the_encoded_texts(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=9, segments="sentences")
    packed = encoder.encode_packed(rows(*[("it was. " * n, "") for n in range(1, 6)]), "x.csv")
    assert packed.lengths.tolist() == [5, 8, 9, 9, 9]
    assert packed.lengths_whole.tolist() == [5, 8, 11, 14, 17]
    assert packed.num_segments.tolist() == [1, 2, 3, 3, 3]
    assert [text.is_truncated for text in packed] == [False, False, True, True, True]
    assert packed[4].segment_starts.tolist() == [1, 4, 7]
    with pytest.raises(IndexError):
        packed[5]


def test_no_rows_are_no_texts(tokenizer_json) -> None:
    assert TextEncoder(tokenizer_json, max_len=9).encode([], "x.csv") == []


def test_padding_never_changes_other_tokens(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24, segments="sentences")
    texts = encoder.encode(rows(("It was. A film", ""), ("good " * 15, "bad")), "x.csv")
    alone, together = encoder.batch(texts[:1]), encoder.batch(texts)
    length = len(texts[0].input_ids)
    for name in ("input_ids", "segment_ids", "token_type_ids", "special_mask", "mask"):
        assert torch.equal(getattr(alone, name)[0], getattr(together, name)[0, :length])
    assert (together.input_ids[0, length:] == PAD).all()


def test_a_text_without_tokens_is_an_error_with_its_line(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    with pytest.raises(ValueError, match=r"x\.csv, line 3"):
        encoder.encode(rows(("good", ""), ("\u200b", "")), "x.csv")


def test_half_a_surrogate_pair_is_an_error_with_its_line(tokenizer_json) -> None:
    encoder = TextEncoder(tokenizer_json, max_len=24)
    with pytest.raises(ValueError, match=r"x\.jsonl, line 3: .*surrogate.*ud83d"):
        encoder.encode(rows(("good", ""), ("film \ud83d", "")), "x.jsonl")


def test_a_length_without_room_for_a_pair_is_an_error(tokenizer_json) -> None:
    with pytest.raises(ValueError, match="max_len is 4; 5 or more"):
        TextEncoder(tokenizer_json, max_len=4)


def test_the_tokenizer_is_found_in_a_bundle_a_run_and_beside_a_file(tmp_path) -> None:
    (tmp_path / "bundle").mkdir()
    expected = tmp_path / "bundle" / "tokenizer.json"
    expected.write_text("{}")
    (tmp_path / "bundle" / "model.safetensors").write_text("")
    for place in (tmp_path, tmp_path / "bundle", tmp_path / "bundle" / "model.safetensors"):
        assert tokenizer_file(str(place)) == expected
    (tmp_path / "tokenizer.json").write_text("{}")  # not the one that the weights belong to
    assert tokenizer_file(tmp_path) == expected
    with pytest.raises(ValueError, match="nothing: no such folder; give a bundle or run"):
        tokenizer_file(tmp_path / "nothing")


def pieces(text: str, starts: list[int]) -> list[str]:
    return [text[a:b] for a, b in pairwise([*starts, len(text)])]


PIECES = ["A film.", "Mr. Poe", '"', "“", "”", "(", ")", "why?", "<br />", "\n", "\n\n", "😀", "é."]


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.sampled_from(PIECES), max_size=200).map(" ".join) | st.text(max_size=60),
    rule=st.sampled_from([sentence_starts, paragraph_starts]),
)
def test_starts_grow_from_zero_and_lie_inside_the_text(text, rule) -> None:
    starts = rule(text)
    assert starts == sorted(set(starts))
    assert starts[:1] == ([0] if text else [])
    assert "".join(pieces(text, starts)) == text


def test_sentences_begin_after_full_stops_but_not_after_abbreviations() -> None:
    text = "Mr. Smith came in. Was he late?  No! He was not."
    found = pieces(text, sentence_starts(text))
    assert found == ["Mr. Smith came in. ", "Was he late?  ", "No! ", "He was not."]


def test_positions_count_characters_not_bytes() -> None:
    text = "Zoë said 😀 hi. Then she left."
    assert sentence_starts(text) == [0, text.index("Then")]


@pytest.mark.parametrize("breaks", ["<br /><br />", "<br><br/>", "<BR /> <br />"])
def test_a_double_html_break_begins_a_sentence_even_without_a_full_stop(breaks) -> None:
    text = f"a film (of sorts.){breaks}but fine"
    assert sentence_starts(text) == [0, text.index("<")]


def test_a_single_html_break_is_text() -> None:
    assert sentence_starts("a film<br />that is fine") == [0]


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_the_article() -> None:
    sentence = "The minister said that nothing of the kind had been planned. "
    text = "He began: “" + 10 * sentence + "The end was “near”."
    found = pieces(text, sentence_starts(text))
    assert len(found) == 11
    assert found[-1] == "The end was “near”."


def test_an_opening_mark_goes_with_the_sentence_it_opens() -> None:
    text = (
        "“We know this very well here. "
        + 12 * "It was said again and again. "
        + "“So be it.” (Yes."
    )
    starts = sentence_starts(text)
    assert text.rindex("“") in starts
    assert text.rindex("(") in starts


def test_sentences_end_in_a_short_quotation_too() -> None:
    text = 'She wrote: "It was fine. It was good." Then she left.'
    assert sentence_starts(text) == [0, text.index("It was good"), text.index("Then")]


def test_paragraphs_begin_after_blank_lines_only() -> None:
    text = "one\nstill one\n\ntwo\r\n \r\n\n three\n\n"
    assert paragraph_starts(text) == [0, text.index("two"), text.index("three")]


@pytest.mark.parametrize(
    ("unit", "num_starts"),
    [("“Word lies here. ", 3000), ("“word and ", 1), ("“word,and", 1), ("(word and ", 1)],
)
def test_no_text_is_too_long_for_the_splitter(
    monkeypatch: pytest.MonkeyPatch, unit: str, num_starts: int
) -> None:
    """sentencex looks for the end of every opening mark in all that follows."""
    import sentencex

    lengths: list[int] = []
    whole = sentencex.segment

    def segment(language: str, text: str) -> list[str]:
        lengths.append(len(text))
        return whole(language, text)

    monkeypatch.setattr(sentencex, "segment", segment)
    text = unit * 3000
    starts = sentence_starts(text)
    assert max(lengths) <= 20_000 < len(text)
    assert len(starts) == num_starts


@pytest.mark.parametrize(
    "sentences",
    [
        ("\u1798\u1793\u17bb\u179f\u17d4 ", "\u1796\u17bc\u1780\u1782\u17c1\u17d4"),  # Khmer
        ("\u0f51\u0f7a\u0f0b\u0f62\u0f72\u0f44\u0f0d ", "\u0f61\u0f72\u0f53\u0f0d"),  # Tibetan
        ("\u6211\u5011\u4f86\u4e86\u3002", "\u4ed6\u5011\u8d70\u4e86\u3002"),  # Chinese
        (
            "\u092f\u0939 \u0918\u0930 \u0939\u0948\u0964 ",
            "\u0935\u0939 \u092f\u0939\u093e\u0901\u0964",
        ),  # Hindi
    ],
)
def test_sentences_end_at_the_marks_of_every_script(sentences: tuple[str, str]) -> None:
    assert sentence_starts("".join(sentences)) == [0, len(sentences[0])]
