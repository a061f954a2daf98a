"""Winners of the pools: against loops, with ties, and what they give against finite differences."""

import dataclasses

import pytest
import torch
from ponet_reference import make_batch

from ponet import BertConfig, EncoderBatch, PoNetConfig, SequenceClassifier
from ponet.batch import join_texts
from ponet.encoders.ponet import PoNetMixer
from ponet.winners import LayerWinners, pool_winners

SIZES = {"vocab_size": 40, "hidden_size": 8, "num_heads": 2, "num_layers": 2, "ffn_size": 16,
         "max_positions": 16, "init_range": 0.5}  # fmt: skip
EMPTY = torch.zeros(3, 12, dtype=torch.float64)


def make_model(**changes: object) -> SequenceClassifier:
    torch.manual_seed(0)
    config = PoNetConfig(**{**SIZES, **changes})
    return SequenceClassifier(config, num_labels=3).double().eval()


def margin(outputs: torch.Tensor) -> torch.Tensor:
    return outputs[:, 2] - outputs[:, 0]


def winners(model: SequenceClassifier, batch: EncoderBatch) -> list[LayerWinners]:
    return pool_winners(model, batch, margin)[1]


def counted(mixer: PoNetMixer, x_BLD: torch.Tensor, batch: EncoderBatch) -> dict[str, torch.Tensor]:
    """Wins by loops over rows, tokens and channels."""
    segments, windows = EMPTY.clone(), EMPTY.clone()
    guarded = batch.special_mask & mixer.config.guard_special_tokens
    reach = mixer.config.local_window // 2
    values, near = mixer.segment(x_BLD).tolist(), mixer.local(x_BLD).tolist()
    for row, ids in enumerate(batch.segment_ids.tolist()):
        real = [t for t in range(12) if batch.mask[row, t]]
        free = [t for t in real if not guarded[row, t]]
        for channel in range(8):
            for segment in {ids[t] for t in free}:
                members = [t for t in real if ids[t] == segment]
                best = max(values[row][t][channel] for t in members)
                tied = [t for t in members if values[row][t][channel] == best]
                for t in tied:
                    segments[row, t] += 1 / len(tied)
            for centre in free:
                seen = [t for t in free if abs(t - centre) <= reach]
                windows[row, max(seen, key=lambda t: near[row][t][channel])] += 1
    return {"segment": segments, "local": windows}


@pytest.mark.parametrize("changes", [{}, {"guard_special_tokens": False}, {"local_window": 5}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("vocab_size", [40, 7])
def test_the_winners_of_segments_and_windows_are_those_of_loops_also_where_maxima_tie(
    changes: dict, vocab_size: int
) -> None:
    model = make_model(**changes, use_positions=False, type_vocab_size=0)
    batch = make_batch()
    few = torch.where(batch.input_ids > 4, batch.input_ids % (vocab_size - 5) + 5, batch.input_ids)
    batch = dataclasses.replace(batch, input_ids=few)
    taken = winners(model, batch)[0].taken
    expected = counted(model.encoder.layers[0].mixer, model.encoder.embeddings(batch), batch)
    torch.testing.assert_close(taken.segment, expected["segment"])
    assert torch.equal(taken.local, expected["local"])
    has_ties = bool((taken.segment % 1).any())
    assert has_ties == (vocab_size == 7)


def test_shares_of_the_global_pool_are_one_in_all_and_every_maximum_is_won() -> None:
    batch = make_batch((12, 9, 1))
    free_BL = batch.mask & ~batch.special_mask
    for layer in winners(make_model(), batch):
        torch.testing.assert_close(layer.taken.whole.sum(1), torch.ones(3).double())
        assert not layer.taken.whole[~batch.mask].any()
        torch.testing.assert_close(layer.taken.local.sum(1), 8.0 * free_BL.sum(1).double())
        rows = zip(batch.segment_ids, free_BL, strict=True)
        read = [8.0 * len(set(ids[free].tolist())) for ids, free in rows]
        torch.testing.assert_close(layer.taken.segment.sum(1), torch.tensor(read).double())


@pytest.mark.parametrize("pool", ["segment", "local"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_a_token_gives_is_the_change_of_the_score_with_its_value(
    pool: str, number: int
) -> None:
    # Without the guard, [CLS] has all three pools, in the last layer too.
    model = make_model(kernels="reference", guard_special_tokens=False)
    batch, step = make_batch(), 1e-6
    layer = getattr(model.encoder.layers[number].mixer, pool)

    def scores(token: int, change: float) -> torch.Tensor:
        def scaled(_: object, __: object, value_BLD: torch.Tensor) -> torch.Tensor:
            factor = torch.ones(12, 1, dtype=torch.float64)
            factor[token] += change
            return value_BLD * factor

        handle = layer.register_forward_hook(scaled)
        with torch.no_grad():
            found = margin(model(batch))
        handle.remove()
        return found

    given_BL = getattr(winners(model, batch)[number].given, pool)
    assert given_BL.abs().max() > 1e-3
    for token in range(12):
        slope_B = (scores(token, step) - scores(token, -step)) / (2 * step)
        torch.testing.assert_close(given_BL[:, token], slope_B, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("global_pool", ["attention", "mean"])
def test_the_parts_of_the_global_pool_give_what_it_gives(
    global_pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(kernels="reference", global_pool=global_pool)
    batch, step, plain = make_batch(), 1e-6, PoNetMixer.pool_globally
    given_B = winners(model, batch)[0].given.whole.sum(1)
    first = model.encoder.layers[0].mixer
    found = []
    for factor in (1 + step, 1 - step):
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(first, "pool_globally", lambda *a, f=factor: f * plain(first, *a))
            found.append(margin(model(batch)))
    torch.testing.assert_close(given_B, (found[0] - found[1]) / (2 * step), atol=1e-6, rtol=1e-5)


def test_padding_and_batch_mates_change_nothing() -> None:
    model, batch = make_model(), make_batch()
    together = winners(model, batch)
    for row, length in enumerate((12, 9, 4)):
        part = {name: t[row : row + 1, :length] for name, t in batch.tensors().items()}
        for one, whole in zip(winners(model, EncoderBatch(**part)), together, strict=True):
            for alone, beside in zip(
                (*one.taken, *one.given), (*whole.taken, *whole.given), strict=True
            ):
                torch.testing.assert_close(alone[0], beside[row, :length])
                assert not beside[row, length:].any()


def test_pools_that_are_off_took_nothing_and_frozen_weights_change_nothing() -> None:
    batch = make_batch()
    for off, name in (
        ({"use_segment_pool": False}, "segment"),
        ({"use_local_pool": False}, "local"),
        ({"global_pool": "none"}, "whole"),
    ):
        layer = winners(make_model(**off), batch)[0]
        assert not getattr(layer.taken, name).any() and not getattr(layer.given, name).any()
    model = make_model()
    free = winners(model, batch)
    frozen = winners(model.requires_grad_(False), batch)
    for one, other in zip(free, frozen, strict=True):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.encoder.layers[0].mixer._forward_hooks


@pytest.mark.parametrize("depth", [0, 1, None])
def test_frozen_parts_of_an_encoder_have_the_same_winners(depth: int | None) -> None:
    model, batch = make_model(), make_batch()
    free = winners(model, batch)
    model.encoder.freeze(depth)
    num_frozen = model.encoder.num_frozen
    for one, other in zip(winners(model, batch), free, strict=True):
        torch.testing.assert_close(one, other)
        assert one.given.whole.any()
    assert model.encoder.num_frozen == num_frozen > 0


def test_encoders_without_pools_and_joined_texts_are_refused() -> None:
    model = SequenceClassifier(BertConfig(**SIZES), num_labels=2)
    with pytest.raises(ValueError, match="only PoNet's have winners"):
        pool_winners(model, make_batch(), margin)
    with pytest.raises(ValueError, match="a text in every row"):
        pool_winners(make_model(), join_texts(make_batch()), margin)
