"""PoNet's pools and attention in turn: every layer is that of the encoder it comes from."""

import pickle

import pytest
import torch
from ponet_reference import assert_read_in_places, assert_texts_stand_alone, make_batch

from ponet import (
    BertConfig,
    EncoderConfig,
    HybridConfig,
    LocalGlobalConfig,
    PoNetConfig,
    PretrainingModel,
    build_encoder,
)
from ponet.encoders import Encoder
from ponet.encoders.local_global import GlobalMixer, LocalMixer
from ponet.encoders.ponet import PoNetMixer
from ponet.flops import mixer_products, training_flops

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 2, "num_layers": 5, "ffn_size": 32,
         "max_positions": 128, "init_range": 0.3}  # fmt: skip
LENGTHS = (45, 30, 3)


def make_encoder(**changes: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(HybridConfig(**{**SIZES, "window": 8, **changes})).double().eval()


def test_every_third_layer_attends_from_the_first_one() -> None:
    kinds = [type(layer.mixer) for layer in make_encoder(num_layers=7).layers]
    assert kinds == [LocalMixer, PoNetMixer, PoNetMixer] * 2 + [LocalMixer]
    kinds = [type(layer.mixer) for layer in make_encoder(attention="global").layers]
    assert kinds == [GlobalMixer, PoNetMixer, PoNetMixer, GlobalMixer, PoNetMixer]
    kinds = [type(layer.mixer) for layer in make_encoder(attention_every=9).layers]
    assert kinds == [LocalMixer] + [PoNetMixer] * 4


@pytest.mark.parametrize("attention", ["local", "global"])
def test_layers_are_those_of_ponet_and_of_local_global_attention(attention: str) -> None:
    encoder, batch = make_encoder(attention=attention), make_batch(LENGTHS, num_tokens=45)
    attends = LocalGlobalConfig(**SIZES, window=8, global_every=2 if attention == "local" else 1)
    x = encoder.embeddings(batch)
    for number in range(5):
        # In the other encoder layer 1 is a local one, layer 0 global.
        config, place = (PoNetConfig(**SIZES), number) if number % 3 else (attends, 1)
        other = build_encoder(config).double().eval()
        other.layers[place].load_state_dict(encoder.layers[number].state_dict())
        x = other.layers[place](x, other.prepare(batch))
    expected, found = x[batch.mask], encoder(batch)[batch.mask]
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    wanted = list(encoder.parameters())
    grads = torch.autograd.grad(found.square().sum(), wanted)
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads)


def test_attention_everywhere_is_bert_and_a_wide_window_is_too() -> None:
    batch = make_batch(LENGTHS, num_tokens=45)
    bert = build_encoder(BertConfig(**SIZES)).double().eval()
    for changes in ({"attention": "global"}, {"window": 90}):
        encoder = make_encoder(attention_every=1, **changes)
        encoder.load_state_dict(bert.state_dict())
        torch.testing.assert_close(encoder(batch)[batch.mask], bert(batch)[batch.mask])


def test_a_batch_is_planned_once_for_each_kind_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type] = []
    for kind in (PoNetMixer, GlobalMixer):

        def prepare(self: object, batch: object, make: object = kind.prepare) -> object:
            seen.append(type(self))
            return make(self, batch)  # type: ignore[operator]

        monkeypatch.setattr(kind, "prepare", prepare)
    encoder, batch = make_encoder(), make_batch(LENGTHS, num_tokens=45)
    plans = encoder.plans(batch)
    assert sorted(kind.__name__ for kind in seen) == ["LocalMixer", "PoNetMixer"]
    assert [plan is plans[0] for plan in plans] == [True, False, False, True, False]
    assert plans[1] is plans[2] is plans[4]


@pytest.mark.parametrize("attention", ["local", "global"])
def test_padding_batch_mates_and_joined_rows_change_nothing(attention: str) -> None:
    encoder, batch = make_encoder(attention=attention), make_batch(LENGTHS, num_tokens=45)
    assert_texts_stand_alone(encoder, batch)
    assert not make_encoder(guard_special_tokens=False).keeps_texts_apart


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_a_last_block_that_is_read_in_places_is_the_same_there(num_layers: int) -> None:
    encoder, batch = make_encoder(num_layers=num_layers), make_batch(LENGTHS, num_tokens=45)
    assert_read_in_places(encoder, batch, [[0, 40], [0, 3], [0, 2]])


def test_blocks_that_are_computed_again_give_the_same_gradients() -> None:
    batch = make_batch(LENGTHS, num_tokens=45)
    grads = []
    for again in (False, True):
        encoder = make_encoder().train()
        encoder.gradient_checkpointing = again
        torch.manual_seed(1)
        encoder(batch)[batch.mask].square().sum().backward()
        grads.append([weight.grad for weight in encoder.parameters()])
    for kept, made in zip(*grads, strict=True):
        torch.testing.assert_close(kept, made)


def test_local_hybrids_cost_the_same_for_every_token() -> None:
    config = HybridConfig.preset("base")
    near, far = (mixer_products(config, n, layer=0) / n for n in (512, 8192))
    assert near == far == mixer_products(LocalGlobalConfig.preset("base"), 512, layer=1) / 512
    pools = mixer_products(PoNetConfig.preset("base"), 512)
    assert mixer_products(config, 512, layer=1) == mixer_products(config, 512, layer=2) == pools
    wide = HybridConfig.preset("base", attention="global")
    assert mixer_products(wide, 512, layer=3) == mixer_products(BertConfig.preset("base"), 512)
    layers = [mixer_products(config, 512, layer=layer) for layer in range(12)]
    whole = 6 * (sum(layers) + 12 * 2 * 512 * 768 * 3072)
    assert training_flops(config, num_rows=1, num_tokens=512) == pytest.approx(whole)


def test_it_trains_and_its_configuration_comes_back() -> None:
    config = HybridConfig(**SIZES, window=8, attention_every=2, kernels="eager")
    assert EncoderConfig.from_dict(config.to_dict()) == config
    assert "kernels" not in config.to_dict()
    assert pickle.loads(pickle.dumps(config)) == config
    model, batch = PretrainingModel(config, num_pair_classes=3), make_batch(LENGTHS, num_tokens=45)
    positions = torch.tensor([[3, 4], [5, 6], [0, 0]])
    found = model.masked_loss(batch, positions, torch.full((3, 2), 7))
    found.mlm.loss.backward()
    for layer in model.encoder.layers:
        grads = [weight.grad for weight in layer.mixer.parameters() if weight.grad is not None]
        assert sum(float(grad.abs().sum()) for grad in grads) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 7}, "an even number"),
        ({"attention_every": 0}, ">= 1"),
        ({"attention": "none"}, "allowed are local, global"),
        ({"attention_dropout_prob": 1.0}, "a probability"),
        ({"num_heads": 3}, "divide"),
        ({"local_window": 4}, "an odd number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridConfig(**{**SIZES, **changes})
