"""Local/global attention: blocks against a dense mask, in value and gradient."""

import dataclasses
import pickle

import pytest
import torch
from ponet_reference import assert_read_in_places, assert_texts_stand_alone, make_batch

from ponet import EncoderBatch, LocalGlobalConfig, PretrainingModel, build_encoder
from ponet.encoders import Encoder
from ponet.encoders.local_global import GlobalMixer, LocalMixer, plan_windows
from ponet.flops import mixer_products, training_flops

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 2, "num_layers": 4, "ffn_size": 32,
         "max_positions": 128, "init_range": 0.3}  # fmt: skip
LENGTHS = [3, 5, 8, 16, 17, 31, 32, 45]
"""About a window of 8: within it, the longest row without blocks, whole and broken blocks."""


def make_encoder(**changes: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(LocalGlobalConfig(**{**SIZES, "window": 8, **changes})).double().eval()


def batch_of(num_tokens: int, *, padding: bool = True) -> EncoderBatch:
    """Three rows; with padding the second is two thirds of it full, the third has one token."""
    if padding:
        lengths = (num_tokens, max(1, num_tokens * 2 // 3), 1)
        return make_batch(lengths, num_tokens=num_tokens)
    whole = make_batch((num_tokens,) * 3, num_tokens=num_tokens)
    return dataclasses.replace(whole, has_padding=False)


def dense(mixer: LocalMixer, x_BLD: torch.Tensor, batch: EncoderBatch) -> torch.Tensor:
    """Softmax over a full matrix of scores, from the definition."""
    query, key, value = mixer.query_key_value(x_BLD).unflatten(-1, (3, 2, 8)).unbind(2)
    scores_BHLL = torch.einsum("bqhk,bshk->bhqs", query, key) / 8**0.5
    place_L = torch.arange(x_BLD.shape[1])
    near_LL = (place_L[:, None] - place_L).abs() <= mixer.config.window // 2
    allowed = near_LL & batch.mask[:, None, None]
    allowed = allowed | torch.eye(x_BLD.shape[1], dtype=torch.bool)  # padding sees itself
    weights = scores_BHLL.masked_fill(~allowed, float("-inf")).softmax(-1)
    return mixer.output(torch.einsum("bhqs,bshk->bqhk", weights, value).flatten(2))


def test_every_third_layer_is_global_from_the_first_one() -> None:
    kinds = [type(layer.mixer) for layer in make_encoder(num_layers=7).layers]
    assert kinds == [GlobalMixer, LocalMixer, LocalMixer] * 2 + [GlobalMixer]
    kinds = [type(layer.mixer) for layer in make_encoder(global_every=1).layers]
    assert kinds == [GlobalMixer] * 4


@pytest.mark.parametrize("num_tokens", LENGTHS)
@pytest.mark.parametrize("padding", [False, True])
def test_a_local_layer_equals_dense_masked_attention_in_value_and_gradient(
    num_tokens: int, padding: bool
) -> None:
    encoder, batch = make_encoder(), batch_of(num_tokens, padding=padding)
    mixer, plan = encoder.layers[1].mixer, encoder.prepare(batch)
    x = torch.randn(3, num_tokens, 16, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x) * batch.mask[..., None]
    wanted = [x, *mixer.parameters()]
    found, expected = mixer(x, plan), dense(mixer, x, batch)
    real = batch.mask
    torch.testing.assert_close(found[real], expected[real], atol=1e-10, rtol=0)
    assert found.isfinite().all()
    for ours, theirs in zip(
        torch.autograd.grad(found, wanted, upstream),
        torch.autograd.grad(expected, wanted, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_a_token_of_a_local_layer_depends_on_half_a_window_to_either_side() -> None:
    encoder, batch = make_encoder(), batch_of(45, padding=False)
    x = torch.randn(3, 45, 16, dtype=torch.float64, requires_grad=True)
    update = encoder.layers[1].mixer(x, encoder.prepare(batch))
    (grad,) = torch.autograd.grad(update[1, 20].sum(), x)
    seen = grad.abs().sum(2).nonzero().tolist()
    assert seen == [[1, place] for place in range(16, 25)]


def test_windows_that_hold_the_text_make_it_bert() -> None:
    batch = batch_of(45)
    wide, bert = make_encoder(window=90), make_encoder(global_every=1)
    bert.load_state_dict(wide.state_dict())
    torch.testing.assert_close(wide(batch)[batch.mask], bert(batch)[batch.mask])


@pytest.mark.parametrize("num_tokens", [12, 45])
def test_padding_batch_mates_and_joined_rows_change_nothing(num_tokens: int) -> None:
    assert_texts_stand_alone(make_encoder(), batch_of(num_tokens))


@pytest.mark.parametrize("num_layers", [2, 4])
def test_a_last_block_that_is_read_in_places_is_the_same_there(num_layers: int) -> None:
    encoder = make_encoder(num_layers=num_layers)
    assert_read_in_places(encoder, batch_of(45), [[0, 40], [0, 3], [0, 0]])


def test_a_local_layer_costs_the_same_for_every_token() -> None:
    sizes = [plan_windows(batch_of(n, padding=False), 8).numel() for n in (64, 128)]
    assert sizes[1] == 2 * sizes[0]
    config = LocalGlobalConfig.preset("base")
    near, far = (mixer_products(config, n, layer=1) / n for n in (512, 8192))
    assert near == far == 4 * 768**2 + 2 * 256 * 768
    bert = mixer_products(LocalGlobalConfig.preset("base", global_every=1), 512)
    assert mixer_products(config, 512) == mixer_products(config, 512, layer=3) == bert
    layers = [mixer_products(config, 512, layer=layer) for layer in range(12)]
    whole = 6 * (sum(layers) + 12 * 2 * 512 * 768 * 3072)
    assert training_flops(config, num_rows=1, num_tokens=512) == pytest.approx(whole)


def test_it_trains_and_its_configuration_comes_back() -> None:
    config = LocalGlobalConfig(**SIZES, window=8, global_every=2)
    assert LocalGlobalConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    model, batch = PretrainingModel(config, num_pair_classes=3), batch_of(45)
    positions = torch.tensor([[3, 4], [5, 6], [0, 0]])
    found = model.masked_loss(batch, positions, torch.full((3, 2), 7))
    found.mlm.loss.backward()
    for layer in model.encoder.layers:
        assert layer.mixer.query_key_value.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "an even number"),
        ({"global_every": 0}, ">= 1"),
        ({"num_heads": 3}, "divide"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalGlobalConfig(**{**SIZES, **changes})
