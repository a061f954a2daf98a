"""Hashed words: what makes features, and the layer over them."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ponet.batch import EncoderBatch
from ponet.config import BertConfig, EncoderConfig, MLPMixerConfig, PoNetConfig, ProjectionConfig
from ponet.encoders import build_encoder
from ponet.encoders.hashed import HashedWords, sum_rows
from ponet.projection import WordFeatures
from ponet.projection.minhash import fingerprints, items_of
from ponet.projection.spelling import attributes_of, shape_of

FAST = [[194116637, 262386305, 564074402], [1245575617, 1445257421, 1644939225]]
PIECES = ["[UNK]", "run", "##ning", "##ner", "the", "a", ".", "u", "s", "weather", "[PAD]"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def batch_of(features: torch.Tensor, lengths: list[int], num_tokens: int) -> EncoderBatch:
    """Words drawn at random from those that have features."""
    generator = torch.Generator().manual_seed(3)
    shape = (len(lengths), num_tokens)
    mask = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    zeros = torch.zeros(shape, dtype=torch.int64)
    numbers = torch.randint(len(features), shape, generator=generator)
    return EncoderBatch(
        input_ids=numbers, mask=mask, token_type_ids=zeros, segment_ids=zeros,
        special_mask=zeros.bool(), word_features=features,
    )  # fmt: skip


def dense_bottleneck(layer: HashedWords, batch: EncoderBatch) -> torch.Tensor:
    """The published form: counts of a window one behind another, times a wide matrix."""
    size, window = layer.projection.feature_size, layer.projection.window
    counts = torch.stack([torch.bincount(row, minlength=size) for row in batch.word_features])
    rows = []
    for numbers, mask in zip(batch.input_ids, batch.mask, strict=True):
        words = counts[numbers[mask]].double()
        edge = torch.zeros(window, size, dtype=torch.float64)
        padded = torch.cat([edge, words, edge])
        seen = [torch.cat(list(padded[t : t + 2 * window + 1])) for t in range(len(words))]
        rest = [torch.zeros((2 * window + 1) * size)] * (len(numbers) - len(words))
        rows.append(torch.stack([*seen, *rest]).double())
    weight = layer.weight.permute(2, 1, 0).flatten(1).double()
    return torch.stack(rows) @ weight.T + layer.bias.double()


@pytest.mark.parametrize("window", [0, 1, 2, 4])
def test_the_bag_of_rows_equals_the_dense_form(window):
    config = MLPMixerConfig(
        hidden_size=6, projection=ProjectionConfig(feature_size=20, num_hashes=9, window=window)
    )
    layer = HashedWords(config)
    features = torch.randint(20, (7, 9), generator=torch.Generator().manual_seed(1))
    batch = batch_of(features, [5, 1, 8], 8)
    found, expected = layer(batch), dense_bottleneck(layer, batch)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    grads = torch.autograd.grad(found.square().sum(), layer.weight)[0]
    wanted = torch.autograd.grad(expected.square().sum(), layer.weight)[0]
    torch.testing.assert_close(grads, wanted, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("num_words", [3, 700, 5000])  # sorted as they are, padded, by radix
def test_the_gradient_of_summed_rows_is_that_of_gathered_ones(num_words):
    generator = torch.Generator().manual_seed(num_words)
    lists = torch.randint(40, (num_words, 8), generator=generator)
    table = torch.randn(41, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(num_words + 1, 5, generator=generator, dtype=torch.float64)
    found, expected = (
        sum_rows(lists, table),
        torch.nn.functional.pad(table[lists].sum(1), (0, 0, 1, 0)),
    )
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad((one * weights).sum(), table)[0] for one in (found, expected)]
    torch.testing.assert_close(*grads)
    assert not grads[0][40].any(), "a row that no list names"


def test_words_that_were_forgotten_are_made_again(tokenizer):
    features = WordFeatures(tokenizer, ProjectionConfig(feature_size=50, num_hashes=8))
    first = features(["the", "weather"])
    features.forget()
    assert np.array_equal(features(["weather", "the"]), first[::-1])


def test_features_of_a_word_come_from_its_pieces(tokenizer):
    config = ProjectionConfig(feature_size=50, num_hashes=8)
    features = WordFeatures(tokenizer, config)
    by_piece = fingerprints(PIECES, num_hashes=8)
    found = features(["running", "U.S.", "The", "\x00"])
    for row, pieces in zip(found, (["run", "##ning"], ["u", ".", "s", "."], ["the"], ["[UNK]"]),
                           strict=True):  # fmt: skip
        minima = np.min([by_piece[PIECES.index(piece)] for piece in pieces], 0)
        assert np.array_equal(row, minima % 50)
    assert found.dtype == np.uint16


def test_similar_words_share_features_in_minhash_and_not_in_bloom(tokenizer):
    shared = {}
    for kind in ("minhash", "bloom"):
        features = WordFeatures(tokenizer, ProjectionConfig(kind=kind, feature_size=60_000))
        first, second = features(["running", "runner"])
        shared[kind] = (first == second).mean()
    assert shared["minhash"] > 0.1 and shared["bloom"] < 0.05


@pytest.mark.parametrize("kind", [
    "minhash", "bloom", "spelling", "simhash", "binary", "ternary", "static",
])  # fmt: skip
def test_every_projection_feeds_an_encoder(tokenizer, kind):
    projection = ProjectionConfig(kind=kind, feature_size=12, num_hashes=5)
    table = np.random.default_rng(1).normal(size=(len(PIECES), 12)).astype(np.float32)
    features = WordFeatures(tokenizer, projection, table_VE=table if kind == "static" else None)
    first = features(["the", "weather", "the", "running"])
    again = features(["running", "the"])
    assert np.array_equal(first[[3, 0]], again)
    encoder = build_encoder(MLPMixerConfig(hidden_size=8, max_positions=6, projection=projection))
    made = features(["the", "weather", "runner"])
    batch = batch_of(torch.from_numpy(made.astype("f4" if kind == "static" else "i8")), [6, 2], 6)
    assert encoder(batch).shape == (2, 6, 8)


def test_spelling_knows_a_word_by_its_case_ends_shape_and_trigrams(tokenizer):
    found = attributes_of("Run")
    assert found[:10] == [
        "lower run", "shape Xxx", "prefix1 r", "prefix2 ru", "prefix3 run", "prefix4 run",
        "suffix1 n", "suffix2 un", "suffix3 run", "suffix4 run",
    ]  # fmt: skip
    trigrams = [value.removeprefix("trigram ") for value in found[10:]]
    assert trigrams == ["<ru"] * 6 + ["run"] * 5 + ["un>"] * 5
    long = "".join(map(chr, range(0x4E00, 0x4E34)))
    assert {len(attributes_of(word)) for word in ("a", "Run", "", long)} == {26}
    assert len(set(attributes_of(long)[10:])) == 16
    assert [shape_of(word) for word in ("Äpfel", "12:30PM", "U.S.", "日本")] == [
        "Xxxxx", "dd:ddXX", "X.X.", "xx",
    ]  # fmt: skip


def test_spelling_gives_words_the_rows_of_what_they_share(tokenizer):
    config = ProjectionConfig(kind="spelling", feature_size=60_000, num_hashes=2)
    features = WordFeatures(tokenizer, config)
    run, capital, other = features(["running", "Running", "weather"])
    assert run.shape == (52,)
    assert (run != capital).nonzero()[0].tolist() == [2, 3]  # the shape alone
    assert (run == other).mean() < 0.05


def test_the_families_are_fixed_functions():
    assert items_of("##ing") == ["ing"] and items_of("the") == ["the"]
    assert items_of("weather") == ["wea", "eat", "ath", "the", "her"]
    fast = fingerprints(PIECES, num_hashes=3, family="multiply-v1", seed=5)
    assert fast[:2].tolist() == FAST
    other = fingerprints(PIECES, num_hashes=3, family="multiply-v1", seed=6)
    assert (fast != other).all()
    with pytest.raises(ValueError, match="sha-v1 has none"):
        fingerprints(PIECES, num_hashes=3, seed=5)


def test_the_fast_family_spreads_evenly():
    words = [f"w{number}x" for number in range(20_000)]
    values = fingerprints([f"##{word}" for word in words], num_hashes=4, family="multiply-v1")
    counts = np.stack([np.bincount(column % 64, minlength=64) for column in values.T])
    chi_square = ((counts - 20_000 / 64) ** 2 / (20_000 / 64)).sum(1)
    assert (chi_square < 120).all()  # 63 degrees of freedom: beyond 120 with p < 2e-5


PUBLISHED = {"x_small": 207_369, "small": 629_001, "base": 1_153_289, "large": 2_271_113,
             "x_large": 4_408_713}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_sizes(name):
    config = MLPMixerConfig.preset(name)
    encoder = build_encoder(config)
    head = config.hidden_size * 137 + 137  # the tags of English MTOP
    assert sum(p.numel() for p in encoder.parameters()) + head == PUBLISHED[name]


def test_ponet_and_bert_read_hashed_words_of_any_length():
    projection = ProjectionConfig(feature_size=16, num_hashes=4)
    features = torch.randint(16, (9, 4), generator=torch.Generator().manual_seed(1))
    for kind in (PoNetConfig, BertConfig):
        config = kind.preset(
            "nano", hidden_size=8, projection=projection, use_positions=False, type_vocab_size=0,
            max_positions=4,
        )  # fmt: skip
        encoder = build_encoder(config).eval()
        long = batch_of(features, [40, 11], 40)
        assert encoder(long).shape == (2, 40, 8)
        with pytest.raises(ValueError, match="without word_features"):
            encoder(EncoderBatch(**long.tensors()))
        assert EncoderConfig.from_dict(config.to_dict()) == config


def test_texts_that_do_not_fill_the_places_of_an_mlp_mixer_are_refused():
    encoder = build_encoder(MLPMixerConfig(hidden_size=8, max_positions=6))
    features = torch.zeros((2, 64), dtype=torch.int64)
    with pytest.raises(ValueError, match="pad it to max_positions=6"):
        encoder(batch_of(features, [5], 5))
