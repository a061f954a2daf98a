"""ONNX graphs: dynamic in batch and length, and equal to PyTorch in onnxruntime."""

import dataclasses
import importlib.util
import json

import pytest
import torch
from ponet_hub_models import CONFIGS, make_bundle, make_model, write_tokenizer_json

from ponet import PretrainingModel, save_bundle
from ponet.cli import main
from ponet.encoders.fnet import real_fourier

pytest.importorskip("transformers")

from ponet.hub import onnx_export  # noqa: E402 (transformers may be missing)
from ponet.hub.export import run_export  # noqa: E402
from ponet.hub.huggingface import SpecialTokens, probe_batch  # noqa: E402
from ponet.hub.onnx_export import (  # noqa: E402
    FourierByProducts,
    OnnxModel,
    compare_onnx,
    export_form,
    write_onnx,
)

TOKENS = SpecialTokens(cls_token_id=2, sep_token_id=3)


@pytest.fixture(autouse=True)
def needs_onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_form_that_exports_has_the_same_outputs(name):
    model = make_model(name)
    form = export_form(model)
    assert form.state_dict().keys() == model.state_dict().keys()
    for shape in ((1, 7), (3, 32)):
        batch = probe_batch(model.config, TOKENS, shape=shape)
        with torch.no_grad():
            ours, theirs = model(batch), form(batch)
        torch.testing.assert_close(
            theirs.mlm_logits[batch.mask], ours.mlm_logits[batch.mask], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(("tokens", "width"), [(1, 2), (7, 5), (32, 16)])
def test_the_fourier_transform_is_four_products(tokens, width):
    x = torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(0))
    plan = FourierByProducts._waves(tokens, x.device)
    found = FourierByProducts()(x, plan)
    torch.testing.assert_close(found, real_fourier(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ponet", {"segment_input": True}),
        ("ponet_ablated", {"head": "encoder"}),
        ("bert", {}),
        ("fnet", {"head": "encoder"}),
        ("hybrid", {"segment_input": True}),
    ],
)
def test_onnxruntime_gives_pytorch_s_outputs_at_every_size(name, options, tmp_path):
    model, path = OnnxModel(make_model(name), TOKENS, **options), tmp_path / "model.onnx"
    write_onnx(model, path)
    found = compare_onnx(model, path)
    assert [one.shape for one in found] == [(1, 7), (3, 32), (2, 32)]
    assert not any(one.times_ms for one in found), "no times were asked for"
    changed = make_model(name)
    with torch.no_grad():
        changed.encoder.layers[1].feed_forward.contract.bias[0] += 1
    with pytest.raises(ValueError, match="last_hidden_state differs"):
        compare_onnx(OnnxModel(changed, TOKENS, **options), path)


def test_the_command_writes_a_graph_and_prints_times(tmp_path, capsys):
    config = dataclasses.replace(CONFIGS["ponet"][0], num_layers=1)
    tokenizer = write_tokenizer_json(tmp_path / "tokenizer.json")
    save_bundle(tmp_path / "bundle", PretrainingModel(config), tokenizer_json=tokenizer,
                metadata={"max_len": 24})  # fmt: skip
    run_export([str(tmp_path / "bundle"), "--format", "onnx", "--output", str(tmp_path / "out"),
                "--time", "1"])  # fmt: skip
    graph, settings = (
        json.loads((tmp_path / "out" / name).read_text())
        for name in ("graph.json", "tokenizer_config.json")
    )
    assert (graph["segments"], graph["language"]) == ("sentences", "en")
    assert graph["max_len"] == settings["model_max_length"] == 24 < graph["max_positions"]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "graph.json", "tokenizer.json"} <= files
    shown = capsys.readouterr().out
    assert "of PyTorch" in shown
    assert "2 x 32 tokens: within" in shown
    lines = shown.splitlines()
    note = "note: it was trained with sentences as pooling segments; this graph takes each text"
    assert lines[1].startswith(note) and "`python -m ponet encode`" in lines[1]
    assert "onnxruntime" in lines[4]
    assert "ms an utterance (batch 1, one thread)" in lines[5]
    assert lines[6].startswith("size ") and lines[6].endswith("MB on disk in all")


def test_a_graph_that_differs_is_not_left_behind(tmp_path, monkeypatch):
    make_bundle(tmp_path / "bundle")

    def compare(model, path, **options):
        raise ValueError("the graph's logits differs")

    monkeypatch.setattr(onnx_export, "write_onnx", lambda model, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(onnx_export, "compare_onnx", compare)
    with pytest.raises(ValueError, match="logits differs"):
        run_export([str(tmp_path / "bundle"), "--format", "onnx", "--output", str(tmp_path / "o")])
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", "bundle.tokenizer.json"}


def test_an_encoder_without_room_for_a_text_is_refused_in_words(tmp_path):
    config = dataclasses.replace(CONFIGS["bert"][0], max_positions=2)
    model = OnnxModel(PretrainingModel(config).eval(), TOKENS)
    with pytest.raises(ValueError, match="the encoder has 2 positions; a graph of any length need"):
        write_onnx(model, tmp_path / "model.onnx")


def test_segments_as_input_need_a_model_that_has_some(tmp_path):
    make_bundle(tmp_path / "bundle", name="bert")
    with pytest.raises(ValueError, match="a bert model has no segments"):
        run_export([str(tmp_path / "bundle"), "--format", "onnx", "--output", str(tmp_path / "o"),
                    "--segment-input"])  # fmt: skip


def test_missing_packages_are_named_before_any_work(tmp_path, monkeypatch, capsys):
    make_bundle(tmp_path / "bundle", name="bert")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    arguments = ["--format", "onnx", "--output", str(tmp_path / "out")]
    assert main(["export", str(tmp_path / "bundle"), *arguments]) == 2
    assert "needs onnxscript, not installed here; pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
