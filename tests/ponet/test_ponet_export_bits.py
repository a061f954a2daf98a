"""`python -m ponet export --format bits8` and `onnx-bits8`, of hashed taggers and of others."""

import json
import re

import numpy as np
import pytest
import torch
from ponet_hub_models import make_bundle, write_tokenizer_json

from ponet import load_bundle, save_bundle
from ponet.bundle import read_config, read_model
from ponet.config import MLPMixerConfig, PoNetConfig, ProjectionConfig
from ponet.heads import PretrainingModel, SequenceClassifier
from ponet.quantization import pack, unpack
from ponet.tagger import Tagger

pytest.importorskip("transformers")

from ponet.cli import main  # noqa: E402 (transformers may be missing)
from ponet.hub.bits import compare, rounded  # noqa: E402
from ponet.hub.cost import text_reader  # noqa: E402
from ponet.hub.huggingface import SpecialTokens  # noqa: E402
from ponet.hub.onnx_bits import numbers_and_scales  # noqa: E402
from ponet.hub.onnx_export import OnnxModel, export_onnx  # noqa: E402

SIZES = {"vocab_size": 20, "hidden_size": 16, "ffn_size": 24, "num_layers": 1, "max_positions": 16,
         "projection": ProjectionConfig(feature_size=32, num_hashes=8)}  # fmt: skip
FORMS = {
    "mlp_mixer": MLPMixerConfig(**SIZES),
    "ponet": PoNetConfig(**SIZES, num_heads=2, type_vocab_size=0, use_positions=False),
}
TASK = {"title": "own files", "labels": ["ask", "tell"], "tags": ["O", "B-x", "I-x"], "max_len": 16,
        "segments": "separators"}  # fmt: skip


def make_tagger(folder, name="mlp_mixer"):
    torch.manual_seed(1)
    model = Tagger(FORMS[name], num_tags=3, num_labels=2).eval()
    path = write_tokenizer_json(folder / "tokenizer.json")
    save_bundle(folder / "run" / "classifier", model, tokenizer_json=path, task=TASK)
    return model


def export(folder, form, source="run"):
    return main(["export", str(folder / source), "--format", form, "--output", str(folder / form)])


def test_a_tagger_in_8_bits_says_its_size_speed_and_loss(tmp_path, capsys):
    model = make_tagger(tmp_path)
    assert export(tmp_path, "bits8") == 0
    shown = capsys.readouterr().out
    assert re.search(r"0\.01 MB of weights", shown)
    assert re.search(r"outputs within \S+ of the float weights' .*% of the choices the same", shown)
    assert re.search(r"\S+ ms an utterance .*for reading the text, \S+ for the network", shown)
    card = (tmp_path / "bits8" / "README.md").read_text()
    for line in shown.splitlines()[1:-1]:
        assert line.strip() in card
    assert "3 tags of words, 2 labels of texts" in card and "Labels: ask, tell." in card
    written = read_model(tmp_path / "bits8", read_config(tmp_path / "bits8"))
    batch = text_reader(model.encoder.config, tmp_path / "tokenizer.json")("the old town sleeps")
    assert not compare(rounded(model), written, [batch]).difference
    assert 0 < compare(model, written, [batch]).difference < 0.05


def test_a_bundle_of_pretraining_in_8_bits_is_a_bundle(tmp_path, capsys):
    make_bundle(tmp_path / "run")
    assert export(tmp_path, "bits8") == 0
    assert "the bundle with 8-bit weights" in capsys.readouterr().out
    loaded = load_bundle(tmp_path / "bits8")
    assert loaded.metadata == load_bundle(tmp_path / "run").metadata
    assert loaded.encode(["rain falls"], progress=False).shape == (1, 16)
    assert export(tmp_path, "bits8") == 2
    assert "holds something" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("onnx-bits8", "mlp_mixer"),
        pytest.param("onnx", "mlp_mixer", marks=pytest.mark.slow),
        pytest.param("onnx-bits8", "ponet", marks=pytest.mark.slow),
    ],
)
def test_a_graph_of_hashed_words_gives_tags_and_labels(name, form, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make_tagger(tmp_path, name)
    assert export(tmp_path, form) == 0
    assert "onnxruntime within" in capsys.readouterr().out
    facts = json.loads((tmp_path / form / "graph.json").read_text())
    assert facts["tags"] == TASK["tags"] and facts["projection"]["num_hashes"] == 8
    session = onnxruntime.InferenceSession(str(tmp_path / form / "model.onnx"))
    inputs = {value.name: value.shape[1] for value in session.get_inputs()}
    assert inputs == {"input_ids": 16 if name == "mlp_mixer" else "tokens", "word_features": 8,
                      "attention_mask": inputs["input_ids"]}  # fmt: skip
    batch = text_reader(model.encoder.config, tmp_path / "tokenizer.json")("the dog and the town")
    with torch.no_grad():
        expected = (rounded(model) if form == "onnx-bits8" else model)(batch)
    found = session.run(["tag_logits", "label_logits"], {
        "input_ids": batch.input_ids.numpy(), "attention_mask": batch.mask.long().numpy(),
        "word_features": batch.word_features.numpy(),
    })  # fmt: skip
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_rounded_matrix_cut_into_heads_is_not_rounded_again(axis):
    torch.manual_seed(0)
    weight = torch.randn(64, 48) * torch.logspace(-2, 0, (64, 48)[axis]).unsqueeze(1 - axis)
    matrix = unpack(pack({"weight": weight}))["weight"]
    for shape in ((64, 48), (4, 16, 48), (2, 2, 16, 48)):
        cut = matrix.view(shape)
        numbers, scale = numbers_and_scales(cut)
        assert numbers.dtype == torch.int8 and numbers.shape == shape
        torch.testing.assert_close(numbers * scale, cut, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_a_narrow_ponet_in_8_bits_is_a_graph(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    config = PoNetConfig(vocab_size=100, hidden_size=64, num_heads=2, num_layers=2, ffn_size=128,
                         max_positions=40, type_vocab_size=0, init_range=0.1)  # fmt: skip
    tokens = SpecialTokens(cls_token_id=2, sep_token_id=3)
    live = OnnxModel(rounded(PretrainingModel(config).eval()), tokens)
    found = export_onnx(live, tmp_path / "graph", tokenizer_path=None, is_packed=True)
    assert max(one.difference for one in found) < 1e-4


def test_transformers_has_no_form_of_hashed_words(tmp_path, capsys):
    make_tagger(tmp_path)
    assert export(tmp_path, "huggingface") == 2
    assert "no form of a tagger" in capsys.readouterr().err
    model = SequenceClassifier(FORMS["ponet"], num_labels=2)
    task = {**TASK, "tags": []}
    tokenizer = tmp_path / "tokenizer.json"
    save_bundle(tmp_path / "texts", model, tokenizer_json=tokenizer, task=task)
    assert export(tmp_path, "huggingface", "texts") == 2
    error = capsys.readouterr().err
    assert "differs in: projection, use_positions, no token types; export it with" in error
    assert not (tmp_path / "huggingface").exists()
