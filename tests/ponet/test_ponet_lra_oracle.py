"""The classifiers of Long Range Arena against recorded numbers of the authors' code.

PONET_ORACLE names the folder of the fixtures; every size is read from their metadata.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import BertConfig, FNetConfig, PoNetConfig
from ponet.heads import MeanClassifier
from ponet.segments import segments_from_count

KINDS = ["pair", "pixels", "single", "single_fnet", "single_transformer"]


@pytest.fixture(params=KINDS)
def recorded(request, repository: Path):
    folder = Path(os.environ.get("PONET_ORACLE", repository.parent / "shared" / "oracle"))
    path = folder / f"lra_classifier_{request.param}.safetensors"
    if not path.is_file():
        pytest.skip(f"recorded numerics not found: {path} does not exist")
    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])
        return {key: file.get_tensor(key) for key in file.keys()}, sizes  # noqa: SIM118


def make_model(sizes) -> MeanClassifier:
    shared = {
        "vocab_size": sizes["vocab"], "hidden_size": sizes["width"], "num_layers": sizes["layers"],
        "num_heads": sizes["heads"], "ffn_size": sizes["ffn"], "max_positions": sizes["positions"],
        "type_vocab_size": 0, "dropout_prob": 0.0, "layer_norm_eps": 1e-5, "init": "torch",
        "norm_position": "pre", "final_norm": True, "embedding_norm": False,
    }  # fmt: skip
    config = {
        "ponet": lambda: PoNetConfig(**shared, guard_special_tokens=False),
        "transformer": lambda: BertConfig(**shared, attention_dropout_prob=0.0),
        "fnet": lambda: FNetConfig(**shared),
    }[sizes["mixer"]]()
    pair = sizes["task"] == "pair"
    classes = sizes["classes"]
    return MeanClassifier(config, num_labels=classes, hidden_size=sizes["ffn"], has_pair=pair)


def our_tensors(tensors, prefix, mixer):
    """Recorded tensors under the names here; the attention has its three projections in one."""
    found, parts = {}, {}
    layers = {
        "embeddings.tokens": "encoder.embeddings.word",
        "embeddings.positions": "encoder.embeddings.position",
        "final_norm": "encoder.final_norm",
        "head.hidden": "hidden",
        "head.output": "classifier",
    }
    inner = {"ffn.up": "feed_forward.expand", "ffn.down": "feed_forward.contract",
             "ffn_norm": "feed_forward_norm", "mixer.W_v": "mixer.gate"}  # fmt: skip
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            continue
        layer, _, kind = key.removeprefix(prefix).rpartition(".")
        if layer in layers:
            found[f"{layers[layer]}.{kind}"] = tensor
            continue
        _, number, name = layer.split(".", 2)
        attention = ("mixer.query", "mixer.key", "mixer.W_v")
        if mixer == "transformer" and name in attention:
            whole = f"encoder.layers.{number}.mixer.query_key_value.{kind}"
            parts.setdefault(whole, {})[attention.index(name)] = tensor
            continue
        found[f"encoder.layers.{number}.{inner.get(name, name)}.{kind}"] = tensor
    return found | {name: torch.cat([t[i] for i in range(3)]) for name, t in parts.items()}


def batches(tensors, sizes) -> list[EncoderBatch]:
    made = []
    for key in ("inputs.ids_0", "inputs.ids_1"):
        if key not in tensors:
            continue
        ids = tensors[key].long()
        zeros = torch.zeros_like(ids)
        made.append(EncoderBatch(
            input_ids=ids, mask=ids != 0, token_type_ids=zeros, special_mask=zeros.bool(),
            segment_ids=segments_from_count(*ids.shape, num_segments=sizes["segments"]),
        ))  # fmt: skip
    return made


@pytest.fixture
def published(recorded):
    tensors, sizes = recorded
    model = make_model(sizes)
    model.load_state_dict(our_tensors(tensors, "weights.", sizes["mixer"]))
    return model, batches(tensors, sizes), tensors, sizes


def losses_of(model, inputs, tensors, sizes):
    logits = model(*inputs, divisor=sizes["length"])
    return logits, F.cross_entropy(logits, tensors["inputs.labels"].long(), reduction="none")


def test_states_and_logits_equal_the_oracle(published):
    model, inputs, tensors, sizes = published
    for number, batch in enumerate(inputs):
        states = model.encoder(batch) * batch.mask[..., None]
        expected = tensors[f"outputs.tokens_{number}"]
        torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    logits, losses = losses_of(model, inputs, tensors, sizes)
    torch.testing.assert_close(logits, tensors["outputs.logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(losses, tensors["outputs.losses"], atol=1e-5, rtol=0)


def test_gradients_equal_the_oracle(published):
    model, inputs, tensors, sizes = published
    losses_of(model, inputs, tensors, sizes)[1].mean().backward()
    expected = our_tensors(tensors, "gradients.", sizes["mixer"])
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(parameters[name].grad, gradient, atol=1e-5, rtol=0, msg=name)


def test_ten_training_steps_equal_the_oracle(published):
    model, inputs, tensors, sizes = published
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.0)
    steps = sizes["train_steps"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=sizes["lr"], pct_start=sizes["warm"] / steps, anneal_strategy="linear",
        total_steps=steps,
    )  # fmt: skip
    for step, expected in enumerate(tensors["training.losses"]):
        group = optimizer.param_groups[0]
        assert group["lr"] == pytest.approx(tensors["training.learning_rates"][step].item())
        assert group["betas"][0] == pytest.approx(tensors["training.beta1"][step].item())
        loss = losses_of(model, inputs, tensors, sizes)[1].mean()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0, check_dtype=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        losses = losses_of(model, inputs, tensors, sizes)[1]
    torch.testing.assert_close(losses, tensors["training.final_losses"], atol=1e-5, rtol=0)
