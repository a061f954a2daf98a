"""Folders of transformers: the same numbers, by the Auto classes, in both directions."""

import dataclasses
import json

import pytest
import torch
from ponet_hub_models import CONFIGS, make_bundle, make_export, make_model, write_tokenizer_json
from test_ponet_parity import official_batch, read

from ponet import load_bundle, load_official, save_bundle

transformers = pytest.importorskip("transformers")

import ponet.hub  # noqa: E402 (transformers may be missing)
from ponet.hub import huggingface  # noqa: E402
from ponet.hub.huggingface import (  # noqa: E402
    SpecialTokens,
    export_huggingface,
    find_special_tokens,
    probe_batch,
)

TOKENS = SpecialTokens(cls_token_id=2, sep_token_id=3)


@pytest.fixture
def folder(tmp_path):
    """An exported PoNet with a tokenizer, and its live model."""
    return make_export(tmp_path)


def inputs_of(batch):
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.mask.long(),
        "token_type_ids": batch.token_type_ids,
    }


def assert_comes_back(model, folder):
    """Weights and configuration of an exported folder are the model's own."""
    back = load_official(folder)
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["ponet_guarded", "ponet_unguarded"])
def test_the_official_numbers_survive_bundle_and_export(shared_dir, tmp_path, name):
    path = shared_dir / "oracle" / f"{name}.safetensors"
    tensors, config = read(path)
    save_bundle(tmp_path / "bundle", load_official(path), tokenizer_json=None)
    tokens = SpecialTokens(cls_token_id=config["cls_token_id"], sep_token_id=config["sep_token_id"])
    export_huggingface(load_bundle(tmp_path / "bundle").model, tmp_path / "hf",
                       special_tokens=tokens)  # fmt: skip
    assert_comes_back(load_official(path), tmp_path / "hf")
    batch = official_batch(tensors, config)
    body = transformers.AutoModel.from_pretrained(tmp_path / "hf")
    twin = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        x = body(**inputs_of(batch), segment_ids=batch.segment_ids).last_hidden_state
        default = body(**inputs_of(batch)).last_hidden_state
        output = twin(**inputs_of(batch), segment_ids=batch.segment_ids,
                      labels=tensors["inputs.labels"],
                      next_sentence_label=tensors["inputs.pair_labels"])  # fmt: skip
    found = {
        "last_hidden_state": x,
        "last_hidden_state_without_segment_ids": default,
        "mlm_logits": output.prediction_logits,
        "pair_logits": output.seq_relationship_logits,
        "loss": output.loss,
    }
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, tensors[f"outputs.{key}"], atol=1e-5, rtol=0, msg=key)


def test_an_encoder_that_transformers_lacks_is_told_the_formats_that_take_it(tmp_path):
    with pytest.raises(ValueError, match="kind hybrid; export it with --format onnx"):
        export_huggingface(make_model("hybrid"), tmp_path / "hf", special_tokens=TOKENS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "hybrid"])
def test_every_model_exports_and_loads_with_its_own_numbers(name, tmp_path):
    model = make_model(name)
    difference = export_huggingface(model, tmp_path / "hf", special_tokens=TOKENS)
    assert difference == 0 if name.startswith("ponet") else difference < 1e-4
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    kind = {"ponet": "PoNet", "bert": "Bert", "fnet": "FNet"}[model.config.kind]
    has_class = name in ("ponet", "ponet_ablated", "bert", "fnet_released")
    assert config["architectures"] == [f"{kind}For{'PreTraining' if has_class else 'MaskedLM'}"]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    if kind == "PoNet":
        assert_comes_back(model, tmp_path / "hf")
    twin = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    is_fnet = model.config.kind == "fnet"
    batch = probe_batch(model.config, TOKENS, shape=(2, 20), has_padding=not is_fnet)
    inputs = inputs_of(batch)
    if is_fnet:
        del inputs["attention_mask"]
    body = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        theirs, ours, encoded = twin(**inputs).logits, model(batch), body(**inputs)
        pooled = None if model.pooler is None else model.pooler(ours.last_hidden_state)
    near = {"atol": 1e-4, "rtol": 1e-5}
    torch.testing.assert_close(theirs[batch.mask], ours.mlm_logits[batch.mask], **near)
    hidden = encoded.last_hidden_state[batch.mask]
    torch.testing.assert_close(hidden, ours.last_hidden_state[batch.mask], **near)
    if pooled is not None:
        torch.testing.assert_close(encoded.pooler_output, pooled, **near)


def test_segments_are_the_texts_between_separators_unless_given(folder):
    path, model = folder
    twin = transformers.AutoModel.from_pretrained(path)
    batch = probe_batch(model.config, TOKENS, shape=(3, 25))
    other = dataclasses.replace(batch, segment_ids=torch.arange(25).div(4).long().expand(3, -1))
    with torch.no_grad():
        for given, expected in (({}, batch), ({"segment_ids": other.segment_ids}, other)):
            x = twin(**inputs_of(batch), **given).last_hidden_state
            assert torch.equal(x, model.encoder(expected))
        bare = twin(batch.input_ids[1:]).last_hidden_state
        types = dataclasses.replace(batch, token_type_ids=torch.zeros_like(batch.token_type_ids))
        torch.testing.assert_close(bare, model.encoder(types)[1:])


def test_fill_mask_gives_the_live_model_s_words(folder):
    path, model = folder
    fill = transformers.pipeline("fill-mask", model=str(path), top_k=3)
    found = fill("the old [MASK] sleeps .")
    ids = torch.tensor([[2, 8, 9, 4, 14, 15, 3]])
    batch = huggingface.EncoderBatch(
        input_ids=ids, mask=torch.ones_like(ids).bool(), token_type_ids=torch.zeros_like(ids),
        segment_ids=torch.tensor([[0, 1, 1, 1, 1, 1, 2]]), special_mask=(ids == 2) | (ids == 3),
    )  # fmt: skip
    with torch.no_grad():
        expected = model(batch).mlm_logits[0, 3].softmax(-1).topk(3)
    assert [guess["token"] for guess in found] == expected.indices.tolist()
    assert [guess["score"] for guess in found] == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_the_tokenizer_comes_with_its_special_tokens(tmp_path):
    make_bundle(tmp_path / "bundle", template=False)
    bundle = load_bundle(tmp_path / "bundle")
    tokens = find_special_tokens(bundle.tokenizer_path, vocab_size=20)
    assert tokens == TOKENS
    export_huggingface(bundle.model, tmp_path / "hf", special_tokens=tokens,
                       tokenizer_path=bundle.tokenizer_path)  # fmt: skip
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert names <= {path.name for path in (tmp_path / "hf").iterdir()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    encoded = tokenizer(["a dog", "rain"], ["the town", "falls"], padding=True)
    assert encoded["input_ids"] == [[2, 12, 13, 3, 8, 10, 3], [2, 5, 3, 6, 3, 0, 0]]
    assert encoded["token_type_ids"][0] == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.mask_token_id == 4
    assert tokenizer.model_max_length == 32


def test_an_fnet_tokenizer_makes_no_mask(tmp_path):
    model = make_model("fnet")
    export_huggingface(
        model, tmp_path / "hf", special_tokens=TOKENS,
        tokenizer_path=write_tokenizer_json(tmp_path / "tokenizer.json"),
    )  # fmt: skip
    fill = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"))
    assert len(fill("a [MASK] .")) == 5


def test_saving_and_loading_again_changes_nothing(folder, tmp_path):
    path, _ = folder
    for auto in ("PreTraining", "MaskedLM", "SequenceClassification", "TokenClassification"):
        auto_class = getattr(transformers, f"AutoModelFor{auto}")
        model = auto_class.from_pretrained(path, num_labels=3)
        model.save_pretrained(tmp_path / auto)
        again = auto_class.from_pretrained(tmp_path / auto)
        assert type(again).__module__.startswith("ponet.hub.")
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        assert "auto_map" not in json.loads((tmp_path / auto / "config.json").read_text())
        assert again.config.to_native() == model.config.to_native()


def test_code_can_be_added_to_a_folder_saved_later(folder, tmp_path):
    path, _ = folder
    transformers.AutoModel.from_pretrained(path).save_pretrained(tmp_path / "later")
    written = ponet.hub.write_code(tmp_path / "later")
    assert set(written) == {file.name for file in path.glob("*.py")}
    assert json.loads((tmp_path / "later" / "config.json").read_text())["auto_map"]
    with pytest.raises(ValueError, match="no configuration of a PoNet model"):
        ponet.hub.write_code(tmp_path)


def test_classifiers_have_the_losses_of_their_problems(folder):
    path, model = folder
    batch = probe_batch(model.config, TOKENS, shape=(3, 12))
    load = transformers.AutoModelForSequenceClassification.from_pretrained
    for labels, num_labels, problem in (
        (torch.tensor([0, 2, 1]), 3, None),
        (torch.tensor([0.5, 2.0, 1.0]), 1, None),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), 2, "multi_label_classification"),
    ):
        torch.manual_seed(0)
        classifier = load(path, num_labels=num_labels, problem_type=problem)
        output = classifier(**inputs_of(batch), labels=labels)
        assert output.logits.shape == (3, num_labels)
        logits = output.logits.detach()
        expected = {
            3: torch.nn.functional.cross_entropy(logits, labels) if num_labels == 3 else None,
            1: (logits[:, 0] - labels).square().mean() if num_labels == 1 else None,
            2: torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            if num_labels == 2
            else None,
        }[num_labels]
        torch.testing.assert_close(output.loss.detach(), expected)
    tagger = transformers.AutoModelForTokenClassification.from_pretrained(path, num_labels=4)
    labels = batch.input_ids.masked_fill(~batch.mask, -100).clamp(max=3)
    output = tagger(**inputs_of(batch), labels=labels, return_dict=False)
    assert output[1].shape == (3, 12, 4)
    assert output[0].isfinite()


def test_the_model_does_what_transformers_asks_of_one(folder):
    path, model = folder
    twin = transformers.AutoModelForMaskedLM.from_pretrained(path)
    batch = probe_batch(model.config, TOKENS, shape=(2, 16))
    states = twin(**inputs_of(batch), output_hidden_states=True).hidden_states
    assert len(states) == 3
    answer = twin(**inputs_of(batch), output_hidden_states=True, return_dict=False)
    assert torch.equal(answer[1][0], states[0]) and len(answer) == 2
    assert torch.equal(states[-1], twin.ponet(**inputs_of(batch)).last_hidden_state)
    assert twin(**inputs_of(batch)).hidden_states is None
    loss = twin.eval()(**inputs_of(batch), labels=batch.input_ids).loss
    loss.backward()
    grads = {name: p.grad.clone() for name, p in twin.named_parameters() if p.grad is not None}
    twin.zero_grad()
    twin.gradient_checkpointing_enable()
    for part in twin.modules():
        part.training = not isinstance(part, torch.nn.Dropout)
    twin(**inputs_of(batch), labels=batch.input_ids).loss.backward()
    for name, parameter in twin.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, grads[name], msg=name)
    twin.resize_token_embeddings(25)
    assert twin(**inputs_of(batch)).logits.shape == (2, 16, 25)
    twin.ponet.extend_positions(50)
    assert twin.config.max_position_embeddings == 50


def test_what_differs_is_never_left_behind(tmp_path, monkeypatch):
    model = make_model()
    original = huggingface.twin_state

    def changed(of):
        state = original(of)
        state["mlm_head.bias"] = state["mlm_head.bias"] + 0.01
        return state

    monkeypatch.setattr(huggingface, "twin_state", changed)
    with pytest.raises(ValueError, match="logits differs by 1.00e-02"):
        export_huggingface(model, tmp_path / "hf", special_tokens=TOKENS)

    def without(of):
        state = original(of)
        del state["ponet.pooler.dense.bias"]
        return state

    monkeypatch.setattr(huggingface, "twin_state", without)
    with pytest.raises(ValueError, match="no weights for ponet.pooler.dense.bias"):
        export_huggingface(model, tmp_path / "hf", special_tokens=TOKENS)
    assert not list(tmp_path.iterdir())


def test_configurations_that_do_not_fit_are_refused():
    config = ponet.hub.PoNetHubConfig
    with pytest.raises(ValueError, match="authors' release"):
        config(clsgsepg=True)
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        config(hidden_act="relu")
    with pytest.raises(ValueError, match="local_window=2"):
        config(local_window=2)
    with pytest.raises(ValueError, match="AutoModelForMaskedLM"):
        ponet.hub.PoNetForPreTraining(config(num_pair_classes=0))


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    path = write_tokenizer_json(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="16 entries, but the model's word embeddings have 9"):
        find_special_tokens(path, vocab_size=9)
    with pytest.raises(ValueError, match="--separator-ids CLS SEP"):
        find_special_tokens(None, vocab_size=9)
    with pytest.raises(ValueError, match=r"--separator-ids 9 is not in \[0, 9\)"):
        find_special_tokens(None, vocab_size=9, separator_ids=(1, 9))
    with pytest.raises(ValueError, match="leave it out"):
        find_special_tokens(path, vocab_size=20, separator_ids=(1, 2))
    write_tokenizer_json(path, template=False, words=["[UNK]", "[CLS]", "[SEP]"])
    with pytest.raises(ValueError, match="no pad_token"):
        find_special_tokens(path, vocab_size=20)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no vocabulary"):
        find_special_tokens(path, vocab_size=20)
