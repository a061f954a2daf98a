"""Where fine-tuning starts: the authors' layout, in one weights file or cut into parts."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.artifact import load_pretrained
from finetune.encoder_file import encoder_entry, tokenizer_file
from ponet import PoNetConfig, PretrainingModel
from ponet.names import export_state, weight_table

SIZES = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 24,
}  # fmt: skip


def released_state() -> dict[str, torch.Tensor]:
    config = PoNetConfig(
        vocab_size=30, hidden_size=16, num_layers=1, num_heads=2, ffn_size=32, max_positions=24
    )
    model = PretrainingModel(config, num_pair_classes=3)
    native = model.state_dict()
    return export_state(native, weight_table("ponet", native, prefix="ponet."))


def released_folder(folder: Path) -> Path:
    folder.mkdir()
    values = {"model_type": "bert", "architectures": ["PoNetForPreTraining"], **SIZES}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_weights_in_parts_are_the_weights_in_one_file(tmp_path: Path) -> None:
    state = released_state()
    whole, cut = released_folder(tmp_path / "whole"), released_folder(tmp_path / "cut")
    save_file(state, whole / "model.safetensors")
    names = sorted(state)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, cut / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    index = json.dumps({"weight_map": weight_map})
    (cut / "model.safetensors.index.json").write_text(index)

    one, two = load_pretrained(whole), load_pretrained(cut)
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name])
    weights = (whole / "model.safetensors").read_bytes()
    assert one.source.digest == hashlib.sha256(weights).hexdigest()
    digests = [hashlib.sha256((cut / file).read_bytes()).hexdigest() for file in sorted(parts)]
    assert two.source.digest == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_a_model_of_another_family_is_sent_to_the_import(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match="of the type bert; .* python -m ponet import") as caught:
        load_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_name_of_the_hub_is_sent_to_the_import() -> None:
    wanted = "no such folder; .* python -m ponet import bert-base-uncased --output"
    with pytest.raises(ValueError, match=wanted):
        tokenizer_file("bert-base-uncased")


def test_an_encoder_file_is_read_as_every_other_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    lines = ["model:", "  encoder:", "    class_path: ponet.PoNetConfig", "    init_args:"]
    path.write_text("\n".join([*lines, "      norm_eps: 1e-6"]))
    entry = encoder_entry(path)
    assert entry["init_args"] == {"norm_eps": 1e-6}  # no word, as YAML 1.1 has it
    path.write_text("\n".join([*lines, "      num_layers: 2", "      num_layers: 3"]))
    with pytest.raises(ValueError, match=r"tiny\.yaml: .*'num_layers' stands there twice"):
        encoder_entry(path)
