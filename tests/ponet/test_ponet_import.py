"""Checkpoints of others as bundles: every key accounted for, outputs as before."""

import json

import pytest
import torch
from ponet_bundles import (
    TEXTS,
    VOCAB,
    foreign_values,
    foreign_weights,
    make_model,
    write_foreign,
    write_tokenizer,
)
from ponet_reference import make_batch
from safetensors.torch import load_file, save_file

from ponet import BertConfig, FNetConfig, PoNetConfig, load_bundle, load_official, save_bundle
from ponet.bundle_import import example_lines, import_bundle, report_lines

FNET = {
    "num_heads": 12,
    "type_vocab_size": 4,
    "embedding_projection": True,
    "activation": "gelu_tanh",
}


def do_import(source, output, **options):
    return import_bundle(str(source), output, **options)


def same_outputs(model, other):
    batch = make_batch(vocab_size=len(VOCAB))
    with torch.no_grad():
        ours, theirs = model(batch), other(batch)
    assert torch.equal(ours.mlm_logits, theirs.mlm_logits)
    if ours.pair_logits is not None:
        assert torch.equal(ours.pair_logits, theirs.pair_logits)


@pytest.mark.parametrize(
    ("config_class", "fields", "values"),
    [
        # The released config.json calls itself a BERT; its architecture says what it is.
        (PoNetConfig, {}, {"model_type": "bert", "architectures": ["PoNetForPreTraining"],
                           "clsgsepg": True, "use_cache": True}),
        (PoNetConfig, {"guard_special_tokens": False}, {"model_type": "ponet", "clsgsepg": False}),
        (BertConfig, {}, {"architectures": ["BertForMaskedLM"], "hidden_act": "gelu"}),
        (FNetConfig, FNET, {"hidden_act": "gelu_new", "type_vocab_size": 4}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pickled", [True, False])
def test_a_foreign_folder_becomes_a_bundle_with_its_outputs(
    config_class, fields, values, pickled, tmp_path
):
    model = make_model(config_class, **fields)
    values = foreign_values(model, **values)
    folder = write_foreign(tmp_path / "m", model, values=values, pickled=pickled)
    imported = do_import(folder, tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    assert bundle.model.config == model.config
    same_outputs(bundle.model, model)
    assert bundle.tokenizer_path is not None and bundle.encode(TEXTS).isfinite().all()
    assert bundle.metadata["imported_from"] == "m" and bundle.metadata["language"] == "en"
    assert set(bundle.metadata["weights_sha256"]) == {
        "pytorch_model.bin" if pickled else "model.safetensors"
    }
    assert set(imported.converted.copies) == {
        "cls.predictions.decoder.bias",
        "cls.predictions.decoder.weight",
        f"{model.config.kind}.embeddings.position_ids",
    }


def test_the_released_folder_loads_for_fine_tuning_though_it_says_bert(tmp_path):
    model = make_model()
    values = foreign_values(model, model_type="bert", architectures=["PoNetForPreTraining"])
    same_outputs(load_official(write_foreign(tmp_path / "m", model, values=values)), model)


@pytest.mark.parametrize("name", ["ponet_guarded", "ponet_unguarded"])
def test_the_official_fixture_as_a_bundle_gives_the_official_outputs(name, shared_dir, tmp_path):
    from test_ponet_parity import official_batch, read

    path = shared_dir / "oracle" / f"{name}.safetensors"
    with pytest.raises(ValueError, match="--tokenizer none"):
        do_import(path, tmp_path / "b")
    do_import(path, tmp_path / "b", tokenizer="none")
    tensors, config = read(path)
    output = load_bundle(tmp_path / "b").model(official_batch(tensors, config))
    for field in ("last_hidden_state", "mlm_logits", "pair_logits"):
        expected = tensors[f"outputs.{field}"]
        torch.testing.assert_close(getattr(output, field), expected, atol=1e-5, rtol=0)


def test_modelscope_folders_bring_their_language(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    (folder / "configuration.json").write_text(
        json.dumps(
            {
                "framework": "pytorch",
                "task": "fill-mask",
                "model": {"type": "ponet", "language": "zh"},
            }
        )  # fmt: skip
    )
    imported = do_import(folder, tmp_path / "b")
    assert imported.bundle.metadata["language"] == "zh"
    assert sum(line.startswith("  [MASK]") for line in example_lines(imported)) >= 3
    assert do_import(folder, tmp_path / "c", language="en").bundle.metadata["language"] == "en"


def test_the_report_counts_every_weight_and_names_what_is_left_out(tmp_path):
    model = make_model()
    weights = foreign_weights(model) | {"classifier.weight": torch.ones(2, 16)}
    folder = write_foreign(tmp_path / "m", model, weights=weights)
    imported = do_import(folder, tmp_path / "b", drop=("classifier.*",))
    text = "\n".join(report_lines(imported, with_names=True))
    num_parameters = sum(weight.numel() for weight in model.parameters())
    assert f"{len(weights) - 4} weights of the source" in text
    assert f"{num_parameters:,} parameters" in text
    assert "dropped     classifier.weight" in text and "untrained   none" in text
    assert "copies      cls.predictions.decoder.bias" in text
    assert all(key in text for key in weights)
    assert "ponet.encoder.layer.1.attention.self.dense_q.bias -> encoder.layers.1.mixer.query.bias" in text  # noqa: E501  # fmt: skip
    lines = list(example_lines(imported))
    assert len(lines) == 6 and all("[MASK] 1:" in line for line in lines[1::2])


def test_half_precision_weights_keep_their_values(tmp_path):
    model = make_model()
    weights = {k: v.bfloat16() if v.is_floating_point() else v
               for k, v in foreign_weights(model).items()}  # fmt: skip
    folder = write_foreign(tmp_path / "m", model, weights=weights, pickled=False)
    bundle = do_import(folder, tmp_path / "b").bundle
    word = bundle.model.decoder_weight
    assert torch.equal(word, model.decoder_weight.bfloat16().float())


def test_a_model_without_pair_head_and_pooler_stays_without(tmp_path):
    model = make_model(BertConfig, num_pair_classes=0)
    bundle = do_import(write_foreign(tmp_path / "m", model), tmp_path / "b").bundle
    assert bundle.model.num_pair_classes == 0
    same_outputs(bundle.model, model)


def test_missing_heads_are_added_only_when_asked_for_and_marked(tmp_path):
    model = make_model(BertConfig, num_pair_classes=2)
    bare = {key.removeprefix("bert."): value for key, value in foreign_weights(model).items()
            if not key.startswith("cls.")}  # fmt: skip
    folder = write_foreign(tmp_path / "m", model, weights=bare)
    with pytest.raises(ValueError, match="no masked-LM head .*--add-missing-heads"):
        do_import(folder, tmp_path / "b")
    imported = do_import(folder, tmp_path / "b", add_missing_heads=True)
    bundle = imported.bundle
    untrained = bundle.metadata["untrained"]
    assert {name.split(".")[0] for name in untrained} == {"mlm_head", "pair_head"}
    assert torch.equal(bundle.model.pooler.dense.weight, model.pooler.dense.weight)
    with pytest.raises(ValueError, match="never trained"):
        bundle.fill("the [MASK]")
    assert "fresh random values" in "\n".join(report_lines(imported))
    assert "no examples" in "\n".join(example_lines(imported))
    again = do_import(folder, tmp_path / "c", add_missing_heads=True).bundle
    assert torch.equal(again.model.mlm_head.dense.weight, bundle.model.mlm_head.dense.weight)


def test_a_pooler_without_a_pair_head_is_no_silent_loss(tmp_path):
    model = make_model()
    weights = {key: value for key, value in foreign_weights(model).items()
               if "seq_relationship" not in key}  # fmt: skip
    folder = write_foreign(tmp_path / "m", model, weights=weights)
    with pytest.raises(ValueError, match=r"a pooler but no pair head .*--drop '\*pooler\.\*'"):
        do_import(folder, tmp_path / "b")
    imported = do_import(folder, tmp_path / "b", drop=("*pooler.*",))
    assert imported.bundle.model.num_pair_classes == 0
    assert len(imported.bundle.metadata["dropped"]) == 2
    kept = do_import(folder, tmp_path / "c", add_missing_heads=True).bundle.model
    assert kept.num_pair_classes == 3
    assert torch.equal(kept.pooler.dense.weight, model.pooler.dense.weight)


def surplus(weights):
    weights["ponet.encoder.layer.0.attention.self.dense_v.weight"] = torch.ones(16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (surplus, "unexpected .*dense_v.weight"),
        (lambda w: w.pop("ponet.encoder.layer.1.attention.self.dense_k.bias"), "missing .*dense_k"),
        (lambda w: w["cls.predictions.decoder.weight"].add_(1), "untied decoder"),
        (lambda w: w.update({"cls.predictions.bias": torch.ones(3),
                             "cls.predictions.decoder.bias": torch.ones(3)}), "does not fit"),
        (lambda w: w.update({"ponet.pooler.dense.bias": torch.ones(16).double()}), "float64"),
        (lambda w: w["ponet.pooler.dense.bias"][:2].fill_(float("nan")),
         "ponet.pooler.dense.bias has 2 of 16 values that are NaN or infinite"),
        (lambda w: w["cls.seq_relationship.bias"][0].fill_(float("-inf")), "has 1 of 3 values"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error_and_writes_nothing(change, message, tmp_path):
    model = make_model()
    weights = foreign_weights(model)
    change(weights)
    folder = write_foreign(tmp_path / "m", model, weights=weights)
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "roberta"}, "model_type='roberta'; supported: ponet, bert, fnet"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"num_hidden_layers": 3}, "missing .*layer.2"),
    ],
)
def test_another_model_is_refused(values, message, tmp_path):
    model = make_model(BertConfig)
    folder = write_foreign(tmp_path / "m", model, values=foreign_values(model, **values))
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b")


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    with pytest.raises(ValueError, match="matches none"):
        do_import(folder, tmp_path / "b", drop=("lassifier.*",))


class Bomb:
    def __reduce__(self):
        return (eval, ("1 / 0",))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    model = make_model()
    weights = {**foreign_weights(model), "x": Bomb()}
    folder = write_foreign(tmp_path / "m", model, weights=weights)
    with pytest.raises(ValueError, match=r"bin holds more than tensors \(eval\)") as raised:
        do_import(folder, tmp_path / "b")
    assert "\x1b" not in str(raised.value) and "weights_only" not in str(raised.value)
    torch.save(model, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"more than tensors \(ponet.heads.PretrainingModel\)"):
        do_import(folder, tmp_path / "b")


def behind(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: behind("module.", w),
        lambda w: behind("_orig_mod.module.", w),
        lambda w: {"state_dict": behind("model.", w), "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda w: {"model": behind("module.", w), "args": {"a": 1}},
        lambda w: {"model_state_dict": w, "step": torch.tensor(3)},
    ],
)
def test_what_training_scripts_put_around_weights_is_taken_off(wrap, tmp_path):
    model = make_model()
    folder = write_foreign(tmp_path / "m", model, weights=wrap(foreign_weights(model)))
    same_outputs(do_import(folder, tmp_path / "b").bundle.model, model)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda w: behind("mine.", w), "has no word embeddings .* names are like mine.cls"),
        (lambda w: {"weights": w, "lr": 1}, "no state dict under weights, lr; a dict of tensors"),
        (lambda w: {"model": w, "state_dict": w}, "no state dict under model, state_dict"),
    ],
)
def test_a_wrapper_that_is_not_known_is_named(wrap, message, tmp_path):
    model = make_model()
    folder = write_foreign(tmp_path / "m", model, weights=wrap(foreign_weights(model)))
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b", add_missing_heads=True)


def split_in_two(folder, *, name="model.safetensors"):
    state = load_file(folder / name)
    parts = {"part-1.safetensors": sorted(state)[::2], "part-2.safetensors": sorted(state)[1::2]}
    for part, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / part)
    weight_map = {key: part for part, keys in parts.items() for key in keys}
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / name).unlink()


def test_weights_in_several_files_are_read_together(tmp_path):
    model = make_model()
    folder = write_foreign(tmp_path / "m", model, pickled=False)
    split_in_two(folder)
    bundle = do_import(folder, tmp_path / "b").bundle
    same_outputs(bundle.model, model)
    assert len(bundle.metadata["weights_sha256"]) == 2
    (folder / "part-2.safetensors").unlink()
    with pytest.raises(ValueError, match="part-2.safetensors does not exist"):
        do_import(folder, tmp_path / "c")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model(), pickled=False)
    split_in_two(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.bin"}}))
    with pytest.raises(ValueError, match="other folders"):
        do_import(folder, tmp_path / "b")


def test_a_weights_file_is_taken_with_the_config_beside_it(tmp_path):
    model = make_model()
    folder = write_foreign(tmp_path / "m", model)
    same_outputs(do_import(folder / "pytorch_model.bin", tmp_path / "b").bundle.model, model)


def twin_folder(folder, model):
    """What `ponet export --format huggingface` writes: the native names behind "ponet."."""
    inner = ("encoder.", "pooler.")
    weights = {("ponet." if name.startswith(inner) else "") + name: value.clone()
               for name, value in model.state_dict().items()}  # fmt: skip
    own = ("global_pool", "use_segment_pool", "use_local_pool", "local_window", "fusion_product",
           "guard_special_tokens")  # fmt: skip
    values = foreign_values(model, **{name: getattr(model.config, name) for name in own})
    write_foreign(folder, model, values=values, weights=weights, pickled=False)
    (folder / "vocab.txt").unlink()
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize(
    "fields",
    [{}, {"global_pool": "mean", "use_local_pool": False}, {"fusion_product": False}],
)
@pytest.mark.parametrize("num_pair_classes", [0, 3])
def test_our_own_export_comes_back(fields, num_pair_classes, tmp_path):
    model = make_model(num_pair_classes=num_pair_classes, **fields)
    folder = twin_folder(tmp_path / "m", model)
    bundle = do_import(folder, tmp_path / "b").bundle
    assert bundle.model.config == model.config
    assert bundle.model.state_dict().keys() == model.state_dict().keys()
    same_outputs(bundle.model, model)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: (f / "pytorch_model.bin").unlink(), "neither model.safetensors nor"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "is damaged"),
        (lambda f: (f / "state").mkdir(), "python -m pretrain export"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(prepare, message, tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    prepare(folder)
    with pytest.raises(ValueError, match=message):
        do_import(folder, tmp_path / "b")


def test_a_revision_of_a_local_folder_is_refused(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    with pytest.raises(ValueError, match="--revision v1 would do nothing: .* is here and not on"):
        do_import(folder, tmp_path / "b", revision="v1")


def test_a_folder_to_be_imported_is_not_taken_for_a_bundle(tmp_path):
    folder = write_foreign(tmp_path / "m", make_model())
    with pytest.raises(ValueError, match="not a bundle; run: python -m ponet import"):
        load_bundle(folder)


def test_sources_that_need_no_import_or_another_way_are_named(tmp_path):
    bundle = save_bundle(tmp_path / "run" / "bundle", make_model(), tokenizer_json=None)
    with pytest.raises(ValueError, match="is a bundle already"):
        do_import(bundle, tmp_path / "b")
    with pytest.raises(ValueError, match="run.bundle is a bundle already"):
        do_import(tmp_path / "run", tmp_path / "b")
    with pytest.raises(ValueError, match="modelscope download"):
        do_import("damo/nlp_ponet_fill-mask_english-base", tmp_path / "b")
    with pytest.raises(ValueError, match="does not exist"):
        do_import(tmp_path / "absent", tmp_path / "b")
