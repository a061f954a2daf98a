"""Pseudo-log-likelihoods: equal to masking one row at a time, whatever stands beside a text."""

import math
import random

import numpy as np
import pytest
import torch
from ponet_bundles import SPECIAL, TEXTS, VOCAB, WORDS, Labelled, make_model, write_tokenizer
from tokenizers import Tokenizer, models

from ponet import (
    BertConfig,
    FNetConfig,
    HybridConfig,
    PoNetConfig,
    ProjectionConfig,
    load_bundle,
    save_bundle,
)
from ponet.scoring import ContextError, TextScore, pseudo_perplexity
from ponet.text_format import TextFormat, Window, window_batch

LONG = "The sun rises in the harbour. Harbours is in the sun! " * 4
MANY = [*TEXTS, LONG, "the", "sun rises", "zebra", "a zebra in harbours."]
ENCODERS = [PoNetConfig, BertConfig, FNetConfig, HybridConfig]


def make_bundle(folder, config_class=PoNetConfig, *, metadata=None, **fields):
    model = make_model(config_class, **fields)
    tokenizer = write_tokenizer(folder)
    return load_bundle(
        save_bundle(folder / "b", model, tokenizer_json=tokenizer, metadata=metadata)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def naive(bundle, text, method):
    """One row at a time, every position computed, a loop over the pieces."""
    words = {number: word for word, number in VOCAB.items()}
    total = count = 0
    for row in bundle.text_format.windows([text], max_len=24):
        for place in range(1, len(row.ids) - 1):
            ids = list(row.ids)
            ids[place] = VOCAB["[MASK]"]
            right = place + 1
            while method == "word_l2r" and words[row.ids[right]].startswith("##"):
                ids[right] = VOCAB["[MASK]"]
                right += 1
            with torch.no_grad():
                logits = bundle.model(window_batch([Window(0, ids, row.segments)])).mlm_logits
            total += float(logits[0, place].double().log_softmax(-1)[row.ids[place]])
            count += 1
    return total, count


def close(found, expected):
    assert [score.num_tokens for score in found] == [score.num_tokens for score in expected]
    assert [score.log_likelihood for score in found] == pytest.approx(
        [score.log_likelihood for score in expected], abs=2e-4
    )


@pytest.mark.parametrize("method", ["word_l2r", "original"])
@pytest.mark.parametrize("config_class", ENCODERS)
def test_every_token_is_hidden_alone_or_with_what_follows_of_its_word(
    config_class, method, tmp_path
):
    bundle = make_bundle(tmp_path, config_class)
    found = bundle.score(MANY, method=method)
    close(found, [TextScore(*naive(bundle, text, method)) for text in MANY])
    assert found[1] == (0.0, 0, 0) and found[4].num_tokens > 24  # several windows


def test_methods_differ_where_a_word_has_several_pieces_and_only_there(bundle):
    words = ["The sun rises.", "A zebra."]
    assert len(bundle.text_format.windows(["zebra"], max_len=24)[0].ids) == 7
    (one, two), (first, second) = (bundle.score(words, method=m) for m in ("word_l2r", "original"))
    assert one == first and abs(two.log_likelihood - second.log_likelihood) > 0.01


@pytest.mark.parametrize("config_class", ENCODERS)
def test_a_context_is_read_and_not_scored(config_class, tmp_path, monkeypatch):
    """With the words of a context in front, a text has what its tokens add to the whole."""
    bundle = make_bundle(tmp_path, config_class)
    contexts = ["the sun", "A zebra is in boats.", "", "zebra"]
    texts = ["rises", "The sun rises.", "boats", ""]
    expected = []
    for context, text in zip(contexts, texts, strict=True):
        [row] = bundle.text_format.windows([f"{context} {text}"], max_len=24)
        first = len(bundle.text_format.windows([context], max_len=24)[0].ids) - 1
        total = 0.0
        for place in range(first, len(row.ids) - 1):  # these words are of one piece
            ids = [*row.ids[:place], VOCAB["[MASK]"], *row.ids[place + 1 :]]
            with torch.no_grad():
                logits = bundle.model(window_batch([Window(0, ids, row.segments)])).mlm_logits
            total += float(logits[0, place].double().log_softmax(-1)[row.ids[place]])
        expected.append(TextScore(total, len(row.ids) - 1 - first))
    found = bundle.score(texts, contexts=contexts)
    close(found, expected)
    assert [score.num_tokens for score in found] == [1, 4, 1, 0]
    assert found[2] == bundle.score(["boats"])[0]
    close(bundle.score(np.array(texts), contexts=np.array(contexts)), expected)
    close(bundle.score(Labelled(texts), contexts=Labelled(contexts)), expected)
    monkeypatch.setattr("ponet.scoring.BLOCK_TEXTS", 3)
    close(bundle.score(texts, contexts=contexts, batch_tokens=9), expected)


def test_contexts_that_do_not_fit_are_named(bundle):
    with pytest.raises(ValueError, match="contexts is one str"):
        bundle.score(["a"], contexts="one")
    with pytest.raises(ValueError, match="1 contexts for 2 texts; give one for each"):
        bundle.score(["a", "b"], contexts=["one"])
    with pytest.raises(ContextError, match="have 27 tokens, and a row 24; shorten") as caught:
        bundle.score(["sun", "boats"], contexts=["the", "the " * 24])
    assert caught.value.number == 1


def test_a_tokenizer_that_joins_a_context_with_its_text_is_refused(bundle, monkeypatch):
    windows = TextFormat.windows

    def other(self, texts, **options):
        """As if the last token before a text were another one."""
        rows = windows(self, texts, **options)
        return [row._replace(ids=row.ids[:1] + row.ids[2:]) if " sun" in text else row
                for row, text in zip(rows, texts, strict=True)]  # fmt: skip

    monkeypatch.setattr(TextFormat, "windows", other)
    with pytest.raises(ContextError, match="joins the end of the context with the beginning"):
        bundle.score(["sun"], contexts=["the boats"])


@pytest.mark.parametrize("config_class", ENCODERS)
def test_neighbours_and_the_tokens_of_a_batch_never_matter(config_class, tmp_path):
    bundle = make_bundle(tmp_path, config_class)
    together = bundle.score(MANY)
    close(together, [bundle.score([text])[0] for text in MANY])
    close(together, bundle.score(MANY, batch_tokens=1))
    close(together[::-1], bundle.score(MANY[::-1], batch_tokens=60))
    model = bundle.model.train()
    close(together, bundle.score(MANY))
    assert model.training


def test_texts_of_the_same_tokens_get_the_same_number_to_the_bit(bundle, monkeypatch):
    monkeypatch.setattr("ponet.scoring.BLOCK_TEXTS", 17)
    numbers = random.Random(0)
    texts = [
        " ".join(numbers.choices(["sun", "boats", "is", "ab"], k=n % 9 + 1)) for n in range(60)
    ]
    shouted = [text.upper() for text in texts]
    found = bundle.score([*texts, *shouted], batch_tokens=70)
    assert found[60:] == found[:60] and len(set(found)) > 40


def test_a_batch_holds_no_more_tokens_than_asked_for(bundle, monkeypatch):
    sizes, encoder = [], type(bundle.model.encoder)
    forward = encoder.forward

    def seen(self, batch, read=None):
        sizes.append((int(batch.mask.sum()), read.numel()))
        return forward(self, batch, read)

    monkeypatch.setattr(encoder, "forward", seen)
    scores = bundle.score(MANY, batch_tokens=50)
    assert max(tokens for tokens, _ in sizes) <= 50
    assert sum(read for _, read in sizes) == sum(score.num_tokens for score in scores)


def test_texts_of_several_blocks_keep_their_order(bundle, monkeypatch):
    expected = bundle.score(MANY)
    monkeypatch.setattr("ponet.scoring.BLOCK_TEXTS", 2)
    close(bundle.score(MANY), expected)
    assert bundle.score([]) == []


def test_windows_are_as_long_as_in_pretraining_unless_said_otherwise(tmp_path):
    bundle = make_bundle(tmp_path, metadata={"max_len": 10})
    assert bundle.score([LONG]) == bundle.score([LONG], max_len=10)
    assert bundle.score([LONG]) != bundle.score([LONG], max_len=24)


def test_bf16_keeps_about_two_digits(bundle):
    texts = [text for text in MANY if text]
    exact, found = bundle.score(texts), bundle.score(texts, precision="bf16")
    assert exact != found
    for one, other in zip(exact, found, strict=True):
        assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=0.05, abs=0.1)


def test_unknown_tokens_are_counted(bundle):
    found = bundle.score(["the 北 rises 北北", "the sun"])
    assert [(score.num_tokens, score.num_unknown) for score in found] == [(5, 3), (2, 0)]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers(tmp_path):
    bundle = make_bundle(tmp_path)
    expected = bundle.score(MANY)
    bundle.model.to("cuda")
    for one, other in zip(expected, bundle.score(MANY), strict=True):
        assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-3, abs=1e-2)


def test_a_pseudo_perplexity_is_over_the_tokens_of_all_texts():
    assert pseudo_perplexity([TextScore(-6.0, 2), TextScore(0.0, 0), TextScore(-2.0, 6)]) == (
        pytest.approx(math.e)
    )
    with pytest.raises(ValueError, match="no text has a token"):
        pseudo_perplexity([TextScore(0.0, 0)])


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, "give a list"),
        (["a"], {"method": "l2r"}, "method='l2r' given; allowed are word_l2r, original"),
        (["a"], {"batch_tokens": 0}, "1 or more is needed"),
        (["a"], {"max_len": 25}, "has 24 positions; give a smaller max_len$"),
        (["a"], {"precision": "16"}, "allowed are 32, bf16"),
    ],
)
def test_wrong_options_are_named(bundle, texts, options, message):
    with pytest.raises(ValueError, match=message):
        bundle.score(texts, **options)


def test_words_are_hidden_only_where_the_tokenizer_says_where_they_begin(tmp_path):
    pieces = [(word, 0.0) for word in WORDS if not word.startswith("##")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(tmp_path / "unigram.json"))
    made = save_bundle(tmp_path / "b", make_model(), tokenizer_json=tmp_path / "unigram.json")
    bundle = load_bundle(made)
    with pytest.raises(ValueError, match="says where a word begins.*method='original' needs no"):
        bundle.score(["thesun"])
    assert bundle.score(["thesun"], method="original")[0].num_tokens == 2


def test_models_without_a_likelihood_are_refused(tmp_path):
    untrained = make_bundle(tmp_path, metadata={"untrained": ["mlm_head.bias"]})
    with pytest.raises(ValueError, match="head of this bundle was never trained"):
        untrained.score(["a"])
    projection = ProjectionConfig(kind="spelling", feature_size=64, num_hashes=1)
    hashed = make_bundle(tmp_path, projection=projection)
    with pytest.raises(ValueError, match="words of one piece alone"):
        hashed.score(["a"])
