"""`python -m ponet export` of a fine-tuned classifier: what transformers then gives."""

import json

import pytest
import torch
from ponet_hub_models import CONFIGS, write_tokenizer_json
from safetensors.torch import save_file

from finetune.artifact import load_classifier
from finetune.tasks.spec import Row
from ponet import SequenceClassifier, save_bundle

transformers = pytest.importorskip("transformers")

from ponet.cli import main  # noqa: E402 (transformers may be missing)

KINDS = ["ponet", "ponet_ablated", "bert", "fnet", "fnet_released"]
INFO = {"task": "own", "title": "own files", "labels": ("bad", "good", "so so"),
        "score_range": None, "text": "text", "text_pair": "", "has_pair": True, "max_len": 24,
        "segments": "separators", "positions": "tile"}  # fmt: skip
ROWS = [Row(1, "1", "rain falls on the old town.", "a dog sleeps", None),
        Row(2, "2", "the dog", "rain", None)]  # fmt: skip


def make_run(folder, name="ponet", **info):
    values = {**INFO, **info}
    torch.manual_seed(2)
    model = SequenceClassifier(CONFIGS[name][0], num_labels=len(values["labels"]) or 1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = write_tokenizer_json(folder / "tokenizer.json")
    save_bundle(folder / "run" / "classifier", model, tokenizer_json=tokenizer, task=values)
    return folder / "run"


def export(run, output, *options):
    arguments = ["export", str(run), "--format", "huggingface", "--output", str(output)]
    return main([*arguments, *options])


@pytest.mark.parametrize("name", KINDS)
def test_transformers_gives_what_the_classifier_gives(name, tmp_path):
    run = make_run(tmp_path, name)
    assert export(run, tmp_path / "hf") == 0
    twin = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert twin.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert tokenizer.model_max_length == 24
    ours = load_classifier(run)
    for row, encoded in zip(ROWS, ours.encoder.encode(ROWS, "x.csv"), strict=True):
        inputs = tokenizer(row.text, row.text_pair, return_tensors="pt")
        with torch.no_grad():
            expected = ours.model(ours.encoder.batch([encoded]))
            found = twin(**inputs).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_pipeline_gives_the_labels_by_name(tmp_path):
    assert export(make_run(tmp_path) / "classifier", tmp_path / "hf") == 0
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "hf"))
    assert classify("rain falls")[0]["label"] in INFO["labels"]


def test_a_regression_gives_scores_on_their_own_scale(tmp_path):
    run = make_run(tmp_path, labels=(), has_pair=False)
    config = run / "classifier" / "config.json"
    assert export(run, tmp_path / "plain") == 0
    values = json.loads(config.read_text())
    values["task"]["scale"] = {"mean": 3000.0, "std": 500.0}
    config.write_text(json.dumps(values))
    assert export(run, tmp_path / "scaled") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "scaled")
    plain, scaled = (
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        for name in ("plain", "scaled")
    )
    assert scaled.config.problem_type == "regression" and scaled.config.num_labels == 1
    with torch.no_grad():
        inputs = tokenizer("rain falls", return_tensors="pt")
        inner, outer = plain(**inputs).logits, scaled(**inputs).logits
    torch.testing.assert_close(outer, inner * 500 + 3000, atol=1e-2, rtol=1e-5)


def test_the_card_and_the_command_say_what_pipelines_do_otherwise(tmp_path, capsys):
    run = make_run(tmp_path, segments="sentences")
    options = ["--name", "Reviews", "--licence", "mit", "--language", "en"]
    assert export(run, tmp_path / "hf", *options) == 0
    printed = capsys.readouterr().out
    card = (tmp_path / "hf" / "README.md").read_text()
    for part in ("# Reviews", "license: mit", "gives the labels bad, good, so so",
                 "pipeline_tag: text-classification", "trained with sentences as pooling segments",
                 "more than 24 tokens", "[SEP], [MASK] and the like",
                 "transformers 5.20 or newer"):  # fmt: skip
        assert part in card
    assert "note: it was trained with sentences" in printed
    assert export(make_run(tmp_path, "fnet", segments="sentences"), tmp_path / "fnet") == 0
    card = (tmp_path / "fnet" / "README.md").read_text()
    assert "padding changes its outputs" in card and "pooling segments" not in card


def test_a_graph_says_what_its_input_lacks_and_its_tokenizer_cuts_as_in_training(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    run = make_run(tmp_path, segments="sentences", language="de")
    arguments = ["export", str(run), "--format", "onnx", "--output"]
    assert main([*arguments, str(tmp_path / "graph")]) == 0
    assert "trained with sentences as pooling segments; this graph" in capsys.readouterr().out
    facts = json.loads((tmp_path / "graph" / "graph.json").read_text())
    assert (facts["segments"], facts["language"], facts["max_len"]) == ("sentences", "de", 24)
    settings = json.loads((tmp_path / "graph" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 24 < facts["max_positions"]
    assert main([*arguments, str(tmp_path / "more"), "--segment-input"]) == 0
    assert "give their numbers as segment_ids" in capsys.readouterr().out


def test_an_exported_classifier_is_not_read_back_and_the_advice_works(tmp_path, capsys):
    assert export(make_run(tmp_path), tmp_path / "hf") == 0
    folder = str(tmp_path / "hf")
    with pytest.raises(ValueError, match="a PoNetForSequenceClassification, which is not read"):
        load_classifier(folder)
    assert main(["fill", folder, "a [MASK]"]) == 2
    error = capsys.readouterr().err
    assert "that it was exported from, or its classifier/" in error and error.count("\n") == 1
    advice = error.split("python -m ponet ")[1].replace("'", "").split()
    assert main([*advice[:-1], str(tmp_path / "b")]) == 0


def damage_weights(run):
    save_file({"a": torch.ones(1)}, run / "classifier" / "model.safetensors")


def other_version(run):
    path = run / "classifier" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 9}))


def larger_tokenizer(run):
    words = [f"w{number}" for number in range(30)]
    write_tokenizer_json(run / "classifier" / "tokenizer.json", words=[*words, "[UNK]"],
                         template=False)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda run: None,
            ["--run", "runs/x"],
            "--run would do nothing; it needs a bundle, and this is a fine-tuned",
        ),
        (lambda run: None, ["--format", "onnx", "--head", "encoder"], "--head would do nothing"),
        (damage_weights, [], "does not fit its configuration"),
        (other_version, [], "format_version 9; this version reads 1"),
        (larger_tokenizer, [], "31 entries, but the model's word embeddings have 20 rows"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(change, options, message, tmp_path, capsys):
    run = make_run(tmp_path)
    change(run)
    assert export(run, tmp_path / "hf", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert not (tmp_path / "hf").exists()


def test_other_commands_say_what_a_classifier_is_for(tmp_path, capsys):
    run = make_run(tmp_path)
    for folder in (run, run / "classifier"):
        for command in (["fill", str(folder), "a [MASK]"],
                        ["encode", str(folder), "-", "--output", str(tmp_path / "v.npy")],
                        ["import", str(folder), "--output", str(tmp_path / "b")]):  # fmt: skip
            assert main(command) == 2
            error = capsys.readouterr().err
            assert "is a fine-tuned classifier, not a bundle" in error, command
            assert error.count("\n") == 1
