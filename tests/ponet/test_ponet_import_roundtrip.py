"""There and back: bundle -> `ponet export --format huggingface` -> `ponet import` -> bundle."""

import json

import pytest
import torch

pytest.importorskip("transformers")

from ponet_bundles import VOCAB, make_model, write_tokenizer  # noqa: E402
from ponet_reference import make_batch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ponet import BertConfig, FNetConfig, PoNetConfig, load_bundle, save_bundle  # noqa: E402
from ponet.cli import main  # noqa: E402

FNET = {"num_heads": 12, "type_vocab_size": 4, "embedding_projection": True,
        "activation": "gelu_tanh"}  # fmt: skip
MODELS = {
    "ponet": (PoNetConfig, 3, {}),
    "ponet ablated": (PoNetConfig, 0, {"global_pool": "mean", "fusion_product": False}),
    "bert": (BertConfig, 2, {"activation": "gelu_tanh", "attention_dropout_prob": 0.2}),
    "bert with sentence order": (BertConfig, 3, {}),
    "bert without pairs": (BertConfig, 0, {}),
    "fnet": (FNetConfig, 2, FNET),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_bundle_comes_back_weight_by_weight(name, tmp_path, capsys):
    config_class, num_pair_classes, fields = MODELS[name]
    model = make_model(config_class, num_pair_classes=num_pair_classes, **fields)
    texts = {"language": "de", "segments": {"rule": "fixed", "tokens_per_segment": 2}, "max_len": 9}
    tokenizer_json = write_tokenizer(tmp_path)
    save_bundle(
        tmp_path / "a", model, tokenizer_json=tokenizer_json, metadata={**texts, "steps": 1}
    )
    folder = str(tmp_path / "hf")
    assert main(["export", str(tmp_path / "a"), "--format", "huggingface", "--output", folder]) == 0
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 9 < model.config.max_positions
    assert main(["import", folder, "--output", str(tmp_path / "b")]) == 0, capsys.readouterr()
    back = load_bundle(tmp_path / "b")
    assert back.model.config == model.config and back.metadata["untrained"] == []
    expected = model.state_dict()
    assert back.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in back.model.state_dict().items())
    assert back.tokenizer_path is not None
    assert {key: back.metadata[key] for key in texts} == texts and "steps" not in back.metadata
    sun = back.text_format.windows(["the sun"], max_len=8)[0].ids
    assert sun == [VOCAB[word] for word in ("[CLS]", "the", "sun", "[SEP]")]


@pytest.mark.parametrize("config_class", [PoNetConfig, BertConfig])
def test_a_head_that_was_never_trained_stays_so_until_it_has_changed(
    config_class, tmp_path, capsys
):
    model = make_model(config_class)
    heads = ("mlm_head.", "pair_head.")
    names = sorted(name for name in model.state_dict() if name.startswith(heads))
    tokenizer_json = write_tokenizer(tmp_path)
    save_bundle(tmp_path / "a", model, tokenizer_json=tokenizer_json, metadata={"untrained": names})
    folder = tmp_path / "hf"
    export = ["export", str(tmp_path / "a"), "--format", "huggingface", "--output", str(folder)]
    assert main(export) == 0
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card and "fill-mask" not in card
    assert "masked words (never trained)" in card and "AutoModel.from_pretrained" in card
    assert "note: its head for masked words was never trained" in capsys.readouterr().out
    assert main(["import", str(folder), "--output", str(tmp_path / "b")]) == 0
    back = load_bundle(tmp_path / "b")
    assert back.metadata["untrained"] == names
    shown = capsys.readouterr().out
    assert "fill        no examples" in shown and f"untrained   {', '.join(names)}" in shown
    with pytest.raises(ValueError, match="never trained"):
        back.fill("the [MASK]")
    weights = load_file(folder / "model.safetensors")
    for name in weights:  # as training in transformers would
        if name.startswith(("cls.predictions.", "mlm_head.")):
            weights[name] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["import", str(folder), "--output", str(tmp_path / "c")]) == 0
    left = load_bundle(tmp_path / "c").metadata["untrained"]
    assert left == [name for name in names if name.startswith("pair_head.")]


def test_an_fnet_without_projection_comes_back_as_one_with_the_same_outputs(tmp_path):
    model = make_model(FNetConfig, num_pair_classes=2)
    save_bundle(tmp_path / "a", model, tokenizer_json=write_tokenizer(tmp_path))
    folder = str(tmp_path / "hf")
    assert main(["export", str(tmp_path / "a"), "--format", "huggingface", "--output", folder]) == 0
    assert main(["import", folder, "--output", str(tmp_path / "b")]) == 0
    back, batch = load_bundle(tmp_path / "b").model, make_batch(vocab_size=len(VOCAB))
    with torch.no_grad():
        torch.testing.assert_close(
            back(batch).mlm_logits, model(batch).mlm_logits, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", ["ponet_guarded", "ponet_unguarded"])
def test_the_official_fixture_there_and_back_gives_the_official_outputs(name, shared_dir, tmp_path):
    from test_ponet_parity import official_batch, read

    path = shared_dir / "oracle" / f"{name}.safetensors"
    bundle, folder, back = (str(tmp_path / part) for part in ("bundle", "hf", "back"))
    bare = ["--tokenizer", "none", "--output"]
    assert main(["import", str(path), *bare, bundle]) == 0
    assert main(["export", bundle, "--format", "huggingface", "--separator-ids", "101", "102",
                 "--output", folder]) == 0  # fmt: skip
    assert main(["import", folder, *bare, back]) == 0
    tensors, config = read(path)
    with torch.no_grad():
        output = load_bundle(back).model(official_batch(tensors, config))
    for field in ("last_hidden_state", "mlm_logits", "pair_logits"):
        expected = tensors[f"outputs.{field}"]
        torch.testing.assert_close(getattr(output, field), expected, atol=1e-5, rtol=0)
