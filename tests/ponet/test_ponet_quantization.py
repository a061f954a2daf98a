"""Weights in 8 bits: what is lost, what it takes on disk, what comes back."""

import json

import pytest
import torch
from ponet_hub_models import make_bundle, make_model

from ponet import PretrainingModel, load_bundle, save_bundle
from ponet.bundle import read_config, read_model
from ponet.config import MLPMixerConfig
from ponet.quantization import pack, to_int8, unpack
from ponet.tagger import Tagger

NUM_TAGS = 137  # of English MTOP


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_is_off_by_half_a_scale_of_the_axis_that_loses_less(axis):
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-3, 1, 40).unsqueeze(1 - axis)
    weight = torch.randn(40, 40, generator=generator) * sizes
    numbers, scale = to_int8(weight)
    assert numbers.dtype == torch.int8
    assert scale.shape == sizes.shape
    assert ((numbers * scale - weight).abs() <= scale * 0.5001).all()
    again, same = to_int8(numbers * scale)
    assert torch.equal(again, numbers)
    torch.testing.assert_close(same, scale)


def test_rows_of_zeros_stay_zeros():
    weight = torch.zeros(30, 30)
    numbers, scale = to_int8(weight)
    assert torch.equal(numbers * scale, weight)


def test_vectors_and_small_matrices_are_left_alone():
    state = {"bias": torch.randn(5000), "small": torch.randn(3, 4), "large": torch.randn(20, 20)}
    packed = pack(state)
    assert packed.keys() == {*state, "large.scale"}
    assert torch.equal(packed["bias"], state["bias"]) and torch.equal(
        packed["small"], state["small"]
    )
    found = unpack(packed)
    assert found.keys() == state.keys()
    torch.testing.assert_close(found["large"], state["large"], atol=0.02, rtol=0)


def test_a_weight_of_the_model_may_be_called_scale():
    state = {"norm.scale": torch.randn(7), "scale": torch.randn(20, 20)}
    found = unpack(pack(state))
    assert found.keys() == state.keys() and torch.equal(found["norm.scale"], state["norm.scale"])


@pytest.mark.parametrize(("name", "most_mb"), [("base", 1.3), ("x_small", 0.25)])
def test_published_sizes_fit_into_a_megabyte(name, most_mb, tmp_path):
    torch.manual_seed(1)
    model = Tagger(MLPMixerConfig.preset(name), num_tags=NUM_TAGS)
    tags = [f"B-{number}" for number in range(NUM_TAGS)]
    target = save_bundle(tmp_path / "tagger", model, tokenizer_json=None, weights="int8-v1",
                         task={"labels": [], "tags": tags})  # fmt: skip
    assert (target / "model.safetensors").stat().st_size <= most_mb * 1e6
    config = read_config(target)
    assert config["weights"] == "int8-v1"
    loaded = read_model(target, config)
    for (key, ours), theirs in zip(model.state_dict().items(), loaded.state_dict().values(),
                                   strict=True):  # fmt: skip
        torch.testing.assert_close(
            theirs, ours, atol=ours.abs().max().item() / 250, rtol=0, msg=key
        )


@pytest.mark.parametrize("name", ["ponet", "bert", "fnet_released"])
def test_a_bundle_of_any_encoder_comes_back(name, tmp_path):
    model = make_model(name)
    save_bundle(tmp_path / "b", model, tokenizer_json=None, weights="int8-v1")
    expected = unpack(pack(model.state_dict()))
    loaded = load_bundle(tmp_path / "b").model
    assert isinstance(loaded, PretrainingModel)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_another_form_of_weights_is_named(tmp_path):
    make_bundle(tmp_path / "b")
    path = tmp_path / "b" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights": "int4-v1"}))
    with pytest.raises(ValueError, match="has weights 'int4-v1'; this version reads float32, int8"):
        load_bundle(tmp_path / "b")
