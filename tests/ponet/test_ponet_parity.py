"""The authors' own numbers: official fixtures, the Long Range Arena mixer, file layouts."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ponet import EncoderBatch, PoNetConfig, load_official
from ponet.encoders.ponet import PoNetMixer
from ponet.names import export_state, weight_table
from ponet.segments import segments_from_count, segments_from_separators

FIXTURES = ["ponet_guarded", "ponet_unguarded"]


def read(path):
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["config"])


def official_batch(tensors, config) -> EncoderBatch:
    input_ids = tensors["inputs.input_ids"]
    return EncoderBatch(
        input_ids=input_ids,
        mask=tensors["inputs.attention_mask"].bool(),
        token_type_ids=tensors["inputs.token_type_ids"],
        segment_ids=tensors["inputs.segment_ids"],
        special_mask=(input_ids == config["cls_token_id"]) | (input_ids == config["sep_token_id"]),
    )


@pytest.fixture(params=FIXTURES)
def official(request, shared_dir):
    path = shared_dir / "oracle" / f"{request.param}.safetensors"
    tensors, config = read(path)
    return load_official(path), tensors, official_batch(tensors, config)


def test_outputs_equal_the_official_ones(official):
    model, tensors, batch = official
    outputs = {}
    model.encoder.embeddings.register_forward_hook(
        lambda module, args, output: outputs.update(embeddings=output)
    )
    model.encoder.layers[0].register_forward_hook(
        lambda module, args, output: outputs.update(layer_1=output)
    )
    outputs |= model(batch)._asdict()
    assert len(outputs) == 5
    for name, tensor in outputs.items():
        torch.testing.assert_close(tensor, tensors[f"outputs.{name}"], atol=1e-5, rtol=0)


def test_gradients_equal_the_official_ones(official):
    model, tensors, batch = official
    output = model(batch)
    mlm_loss = F.cross_entropy(output.mlm_logits.flatten(0, 1), tensors["inputs.labels"].flatten())
    pair_loss = F.cross_entropy(output.pair_logits, tensors["inputs.pair_labels"])
    torch.testing.assert_close(mlm_loss, tensors["outputs.mlm_loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pair_loss, tensors["outputs.pair_loss"], atol=1e-5, rtol=0)
    torch.testing.assert_close(mlm_loss + pair_loss, tensors["outputs.loss"], atol=1e-5, rtol=0)
    (mlm_loss + pair_loss).backward()
    table = weight_table("ponet", model.state_dict(), prefix="ponet.")
    grads = export_state({name: p.grad for name, p in model.named_parameters()}, table)
    assert {f"gradients.{name}" for name in grads} == {k for k in tensors if k.startswith("grad")}
    for name, grad in grads.items():
        torch.testing.assert_close(grad, tensors[f"gradients.{name}"], atol=1e-4, rtol=0, msg=name)


def test_logits_at_masked_positions_equal_the_official_ones(official):
    model, tensors, batch = official
    positions = torch.tensor([[13, 20, 0], [9, 18, 26], [4, 12, 0], [1, 6, 33], [2, 0, 0]])
    output = model.forward_masked(batch, positions)
    rows = torch.arange(5)[:, None]
    expected = tensors["outputs.mlm_logits"][rows, positions]
    torch.testing.assert_close(output.mlm_logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        output.pair_logits, tensors["outputs.pair_logits"], atol=1e-5, rtol=0
    )


def test_segments_from_separators_equal_the_official_default(official):
    model, tensors, batch = official
    segment_ids = segments_from_separators(batch.special_mask)
    x = model.encoder(dataclasses.replace(batch, segment_ids=segment_ids))
    expected = tensors["outputs.last_hidden_state_without_segment_ids"]
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


def test_mixer_equals_the_long_range_arena_one(shared_dir):
    tensors, config = read(shared_dir / "oracle" / "ponet_lra_mixer.safetensors")
    width = config["num_heads"] * config["head_dim"]
    mixer = PoNetMixer(PoNetConfig(
        hidden_size=width, num_heads=config["num_heads"], guard_special_tokens=False,
    ))  # fmt: skip
    names = {"query": "q", "key": "k", "gate": "o", "segment": "segment", "local": "local"}
    with torch.no_grad():
        for ours, theirs in names.items():
            getattr(mixer, ours).weight.copy_(tensors[f"weights.{theirs}"].T)
            getattr(mixer, ours).bias.zero_()
    x = tensors["inputs.hidden_states"].requires_grad_()
    mask = tensors["inputs.mask"].bool()
    num_rows, num_tokens = mask.shape
    segment_ids = segments_from_count(num_rows, num_tokens, num_segments=config["num_segments"])
    zeros = torch.zeros_like(segment_ids)
    batch = EncoderBatch(
        input_ids=zeros, mask=mask, token_type_ids=zeros, segment_ids=segment_ids,
        special_mask=zeros.bool(),
    )  # fmt: skip
    mixed = mixer.pool(x, mixer.prepare(batch))
    mixed.backward(tensors["inputs.upstream_gradient"])
    torch.testing.assert_close(mixed, tensors["outputs.mixed"], atol=1e-4, rtol=1e-5)
    expected = tensors["outputs.hidden_states_gradient"]
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def released(shared_dir):
    """Weights and config of the guarded fixture as the authors ship them."""
    tensors, config = read(shared_dir / "oracle" / "ponet_guarded.safetensors")
    prefix = "weights."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return weights, config, tensors


def write_folder(folder, weights, config, *, legacy):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if legacy:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("legacy", [False, True])
def test_a_released_folder_loads_like_the_single_file(released, tmp_path, legacy):
    weights, config, tensors = released
    config = {**config, "hidden_dropout_prob": 0.2, "use_cache": True}
    model = load_official(write_folder(tmp_path / "m", weights, config, legacy=legacy))
    assert model.config.dropout_prob == 0.2
    assert not model.training
    output = model(official_batch(tensors, config))
    torch.testing.assert_close(output.mlm_logits, tensors["outputs.mlm_logits"], atol=1e-5, rtol=0)


def test_the_released_config_that_calls_its_type_bert_loads(released, tmp_path):
    weights, config, _ = released
    stated = {"model_type": "bert", "architectures": ["PoNetForPreTraining"]}
    load_official(write_folder(tmp_path / "m", weights, {**config, **stated}, legacy=False))


def test_legacy_layer_norm_names_load(released, tmp_path):
    weights, config, _ = released
    renames = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for modern, old in renames.items():
        weights = {key.replace(modern, old): value for key, value in weights.items()}
    load_official(write_folder(tmp_path / "m", weights, config, legacy=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("ponet.pooler.dense.bias"), "missing ponet.pooler.dense.bias"),
        (lambda w: w.update(surplus=torch.ones(1)), "unexpected surplus"),
        (lambda w: w["cls.predictions.decoder.weight"].add_(1), "untied decoder"),
        (lambda w: w.update({"cls.seq_relationship.bias": torch.ones(7)}), "does not fit"),
    ],
)
def test_every_official_key_is_accounted_for(released, tmp_path, change, message):
    weights, config, _ = released
    weights = {key: value.clone() for key, value in weights.items()}
    change(weights)
    with pytest.raises(ValueError, match=message):
        load_official(write_folder(tmp_path / "m", weights, config, legacy=False))


@pytest.mark.parametrize(
    "values",
    [{"model_type": "bert"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}],
)
def test_an_official_config_of_another_model_is_refused(released, tmp_path, values):
    weights, config, _ = released
    folder = write_folder(tmp_path / "m", weights, {**config, **values}, legacy=False)
    with pytest.raises(ValueError, match="supported: |of the type bert; make it a bundle"):
        load_official(folder)


class Bomb:
    def __reduce__(self):
        return (eval, ("1 / 0",))


def test_a_pickle_that_runs_code_is_refused(released, tmp_path):
    weights, config, _ = released
    folder = write_folder(tmp_path / "m", {**weights, "x": Bomb()}, config, legacy=True)
    with pytest.raises(ValueError, match="more than tensors"):
        load_official(folder)


def test_missing_official_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent.safetensors does not exist"):
        load_official(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="config.json does not exist"):
        load_official(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="no configuration"):
        load_official(tmp_path / "bare.safetensors")
