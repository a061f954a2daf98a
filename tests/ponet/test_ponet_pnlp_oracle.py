"""pNLP-Mixer against recorded numbers of the public code: projections, outputs, training.

PONET_ORACLE names the folder of the fixtures; every size is read from their metadata.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from ponet.batch import EncoderBatch
from ponet.config import MLPMixerConfig, ProjectionConfig
from ponet.heads import SequenceClassifier, TokenClassifier
from ponet.projection.bits import simhash_sums
from ponet.projection.minhash import fingerprints
from ponet.projection.ternary import codes, ternary


@pytest.fixture(scope="module")
def oracle(repository: Path) -> Path:
    folder = Path(os.environ.get("PONET_ORACLE", repository.parent / "shared" / "oracle"))
    if not folder.is_dir():
        pytest.skip(f"recorded numerics not found: {folder} does not exist")
    return folder


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the recorded numerics")
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def test_fingerprints_and_counts_equal_the_oracle(oracle):
    tensors, metadata = read(oracle / "pnlp_mixer_projection.safetensors")
    num_hashes = metadata["config"]["num_hashes"]
    found = fingerprints(metadata["units"], num_hashes=num_hashes)
    assert np.array_equal(found, tensors["units.fingerprints"])
    pieces = sorted({piece for word in metadata["subwords"] for piece in word})
    by_piece = dict(zip(pieces, fingerprints(pieces, num_hashes=num_hashes), strict=True))
    words = np.stack([
        np.min([by_piece[piece] for piece in word], 0) for word in metadata["subwords"]
    ])  # fmt: skip
    assert np.array_equal(words, tensors["words.fingerprints"])
    for size in metadata["config"]["feature_sizes"]:
        counts = np.stack([np.bincount(row % size, minlength=size) for row in words])
        assert np.array_equal(counts, tensors[f"words.counts.m{size}"])


def test_other_projections_equal_the_oracle(oracle):
    tensors, metadata = read(oracle / "pnlp_mixer_other_projections.safetensors")
    words = metadata["words"]
    for signed, name in ((True, "ternary_x86"), (False, "ternary_unsigned_char")):
        expected = tensors[f"google.{name}"].numpy()
        found = [ternary(word, expected.shape[1], signed_char=signed) for word in words]
        assert np.array_equal(np.stack(found), expected)
    expected = tensors["google.codes_x86"].numpy()
    found = np.array([codes(word, expected.shape[1], signed_char=True) for word in words], "u8")
    assert np.array_equal(found.view("i8"), expected)
    expected = tensors["simhash.bits64_trigrams"].numpy()
    assert np.array_equal(simhash_sums(words, expected.shape[1]) > 0, expected.astype(bool))


HEADS = {
    "tagging": {"token_cls.cls_layer": "classifier"},
    "classification": {
        "seq_cls.attention_proj": "pooler.score",
        "seq_cls.feature_proj": "pooler.feature",
        "seq_cls.cls_proj": "classifier",
    },
}


def our_name(name: str, head: str) -> str:
    """The state-dict name here of a parameter of the public code."""
    layer, _, kind = name.rpartition(".")
    if layer in HEADS[head]:
        return f"{HEADS[head][layer]}.{kind}"
    if layer == "pnlp_mixer.bottleneck":
        return f"encoder.embeddings.word.{kind}"
    number, inner = layer.removeprefix("pnlp_mixer.mixer.mixers.").split(".", 1)
    parts = {
        "layer_norm_1": "mixer_norm", "mlp_1.layers.0": "mixer.expand",
        "mlp_1.layers.2": "mixer.contract", "layer_norm_2": "feed_forward_norm",
        "mlp_2.layers.0": "feed_forward.expand", "mlp_2.layers.2": "feed_forward.contract",
    }  # fmt: skip
    return f"encoder.layers.{number}.{parts[inner]}.{kind}"


@pytest.fixture(params=sorted(HEADS))
def published(request, oracle):
    """Our model with the recorded weights, its batch, and the recording."""
    tensors, metadata = read(oracle / f"pnlp_mixer_{request.param}.safetensors")
    sizes = metadata["config"]
    config = MLPMixerConfig(
        hidden_size=sizes["bottleneck"], ffn_size=sizes["hidden"], num_layers=sizes["layers"],
        max_positions=sizes["max_seq_len"], layer_norm_eps=sizes["layer_norm_eps"],
        projection=ProjectionConfig(
            feature_size=sizes["feature_size"], window=sizes["window"],
            num_hashes=sizes["num_hashes"],
        ),
    )  # fmt: skip
    kind = TokenClassifier if request.param == "tagging" else SequenceClassifier
    model = kind(config, num_labels=sizes["classes"], dropout_prob=0.0)
    names = {
        key.removeprefix("weights."): our_name(key.removeprefix("weights."), request.param)
        for key in tensors
        if key.startswith("weights.")
    }
    state = {names[key]: as_ours(tensors[f"weights.{key}"], key, config) for key in names}
    model.load_state_dict(state)
    assert sum(p.numel() for p in model.parameters()) == sizes["parameters"]
    mask = tensors["inputs.mask"]
    features, numbers = torch.unique(
        tensors["inputs.fingerprints"].flatten(0, 1), dim=0, return_inverse=True
    )
    zeros = torch.zeros_like(mask, dtype=torch.int64)
    batch = EncoderBatch(
        input_ids=numbers.view(mask.shape), mask=mask, token_type_ids=zeros, segment_ids=zeros,
        special_mask=zeros.bool(),
        word_features=features.clamp(min=0) % sizes["feature_size"],
    )  # fmt: skip
    return model, batch, tensors, names, config


def as_ours(tensor, key, config):
    """The published bottleneck holds the places of a window one behind another."""
    if key != "pnlp_mixer.bottleneck.weight":
        return tensor
    return tensor.unflatten(1, (-1, config.projection.feature_size)).permute(2, 1, 0)


def loss_of(model, batch, tensors):
    labels = tensors["inputs.labels"]
    return F.cross_entropy(model(batch).flatten(0, -2), labels.flatten(), ignore_index=-1)


def test_outputs_equal_the_oracle(published):
    model, batch, tensors, _, _ = published
    seen = {}
    encoder = model.encoder
    encoder.embeddings.register_forward_hook(lambda m, a, out: seen.update(bottleneck=out))
    for number, block in enumerate(encoder.layers):
        block.register_forward_hook(lambda m, a, out, n=number: seen.update({f"block{n}": out}))
    model.pooler.register_forward_hook(lambda m, a, out: seen.update(pooled=out))
    seen["logits"] = model(batch)
    for name, tensor in seen.items():
        if f"outputs.{name}" in tensors:
            expected = tensors[f"outputs.{name}"]
            torch.testing.assert_close(tensor, expected, atol=2e-5, rtol=0, msg=name)
    assert {"bottleneck", "block0", "logits"} <= seen.keys()


def test_gradients_equal_the_oracle(published):
    model, batch, tensors, names, config = published
    loss = loss_of(model, batch, tensors)
    torch.testing.assert_close(loss, tensors["outputs.loss"][0], atol=2e-5, rtol=0)
    loss.backward()
    parameters = dict(model.named_parameters())
    for theirs, ours in names.items():
        expected = as_ours(tensors[f"gradients.{theirs}"], theirs, config)
        # The softmax over places cancels the bias of its scores: only noise is recorded.
        size = 1.0 if theirs == "seq_cls.attention_proj.bias" else expected.abs().max().item()
        difference = (parameters[ours].grad - expected).abs().max().item()
        assert difference <= 1e-4 * size, theirs


def test_training_equals_the_oracle(published):
    model, batch, tensors, _, _ = published
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for expected in tensors["outputs.losses_of_12_adam_steps"]:
        loss = loss_of(model, batch, tensors)
        torch.testing.assert_close(loss, expected, atol=2e-5, rtol=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
