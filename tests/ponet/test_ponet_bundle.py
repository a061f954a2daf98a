"""Bundles: what is written comes back, and what is broken is named."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from ponet_bundles import VOCAB, write_foreign, write_tokenizer
from ponet_bundles import make_model as make_text_model
from ponet_reference import make_batch
from safetensors.torch import load_file, save_file

from ponet import (
    BertConfig,
    FNetConfig,
    PoNetConfig,
    PretrainingModel,
    SequenceClassifier,
    load_bundle,
    save_bundle,
)

SIZES = {"vocab_size": 40, "hidden_size": 8, "num_heads": 2, "num_layers": 2, "ffn_size": 16,
         "max_positions": 16}  # fmt: skip


def make_model(config_class=PoNetConfig, *, num_pair_classes=3, **fields):
    return PretrainingModel(config_class(**SIZES, **fields), num_pair_classes=num_pair_classes)


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "some_tokenizer.json"
    path.write_text('{"version": "1.0", "model": {"vocab": {"a": 39, "b": 0}}}')
    return path


@pytest.mark.parametrize(
    "model",
    [
        make_model(use_local_pool=False, global_pool="mean"),
        make_model(BertConfig, num_pair_classes=0),
        make_model(FNetConfig, num_pair_classes=2, embedding_projection=True),
    ],
    ids=lambda model: model.config.kind,
)
def test_a_bundle_comes_back_as_it_was_written(model, tmp_path, tokenizer):
    target = save_bundle(tmp_path / "a" / "b", model, tokenizer_json=tokenizer,
                         metadata={"steps": 7})  # fmt: skip
    files = {path.name for path in target.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer.json"}
    bundle = load_bundle(target)
    assert bundle.metadata == {"steps": 7}
    assert bundle.tokenizer_path.read_text() == tokenizer.read_text()
    assert bundle.model.config == model.config
    assert bundle.model.num_pair_classes == model.num_pair_classes
    assert not bundle.model.training
    batch = make_batch()
    with torch.no_grad():
        assert torch.equal(bundle.model(batch).mlm_logits, model.eval()(batch).mlm_logits)


def test_a_bundle_is_replaced_as_a_whole_and_leaves_nothing_behind(tmp_path, tokenizer):
    save_bundle(tmp_path / "out" / "m", make_model(), tokenizer_json=tokenizer)
    save_bundle(tmp_path / "out" / "m", make_model(num_pair_classes=0), tokenizer_json=None)
    assert load_bundle(tmp_path / "out" / "m").tokenizer_path is None
    assert load_bundle(tmp_path / "out" / "m").model.num_pair_classes == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]


def test_a_folder_that_is_no_bundle_is_never_overwritten(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no bundle"):
        save_bundle(tmp_path / "precious", make_model(), tokenizer_json=None)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_weights_of_others_are_never_overwritten(tmp_path):
    folder = write_foreign(tmp_path / "bert", make_text_model(BertConfig))
    with pytest.raises(ValueError, match="is no bundle"):
        save_bundle(folder, make_model(), tokenizer_json=None)
    assert (folder / "pytorch_model.bin").is_file()


def test_a_run_is_taken_for_its_bundle(tmp_path):
    save_bundle(tmp_path / "run" / "bundle", make_model(), tokenizer_json=None, metadata={"a": 1})
    assert load_bundle(tmp_path / "run").metadata == {"a": 1}


def edit_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def permute(content):
    vocab = content["model"]["vocab"]
    vocab["the"], vocab["sun"] = vocab["sun"], vocab["the"]


def add_token(content):
    content["added_tokens"].append({**content["added_tokens"][0], "id": 500, "content": "new"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["vocab"].update(new=len(VOCAB)), f"embeddings have {len(VOCAB)} row"),
        (add_token, f"has 501 entries, but the model's word embeddings have {len(VOCAB)} rows"),
        (permute, "is not the tokenizer that this model was stored with"),
        (lambda c: c["normalizer"].update(lowercase=False), "is not the tokenizer"),
        (lambda c: c.pop("model"), "holds no vocabulary"),
    ],
)
def test_another_tokenizer_in_a_bundle_is_refused(change, message, tmp_path):
    folder = save_bundle(
        tmp_path / "b", make_text_model(), tokenizer_json=write_tokenizer(tmp_path)
    )
    edit_tokenizer(folder, lambda c: c.update(padding=None, truncation=None))  # another layout
    load_bundle(folder)
    edit_tokenizer(folder, change)
    with pytest.raises(ValueError, match=message):
        load_bundle(folder)


def test_a_tokenizer_larger_than_the_embeddings_is_not_stored(tmp_path, tokenizer):
    tokenizer.write_text('{"model": {"vocab": {"a": 40}}}')
    with pytest.raises(ValueError, match="41 entries, but the model's word embeddings have 40"):
        save_bundle(tmp_path / "m", make_model(), tokenizer_json=tokenizer)


def test_a_tokenizer_that_is_put_into_a_bundle_saved_without_one_is_taken(tmp_path, tokenizer):
    folder = save_bundle(tmp_path / "m", make_model(), tokenizer_json=None)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    assert load_bundle(folder).tokenizer_path is not None


def test_a_classifier_is_told_from_a_bundle(tmp_path):
    model = SequenceClassifier(make_model().config, num_labels=2)
    save_bundle(tmp_path / "c", model, tokenizer_json=None, task={"labels": ["a", "b"]})
    with pytest.raises(ValueError, match="is a fine-tuned classifier, not a bundle"):
        load_bundle(tmp_path / "c")


def encode_one(bundle):
    return bundle.encode(["the sun"]).tolist()


@pytest.mark.parametrize("config_class", [PoNetConfig, BertConfig, FNetConfig])
def test_a_bundle_can_be_pickled_saved_and_copied_before_and_after_use(config_class, tmp_path):
    model = make_text_model(config_class)
    bundle = load_bundle(
        save_bundle(tmp_path / "b", model, tokenizer_json=write_tokenizer(tmp_path))
    )
    fresh = pickle.loads(pickle.dumps(bundle))
    expected = encode_one(bundle)
    torch.save(bundle, tmp_path / "b.pt")
    saved = torch.load(tmp_path / "b.pt", weights_only=False)
    for twin in (fresh, saved, copy.deepcopy(bundle), pickle.loads(pickle.dumps(bundle))):
        assert encode_one(twin) == expected


def test_failed_writes_leave_the_old_bundle_and_no_rubbish(tmp_path):
    target = save_bundle(tmp_path / "m", make_model(), tokenizer_json=None)
    with pytest.raises(ValueError, match="does not fit into JSON"):
        save_bundle(target, make_model(), tokenizer_json=None, metadata={"x": torch.ones(1)})
    with pytest.raises(ValueError, match="absent.json does not exist"):
        save_bundle(target, make_model(), tokenizer_json=tmp_path / "absent.json")
    load_bundle(target)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_run_that_has_not_ended_is_told_how_it_gets_a_bundle(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"without a bundle.* export .*/checkpoints/last.ckpt "):
        load_bundle(tmp_path)


def drop_weight(folder):
    state = load_file(folder / "model.safetensors")
    del state["mlm_head.bias"]
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "a JSON object is needed"),
        (lambda f: edit_config(f, format_version=99), "format_version 99"),
        (lambda f: edit_config(f, extra=1), "has the keys .*extra"),
        (lambda f: edit_config(f, metadata=None), "has None as 'metadata'; a JSON object"),
        (lambda f: edit_config(f, encoder=[1]), r"has \[1\] as 'encoder'; a JSON object"),
        (lambda f: edit_config(f, encoder={"kind": "ponet", "wings": 2}), "unknown key.* wings"),
        (lambda f: edit_config(f, num_pair_classes=5), "does not fit its configuration"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "is damaged"),
        (drop_weight, "Missing key.*mlm_head.bias"),
    ],
)
def test_damaged_bundles_name_the_fault(tmp_path, damage, message):
    target = save_bundle(tmp_path / "m", make_model(), tokenizer_json=None)
    damage(target)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_bundle(target)


def test_truncated_weights_are_named(tmp_path):
    target = save_bundle(tmp_path / "m", make_model(), tokenizer_json=None)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged"):
        load_bundle(target)
