"""Embeddings and filled masks: the format of pretraining, any length, batch-mates never matter."""

import dataclasses
from collections import Counter

import pytest
import torch
from ponet_bundles import TEXTS, VOCAB, Labelled, make_model, write_tokenizer
from tokenizers import Tokenizer

from data_prep.config import SentencesConfig
from data_prep.sentences import split_sentences
from ponet import (
    BertConfig,
    EncoderBatch,
    FNetConfig,
    LSTMConfig,
    MLPMixerConfig,
    PoNetConfig,
    ProjectionConfig,
    load_bundle,
    save_bundle,
)
from ponet.inference import trained_positions
from ponet.text_format import TextFormat, sentences_of

HASHED = ProjectionConfig(feature_size=32, num_hashes=8)
LONG = "The sun rises in the harbour. Boats is in the sun! " * 6


def make_bundle(folder, config_class=PoNetConfig, *, metadata=None, **fields):
    model = make_model(config_class, **fields)
    tokenizer = write_tokenizer(folder)
    return load_bundle(
        save_bundle(folder / "b", model, tokenizer_json=tokenizer, metadata=metadata)
    )


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_vector_is_the_mean_over_the_tokens_of_cls_sentences_sep(bundle):
    words = ["[CLS]", "the", "sun", "rises", ".", "boats", "!", "[SEP]"]
    ids = torch.tensor([[VOCAB[word] for word in words]])
    batch = EncoderBatch(
        input_ids=ids,
        mask=torch.ones_like(ids).bool(),
        token_type_ids=torch.zeros_like(ids),
        segment_ids=torch.tensor([[0, 1, 1, 1, 1, 2, 2, 3]]),
        special_mask=torch.tensor([[True] + [False] * 6 + [True]]),
    )
    with torch.no_grad():
        hidden = bundle.model.encoder(batch)[0]
    close(bundle.encode(["The sun rises. Boats!"]), hidden.mean(0)[None])
    close(bundle.encode(["The sun rises. Boats!"], pooling="cls"), hidden[:1])


@pytest.mark.parametrize("config_class", [PoNetConfig, BertConfig, FNetConfig])
def test_batch_mates_and_tokens_of_a_batch_never_matter(config_class, tmp_path):
    bundle = make_bundle(tmp_path, config_class)
    texts = [*TEXTS, LONG, "the", "sun rises"]
    together = bundle.encode(texts)
    assert together.shape == (7, 16) and together.dtype == torch.float32
    assert together.isfinite().all() and not together.requires_grad
    close(together, torch.cat([bundle.encode([text]) for text in texts]))
    close(together, bundle.encode(texts, batch_tokens=1))
    close(together.flip(0), bundle.encode(texts[::-1], batch_tokens=40))
    close(bundle.encode(Labelled(texts)), together)


def test_the_windows_of_a_long_text_hold_every_token_once_in_whole_sentences(bundle):
    form = bundle.text_format
    [whole] = form.windows([LONG], max_len=24, long_texts="tile")
    rows = form.windows([LONG], max_len=24)
    assert len(rows) > 2 and max(len(row.ids) for row in rows) <= 24
    assert [i for row in rows for i in row.ids[1:-1]] == whole.ids[1:-1]
    assert all(row.ids[-2] in (VOCAB["."], VOCAB["!"]) for row in rows)
    assert all(row.segments == sorted(row.segments) and row.segments[0] == 0 for row in rows)
    [cut] = form.windows([LONG], max_len=24, long_texts="cut")
    assert len(cut.ids) == 24 and cut.ids[:-1] == whole.ids[:23]
    one = form.windows(["boats " * 30], max_len=12)  # a sentence longer than a window
    assert [len(row.ids) for row in one] == [12, 12, 12]


def test_the_vector_of_a_long_text_is_the_mean_over_all_its_windows(bundle):
    rows = bundle.text_format.windows([LONG], max_len=24)
    from ponet.text_format import window_batch

    with torch.no_grad():
        hidden = torch.cat([bundle.model.encoder(window_batch([row]))[0] for row in rows])
    close(bundle.encode([LONG]), hidden.mean(0)[None])


def test_tiling_repeats_the_positions_and_leaves_the_model_as_it_is(bundle):
    before = bundle.encode(TEXTS)
    tiled = bundle.encode([LONG, *TEXTS], long_texts="tile")
    assert bundle.model.config.max_positions == 24
    assert bundle.model.encoder.embeddings.position.num_embeddings == 24
    close(tiled[1:], before)
    longer = make_model()
    longer.encoder.extend_positions(200)
    [row] = bundle.text_format.windows([LONG], max_len=24, long_texts="tile")
    from ponet.text_format import window_batch

    with torch.no_grad():
        close(tiled[0], longer.encoder(window_batch([row]))[0].mean(0))


def test_tiling_repeats_only_the_positions_that_pretraining_has_reached(tmp_path):
    metadata = {"max_len": 10}
    bundle = make_bundle(tmp_path, metadata=metadata)
    expected = make_model().encoder
    table = expected.embeddings.position.weight.detach()[:10].repeat(20, 1)
    expected.embeddings.position = torch.nn.Embedding(*table.shape, _weight=table)
    expected.config = dataclasses.replace(expected.config, max_positions=200)
    [row] = bundle.text_format.windows([LONG], max_len=10, long_texts="tile")
    from ponet.text_format import window_batch

    with torch.no_grad():
        hidden = expected(window_batch([row]))[0]
    close(bundle.encode([LONG], long_texts="tile"), hidden.mean(0)[None])
    config = bundle.model.config
    assert [trained_positions(config, m) for m in (metadata, {"max_len": 99}, {})] == [10, 24, 24]
    for start, reached in (({"max_len": 16}, 16), ({}, 24)):  # weights of others: all of them
        whole = {**metadata, "started_from": {"metadata": start}}
        assert trained_positions(config, whole) == reached


def test_rows_are_as_long_as_in_pretraining_unless_said_otherwise(tmp_path):
    bundle = make_bundle(tmp_path, metadata={"max_len": 10})
    close(bundle.encode([LONG]), bundle.encode([LONG], max_len=10))
    assert not torch.allclose(bundle.encode([LONG]), bundle.encode([LONG], max_len=24))


def test_a_special_token_written_in_a_text_is_text(bundle):
    [row] = bundle.text_format.windows(["the [SEP] [MASK]"], max_len=24)
    assert VOCAB["[MASK]"] not in row.ids and row.ids.count(VOCAB["[SEP]"]) == 1


def test_a_model_in_training_mode_is_used_without_dropout_and_stays_in_it(bundle):
    expected = bundle.encode(TEXTS)
    bundle.model.train()
    close(bundle.encode(TEXTS), expected)
    assert bundle.model.training


def test_no_texts_give_no_vectors(bundle):
    assert bundle.encode([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, "give a list"),
        (["a", 3], {}, r"texts\[1\] is a int"),
        (["a"], {"pooling": "max"}, "pooling='max' given; allowed are mean, cls"),
        (["a"], {"long_texts": "drop"}, "allowed are windows, tile, cut"),
        (["a"], {"batch_tokens": 0}, "1 or more is needed"),
        (["a"], {"max_len": 2}, "need 3"),
        (["a"], {"max_len": 25}, "has 24 positions; give a smaller max_len, or long_texts='tile'"),
        (["a"], {"max_len": 20, "long_texts": "tile"}, "max_len=20 would do nothing"),
    ],
)
def test_wrong_options_are_named(bundle, texts, options, message):
    with pytest.raises(ValueError, match=message):
        bundle.encode(texts, **options)


@pytest.mark.parametrize(
    ("config_class", "fields", "options", "message"),
    [
        (LSTMConfig, {"bidirectional": False}, {"pooling": "cls"},
         r"lstm reads in one direction, \[CLS\] before all of the text; give pooling='mean'"),
        (PoNetConfig, {"projection": HASHED}, {"pooling": "cls"}, "of hashed words sees no"),
        (MLPMixerConfig, {"projection": HASHED}, {"long_texts": "tile"},
         "weights of mlp_mixer belong to its 24 places; give 'windows' or 'cut'"),
        (MLPMixerConfig, {"projection": HASHED}, {"max_len": 25},
         "has 24 places; give a smaller max_len$"),
    ],
)  # fmt: skip
def test_what_an_encoder_cannot_do_is_said_of_it(config_class, fields, options, message, tmp_path):
    bundle = make_bundle(tmp_path, config_class, **fields)
    with pytest.raises(ValueError, match=message):
        bundle.encode(["a"], **options)


def test_encoders_without_positions_take_rows_of_any_length(tmp_path):
    bundle = make_bundle(tmp_path, LSTMConfig, use_positions=False)
    [vector] = bundle.encode([LONG], max_len=300)
    [tiled] = bundle.encode([LONG], long_texts="tile")
    close(vector, tiled)
    ids = [row.ids for row in bundle.text_format.windows([LONG], max_len=300)]
    assert len(ids) == 1 and len(ids[0]) > 24
    assert bundle.score(["boats"], max_len=300) == bundle.score(["boats"])
    assert bundle.model.config.max_positions == 24


@pytest.mark.parametrize("texts", [(text for text in TEXTS), {"a": 1}, {"a", "b"}, iter(TEXTS), 3])
def test_texts_without_an_order_or_a_number_are_refused_in_words(bundle, texts):
    with pytest.raises(TypeError, match=r"texts is a \w+, whose texts .* give a list"):
        bundle.encode(texts)


def test_a_list_is_not_filled(bundle):
    with pytest.raises(TypeError, match="text is a list; give one str"):
        bundle.fill(["a [MASK]"])


def test_filled_masks_are_the_most_likely_words_of_the_model(bundle):
    [first, second] = bundle.fill("The [MASK] rises. [MASK]!", top=3)
    words = ["[CLS]", "the", "[MASK]", "rises", ".", "[MASK]", "!", "[SEP]"]
    ids = torch.tensor([[VOCAB[word] for word in words]])
    batch = EncoderBatch(
        input_ids=ids, mask=torch.ones_like(ids).bool(), token_type_ids=torch.zeros_like(ids),
        segment_ids=torch.tensor([[0, 1, 1, 1, 1, 2, 2, 3]]),
        special_mask=torch.tensor([[True] + [False] * 6 + [True]]),
    )  # fmt: skip
    with torch.no_grad():
        likely, tokens = bundle.model(batch).mlm_logits[0, [2, 5]].softmax(-1).topk(3)
    by_id = {number: word for word, number in VOCAB.items()}
    for guesses, row, share in zip((first, second), tokens.tolist(), likely, strict=True):
        assert [guess.word for guess in guesses] == [by_id[token] for token in row]
        close(torch.tensor([guess.probability for guess in guesses]), share)


def test_masks_of_a_text_longer_than_the_model_are_all_filled(bundle):
    text = "The [MASK] rises in the harbour. " * 9
    guesses = bundle.fill(text, top=1)
    assert len(guesses) == 9 and all(len(row) == 1 for row in guesses)


@pytest.mark.parametrize(
    ("text", "top", "message"),
    [
        ("the sun", 5, r"no \[MASK\]"),
        ("the [MASK]", 0, "top is 0; it must be from 1 to"),
        ("the [MASK]", 1000, "top is 1000"),
        ("the [SEP] [MASK]", 5, r"holds \[SEP\]"),
    ],
)
def test_what_cannot_be_filled_is_named(bundle, text, top, message):
    with pytest.raises(ValueError, match=message):
        bundle.fill(text, top=top)


def test_a_bundle_without_a_tokenizer_or_a_trained_head_says_so(tmp_path):
    bare = load_bundle(save_bundle(tmp_path / "a", make_model(), tokenizer_json=None))
    with pytest.raises(ValueError, match="has no tokenizer"):
        bare.encode(["a"])
    with pytest.raises(ValueError, match="has no tokenizer"):
        bare.fill("[MASK]")
    bundle = make_bundle(tmp_path, metadata={"untrained": ["mlm_head.bias"]})
    with pytest.raises(ValueError, match="never trained"):
        bundle.fill("[MASK]")


def test_odd_characters_are_no_reason_to_fail(bundle):
    texts = ["\ud800 the sun", "\x00\r\u2028", "\ufeff", "a\n\n\n \nb"]
    assert bundle.encode(texts).isfinite().all()
    assert sentences_of("a\ud800") == ["a\ufffd"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": "1.0"}', "holds no vocabulary"),
        (
            '{"model": {"type": "New", "vocab": {}}}',
            "tokenizers .* newer version",
        ),
    ],
)
def test_a_broken_tokenizer_file_is_named(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        TextFormat(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("length", [None, 3, 40])
def test_padding_and_truncation_stored_in_a_tokenizer_change_nothing(length, bundle, tmp_path):
    plain = write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(plain))
    tokenizer.enable_padding(length=length)
    tokenizer.enable_truncation(length or 3)
    tokenizer.save(str(tmp_path / "stored.json"))
    form, padded = TextFormat(plain), TextFormat(tmp_path / "stored.json")
    options = {"max_len": 24, "has_masks": True}
    texts = [*TEXTS, LONG, "the [MASK] rises"]
    assert padded.windows(texts, **options) == form.windows(texts, **options)


DOCUMENTS = [
    "A Heading\n\nThe first sentence. The second one, e.g. this? Yes!\n\nAnother paragraph here",
    "Dr. Smith met Mrs. Jones at 5 p.m. in St. Louis. They talked: of ships; of sealing wax.",
    "1. Introduction\n\nWhat is it? It is \"quoted.\" And (bracketed.) on and on...",
    "no stop " * 40,
    "word. " * 9000,
    "x" * 45_000,
    "",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_sentences_are_those_of_data_preparation(number):
    text = "\n\n".join(" ".join(part.split()) for part in DOCUMENTS[number].split("\n\n"))
    expected = split_sentences(text, SentencesConfig(headings="keep"), Counter())
    assert sentences_of(text) == [sentence for sentence in expected if sentence]
    assert sentences_of(DOCUMENTS[number]) == sentences_of(text)


def test_sentences_of_real_text_are_those_of_data_preparation(shared_dir):
    files = sorted((shared_dir / "data").rglob("*.txt"))[:2]
    for path in files:
        raw = path.read_text(encoding="utf-8", errors="replace")[:40_000]
        text = "\n\n".join(filter(None, (" ".join(part.split()) for part in raw.split("\n\n"))))
        expected = split_sentences(text, SentencesConfig(headings="keep"), Counter())
        assert sentences_of(text) == expected
