"""Words and pairs of words beside an encoder: which rows, which logits, where they start."""

import dataclasses
import math

import pytest
import torch
from test_ponet_hashed_encoders import SIZES, WORDS, make_batch, select

from ponet import MLPMixerConfig, PoNetConfig, ProjectionConfig, SequenceClassifier
from ponet.bundle import load_weights, save_bundle
from ponet.encoders.pairs import WordPairs
from ponet.quantization import to_int8
from ponet.tagger import Tagger

ROWS = 100_003
PROJECTION = ProjectionConfig(feature_size=20, num_hashes=4, pair_rows=ROWS)
CONFIG = PoNetConfig(**{**SIZES, "projection": PROJECTION})


def pairs_of(num_labels: int, projection: ProjectionConfig = PROJECTION) -> WordPairs:
    torch.manual_seed(0)
    pairs = WordPairs(projection, num_labels).double()
    torch.nn.init.normal_(pairs.weight)
    return pairs


def seen(pairs: WordPairs, batch, row: int) -> set[int]:
    rows = pairs.rows(batch)[row].tolist()
    found = [number for number in rows if number < pairs.projection.pair_rows]
    assert len(found) == len(set(found))
    return set(found)


def test_a_row_for_every_distinct_word_and_pair_of_neighbours():
    batch = make_batch()
    ids = batch.input_ids.clone()
    ids[0] = torch.tensor([3, 4, 3, 4, 5, 5, 5, 3, 4])
    batch = dataclasses.replace(batch, input_ids=ids)
    pairs = pairs_of(2)
    assert len(seen(pairs, batch, 0)) == 3 + len({(3, 4), (4, 3), (4, 5), (5, 5), (5, 3)})
    assert len(seen(pairs, batch, 2)) == 1


def test_a_pair_knows_its_order_and_the_same_pair_has_the_same_row_anywhere():
    batch, pairs = make_batch((2, 2, 4)), pairs_of(2)
    ids = batch.input_ids.clone()
    ids[0, :2], ids[1, :2] = torch.tensor([3, 4]), torch.tensor([4, 3])
    ids[2, :4] = torch.tensor([7, 3, 4, 8])
    batch = dataclasses.replace(batch, input_ids=ids)
    first, second, third = (seen(pairs, batch, row) for row in range(3))
    assert len(first & second) == 2 and len(first | second) == 4
    assert first < third


@torch.no_grad()
def test_logits_are_the_sum_over_the_root_of_the_number_and_the_first_is_zero():
    batch, pairs = make_batch(), pairs_of(3)
    logits = pairs(batch)
    assert logits.shape == (3, 3) and torch.equal(logits[:, 0], torch.zeros(3).double())
    for row in range(3):
        rows = sorted(seen(pairs, batch, row))
        expected = pairs.weight[rows].sum(0) / math.sqrt(len(rows))
        torch.testing.assert_close(logits[row, 1:], expected)
    assert pairs_of(1)(batch).shape == (3, 1) and pairs_of(1)(batch).abs().min() > 0


@torch.no_grad()
def test_neither_padding_nor_other_texts_change_a_logit():
    torch.manual_seed(0)
    model = SequenceClassifier(CONFIG, num_labels=2).double().eval()
    torch.nn.init.normal_(model.pairs.weight)
    batch = make_batch()
    expected = model(batch)
    torch.testing.assert_close(model(make_batch(num_words=14, noise=2)), expected)
    torch.testing.assert_close(model(select(batch, [1])), expected[1:2])
    model.pairs.weight.zero_()
    assert (model(batch) - expected)[:, 1].abs().min() > 1e-3


def test_capitals_make_no_other_word_of_a_spelling():
    pairs = pairs_of(2, dataclasses.replace(PROJECTION, kind="spelling", num_hashes=2))
    features = torch.randint(20, (WORDS, 52), generator=torch.Generator().manual_seed(1))
    batch = dataclasses.replace(make_batch(), word_features=features)
    before = pairs.rows(batch)
    features[:, 2:4] = 7  # the shape
    assert torch.equal(pairs.rows(batch), before)
    features[:, 4] += 1
    assert not torch.equal(pairs.rows(batch), before)


def test_rows_start_at_half_the_log_odds_of_the_labels():
    pairs = WordPairs(dataclasses.replace(PROJECTION, pair_rows=2), 2)
    pairs.start_from(torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
    expected = [0.5 * math.log((1 / 3) / (4 / 6)), 0.5 * math.log((2 / 3) / (2 / 6))]
    with pairs.as_one_table():
        assert pairs.weight[:, 0].tolist() == pytest.approx(expected)


def test_one_table_gives_the_logits_of_weights_and_scales_and_leaves_them_as_they_were():
    pairs, batch = pairs_of(3), make_batch()
    counts = torch.randint(0, 9, (ROWS, 3), generator=torch.Generator().manual_seed(2))
    pairs.start_from(counts)
    torch.nn.init.normal_(pairs.weight)
    expected, weight, scale = pairs(batch), pairs.weight.clone(), pairs.scale_RC
    with pairs.as_one_table():
        assert pairs.scale_RC is None and not torch.equal(pairs.weight, weight)
        torch.testing.assert_close(pairs(batch), expected)
        assert list(pairs.state_dict()) == ["weight"]
    assert torch.equal(pairs.weight, weight) and pairs.scale_RC is scale
    assert torch.equal(pairs(batch), expected)


def test_a_start_from_nothing_gives_no_logits_and_learns_ten_times_as_fast():
    pairs, batch = pairs_of(2), make_batch()
    pairs.weight.data.zero_()
    pairs(batch).sum().backward()
    gradient = pairs.weight.grad.clone()
    pairs.weight.grad = None
    pairs.start_from_zero()
    pairs(batch).sum().backward()
    assert pairs(batch).abs().max() == 0
    torch.testing.assert_close(pairs.weight.grad, 10 * gradient)


def test_weights_of_a_joined_table_replace_weights_and_scale():
    pairs, batch = pairs_of(2), make_batch()
    pairs.start_from(torch.ones(ROWS, 2).double())
    started = {name: value.clone() for name, value in pairs.state_dict().items()}
    assert sorted(started) == ["scale_RC", "weight"]
    joined = pairs_of(2)
    pairs.load_state_dict(joined.state_dict())
    assert pairs.scale_RC is None and torch.equal(pairs(batch), joined(batch))
    other = pairs_of(2)
    other.start_from(torch.randint(0, 9, (ROWS, 2)))
    other.load_state_dict(started)
    assert torch.equal(other.scale_RC, started["scale_RC"])


def test_a_row_that_says_nothing_about_the_labels_stays_where_it_is():
    pairs, batch = pairs_of(2), make_batch()
    counts = torch.ones(ROWS, 2)
    pairs.start_from(counts)
    pairs(batch).sum().backward()
    assert pairs.weight.grad.abs().max() == 0
    counts[: ROWS // 2, 0] = 5
    pairs.start_from(counts)
    pairs(batch).sum().backward()
    assert pairs.weight.grad.abs().max() > 0


def test_a_bundle_keeps_the_table_and_eight_bits_have_one_scale(tmp_path):
    model = SequenceClassifier(CONFIG, num_labels=2).eval()
    torch.nn.init.normal_(model.pairs.weight)
    task = {"labels": ["a", "b"]}
    save_bundle(tmp_path / "c", model, tokenizer_json=None, task=task, weights="int8-v1")
    loaded = SequenceClassifier(CONFIG, num_labels=2)
    load_weights(loaded, tmp_path / "c")
    numbers, scale = to_int8(model.pairs.weight)
    assert scale.numel() == 1 and numbers.shape == model.pairs.weight.shape
    lost = (loaded.pairs.weight - model.pairs.weight).abs().max()
    assert lost <= scale.item() / 2 + 1e-6


def test_outputs_on_another_scale_are_those_of_encoder_and_table_together():
    model = SequenceClassifier(CONFIG, num_labels=1).eval()
    torch.nn.init.normal_(model.pairs.weight)
    batch = make_batch()
    with torch.no_grad():
        wanted = 3 * model(batch) + 7
        model.rescale(factor=3.0, shift=7.0)
        torch.testing.assert_close(model(batch), wanted)


def test_what_has_no_use_for_pairs_refuses_them():
    with pytest.raises(ValueError, match="pair_rows=5 with kind=ternary"):
        ProjectionConfig(kind="ternary", pair_rows=5)
    with pytest.raises(ValueError, match="tagger has no use for"):
        Tagger(CONFIG, num_tags=3)
    assert SequenceClassifier(MLPMixerConfig(), num_labels=2).pairs is None
