"""A fit on words with tags: learning, resuming, scoring again, going on, and mistakes."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from finetune_runs import (
    FaultAt,
    assert_same_story,
    interrupt,
    json_lines,
    result_of,
    with_callback,
)
from finetune_taggers import encoder_file, run_tag_fit, tag_arguments, write_tagged

from finetune.artifact import load_classifier
from finetune.cli import main
from ponet.cli import main as ponet_main

LEARNS = ("--trainer.max_epochs", "14", "--model.dropout_prob", "0")
SHORT = ("--data.micro_batch_size", "4", "--trainer.max_epochs", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with few rows."""
    for number, split in enumerate(("train", "validation", "test")):
        write_tagged(tmp_path / f"{split}.jsonl", num_rows=32 if number else 50, seed=number)
    return tmp_path


@pytest.fixture
def fit(folder: Path, tokenizer_json: Path):
    """Run a fit of two epochs and return its folder."""
    return partial(run_tag_fit, folder, tokenizer_json)


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "decoder"), [("mixer", "independent"), ("ponet", "crf"), ("bert", "bio")]
)
def test_a_toy_grammar_is_learned_by_any_encoder(
    name: str, decoder: str, tmp_path: Path, tokenizer_json: Path
):
    run = run_tag_fit(tmp_path, tokenizer_json, name, *LEARNS, "--model.decoder", decoder)
    result = result_of(run)
    scores = result["evaluation"]["test"]
    assert scores["slot_em"] == scores["span_f1"] == scores["token_accuracy"] == 1.0
    assert scores["intent_accuracy"] == scores["frame_em"] == scores["score"] == 1.0
    assert result["majority"]["test"]["slot_em"] == 0 and result["score"] == ["frame_em"]
    assert result["encoder"]["random_init"] and result["encoder"]["name"] == name


@pytest.mark.parametrize("name", ["mixer", "ponet"])
def test_an_interrupted_fit_equals_one_that_was_left_alone(
    name: str, folder: Path, tokenizer_json: Path, fit, monkeypatch: pytest.MonkeyPatch
):
    whole = fit(name, *SHORT)
    arguments = tag_arguments(folder, tokenizer_json, name, *SHORT, "--run.name", "cut")
    with_callback(monkeypatch, FaultAt(interrupt, epoch=1, batch=5))
    assert main(arguments) == 130
    with_callback(monkeypatch, None)
    assert main(arguments) == 0
    assert_same_story(folder / "cut", whole)


@pytest.mark.parametrize("name", ["mixer", "ponet"])
def test_micro_batches_train_the_same_weights(name: str, folder: Path, fit):
    same = ("--model.dropout_prob", "0", "--model.optimizer.eps", "1e-3")  # no noise is amplified
    whole = fit(name, *same, "--data.micro_batch_size", "16")
    parts = fit(name, *same, "--data.micro_batch_size", "5", "--run.name", "parts")
    one, two = (load_classifier(run).model.state_dict() for run in (whole, folder / "parts"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-5, rtol=0, msg=key)
    assert parts.exists()


@pytest.mark.parametrize("decoder", ["bio", "crf"])
def test_validate_and_test_give_the_scores_of_the_fit(decoder: str, folder: Path, fit):
    run = fit("mixer", "--model.decoder", decoder)
    for command in ("validate", "test"):
        assert main([command, "--run.root", str(folder), "--run.name", "mixer"]) == 0
    for record in json_lines(run / "evaluations.jsonl"):
        for split, values in record["evaluation"].items():
            expected = result_of(run)["evaluation"][split]
            shared = {name: values[name] for name in expected if not name.endswith("_new")}
            assert shared == pytest.approx({name: expected[name] for name in shared}, abs=1e-6)


def test_a_classifier_with_8_bit_weights_is_scored_on_the_rows_of_its_run(folder: Path, fit):
    run, exported = fit("mixer"), folder / "exported"
    options = ["--output", str(exported), "--format", "bits8"]
    assert ponet_main(["export", str(run), *options]) == 0
    command = ["test", "--run.root", str(folder), "--run.name", "mixer"]
    assert main([*command, "--run.scored", str(exported)]) == 0
    (record,) = json_lines(run / "evaluations.jsonl")
    assert record["classifier"] == str(exported)
    found, expected = record["evaluation"]["test"], result_of(run)["evaluation"]["test"]
    assert found["loss"] != expected["loss"]
    assert found["loss"] == pytest.approx(expected["loss"], abs=0.1)


@pytest.mark.parametrize(("name", "decoder"), [("mixer", "crf"), ("ponet", "independent")])
def test_a_trained_tagger_reloads_to_the_same_outputs_and_goes_on(
    name: str, decoder: str, folder: Path, fit
):
    run = fit(name, "--model.decoder", decoder)
    loaded = load_classifier(run)
    assert loaded.info.tags == ("B-blame", "B-praise", "I-blame", "I-praise", "O")
    more = ("--trainer.max_epochs", "1", "--model.optimizer.lr", "1e-9")
    onward = ("--model.encoder", str(run), "--model.tokenizer", "", *more, "--run.name", "onward")
    fit(name, *onward, "--model.decoder", decoder)
    first, second = (result_of(folder / run)["evaluation"]["test"] for run in (name, "onward"))
    assert second == pytest.approx(first, abs=1e-5)
    assert not result_of(folder / "onward")["encoder"]["random_init"]


@pytest.mark.parametrize("decoder", ["independent", "crf"])
def test_half_precision_trains_tags(decoder: str, fit):
    options = ("--trainer.precision", "bf16-mixed", "--model.decoder", decoder)
    assert result_of(fit("ponet", *options))["evaluation"]["validation"]["token_accuracy"] > 0.3


@pytest.mark.parametrize("name", ["mixer", "ponet"])
@pytest.mark.parametrize("targets", ["tags", "label"])
def test_tags_or_labels_alone_are_trained(targets: str, name: str, folder: Path, fit):
    run = fit(name, "--data.targets", targets)
    info, result = load_classifier(run).info, result_of(run)
    scores = result["evaluation"]["validation"]
    assert bool(info.tags) == (targets == "tags") and bool(info.labels) == (targets == "label")
    assert ("slot_em" in scores, "accuracy" in scores) == (targets == "tags", targets == "label")
    assert "frame_em" not in scores and result["settings"]["targets"] == targets
    for command in ("validate", "test"):
        assert main([command, "--run.root", str(folder), "--run.name", name]) == 0


def test_tags_and_labels_that_training_never_saw_are_errors_and_are_counted(
    folder: Path, fit, capsys: pytest.CaptureFixture[str]
):
    path = folder / "validation.jsonl"
    rows = json_lines(path)
    for row in rows[:8]:
        row["tags"] = ["B-other", *row["tags"][1:]]
    for row in rows[4:14]:
        row["label"] = "other"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = result_of(fit("mixer", *LEARNS))
    said = capsys.readouterr().out
    assert "8 x words with a tag that training never saw: they count as errors" in said
    assert "10 x texts with a label that training never saw: they count as errors" in said
    scores = result["evaluation"]["validation"]
    assert result["evaluation"]["test"]["frame_em"] > 0.8
    assert scores["slot_em"] <= 24 / 32 and scores["intent_accuracy"] <= 22 / 32
    assert scores["frame_em"] <= 18 / 32 and scores["frame_em"] > 0.3


def test_a_label_that_training_never_saw_is_an_error_of_a_classifier_too(folder: Path, fit):
    path = folder / "validation.jsonl"
    rows = [{**row, "label": "other"} for row in json_lines(path)[:8]] + json_lines(path)[8:]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = fit("mixer", *LEARNS, "--data.targets", "label")
    scores = result_of(run)["evaluation"]["validation"]
    assert 0.5 < scores["accuracy"] <= 24 / 32
    assert main(["validate", "--run.root", str(folder), "--run.name", "mixer"]) == 0


def test_words_beyond_the_length_are_errors(folder: Path, fit):
    path = folder / "validation.jsonl"
    words, tags = ["a", "bad", "film"] * 6, ["B-blame", "I-blame", "I-blame"] * 6
    row = {"words": words, "tags": tags, "label": "blame"}
    path.write_text((json.dumps(row) + "\n") * 2)
    result = result_of(fit("mixer", *LEARNS))
    scores, lengths = result["evaluation"]["validation"], result["data"]["splits"]["validation"]
    assert lengths["lengths"]["share_truncated"] == 1.0
    assert scores["slot_em"] == 0 and 0.5 < scores["token_accuracy"] <= 16 / 18


def test_entities_of_long_documents_are_learned_from_columns(
    tmp_path: Path, tokenizer_json: Path, capsys: pytest.CaptureFixture[str]
):
    for number, split in enumerate(("train", "validation")):
        texts = json_lines(write_tagged(tmp_path / "texts", num_rows=400, seed=number))
        documents = [texts[place : place + 20] for place in range(0, 400, 20)]
        sentences = [[[*zip(text["words"], text["tags"], strict=True), (".", "O")] for text in each]
                     for each in documents]  # fmt: skip
        content = "\n".join(
            "".join(f"{word} _ {tag}\n" for sentence in each for word, tag in sentence)
            for each in sentences
        )
        (tmp_path / f"{split}.jsonl").write_text("-DOCSTART- -X- O\n\n" + content)
    (tmp_path / "test.jsonl").write_text("a _ B-blame\nbad _ I-blame\nfilm _ I-blame\n")
    options = ("--data.segments", "sentences", "--data.max_len", "256", "--trainer.max_epochs", "8")
    run = run_tag_fit(tmp_path, tokenizer_json, "ponet", *options, "--data.global_batch_size", "4")
    said = capsys.readouterr().out
    assert "--data.score span_f1 lets spans choose" in said
    result = result_of(run)
    assert result["evaluation"]["validation"]["span_f1"] > 0.9
    lengths = result["data"]["splits"]["train"]["lengths"]
    assert lengths["median"] > 100 and lengths["segments_median"] == 20


def test_a_part_of_the_training_rows_can_be_validation(folder: Path, fit):
    run = fit("mixer", "--data.validation", "", "--data.validation_fraction", "0.2")
    rows = {name: split["num_rows"] for name, split in result_of(run)["data"]["splits"].items()}
    assert rows["train"] + rows["validation"] == 50 and 4 < rows["validation"] < 16


def test_words_of_control_characters_are_words(folder: Path, fit):
    row = json.dumps({"words": ["\u0001", "\u200b"], "tags": ["O", "O"], "label": "praise"})
    for split in ("train", "test"):
        path = folder / f"{split}.jsonl"
        path.write_text(path.read_text() + f"{row}\n")
    for name in ("mixer", "ponet"):
        assert result_of(fit(name))["evaluation"]["test"]["num_rows"] == 33


def test_several_languages_are_scored_one_by_one_and_on_average(
    folder: Path, tokenizer_json: Path, fit, capsys: pytest.CaptureFixture[str]
):
    from finetune_taggers import write_multiatis

    for language, seed in (("en", 1), ("de", 2)):
        for split in ("train", "dev", "test"):
            write_multiatis(folder / f"{split}_{language.upper()}.tsv", num_rows=24, seed=seed)
    arguments = [
        *("fit", "--data.task", "multiatis", "--data.folder", str(folder)),
        *("--model.encoder", str(encoder_file(folder, "mixer")), "--run.root", str(folder)),
        *("--model.tokenizer", str(tokenizer_json), "--data.max_len", "16", "--run.name"),
    ]
    quick = [
        "--trainer.max_epochs",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--data.micro_batch_size=16",
    ]
    assert main([*arguments, "two", *quick, "--data.global_batch_size=16"]) == 0
    said = capsys.readouterr().out
    scores = result_of(folder / "two")["evaluation"]["test"]
    for name in ("slot_em", "frame_em", "span_f1"):
        parts = [scores[f"{name}/{language}"] for language in ("de", "en")]
        assert scores[name] == pytest.approx(sum(parts) / 2)
    for language in ("de", "en"):
        assert f"\n  {language} " in said
    assert main([*arguments, "one", *quick, "--data.languages", "de"]) == 0
    one = result_of(folder / "one")
    assert (
        one["data"]["splits"]["train"]["num_rows"] == 24 and "slot_em/de" not in one["evaluation"]
    )
    table = folder / "train_EN.tsv"
    table.write_text(table.read_text().replace("praise", "blame", 1))
    again = [*arguments, "two", *quick, "--data.global_batch_size=16"]
    assert f"the train file 2 {table} has changed" in fails(capsys, again)
    assert main([*arguments, "none", *quick, "--data.languages", "xx"]) == 2
    assert "no rows in xx; there are de, en" in capsys.readouterr().err


MISTAKES = {
    "class_path: ponet.PoNetConfig": "class_path: ponet.NoConfig",
    "num_layers: 1": "num_layer: 1",
    "num_heads: 2": "num_heads: 3",
    "hidden_size: 32": "hidden_size: wide",
    "model:": "encoder:",
    "init_args:": "init_args: [",
}


@pytest.mark.parametrize("right", MISTAKES)
def test_a_mistake_in_an_encoder_file_is_one_message(
    right: str, folder: Path, tokenizer_json: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = tag_arguments(folder, tokenizer_json, "ponet")
    path = folder / "ponet.yaml"
    content = path.read_text()
    assert right in content
    path.write_text(content.replace(right, MISTAKES[right]))
    assert str(path) in fails(capsys, arguments)
    assert not (folder / "ponet").exists()


def test_mistakes_in_files_and_options_are_one_message(
    folder: Path, tokenizer_json: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = tag_arguments(folder, tokenizer_json, "mixer")
    train = folder / "train.jsonl"
    content = train.read_text()
    for line, message in (
        ('{"words": ["a", "b"], "tags": ["O"], "label": "x"}', "51: 2 words but 1 tags"),
        ('{"words": ["a"], "tags": ["Q-x"], "label": "x"}', "51: tag 'Q-x' of word 0"),
        ('{"words": ["a"], "label": "x"}', "51: the text has no tags"),
        ('{"words": ["a"], "tags": ["O"]}', "51: the text has no label but others have"),
        ('{"words": [], "tags": []}', "51: an empty word, or none"),
        ('{"words": ["\\ud800"], "tags": ["O"], "label": "x"}', "51: 'text' holds half"),
        ("{", "51: is not JSON"),
    ):
        train.write_text(f"{content}{line}\n")
        found = fails(capsys, arguments)
        assert message in found and str(train) in found
    train.write_text(content)
    for options, message in (
        (("--model.encoder", "gone.yaml"), "gone.yaml: no such file"),
        (("--model.tokenizer", ""), "give a tokenizer.json with --model.tokenizer"),
        (("--model.tokenizer", "gone.json"), "--model.tokenizer gone.json: no such file"),
        (("--data.text", "words"), "data.kind is tags"),
        (("--model.decoder", "viterbi"), "model.decoder"),
        (("--model.decoder", "crf", "--data.targets", "label"), "has no tags of words here"),
        (("--model.class_weights", "balanced", "--data.targets", "tags"), "which needs classes"),
        (("--data.languages", "de"), "data.languages; leave it out"),
        (("--data.score", "accuracy"), "allowed are slot_em"),
        (("--data.kind", "classification", "--data.targets", "tags"), "data.targets"),
    ):
        assert message in fails(capsys, [*arguments, *options]), options
    assert not (folder / "mixer").exists()


def test_a_vocabulary_that_is_not_the_bundles_is_refused(
    folder: Path, fit, capsys: pytest.CaptureFixture[str]
):
    run = fit("mixer")
    path = run / "classifier" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]
    path.write_text(json.dumps(content))
    said = fails(capsys, ["test", "--run.root", str(folder), "--run.name", "mixer"])
    assert "tokenizer.json" in said


def test_a_bundle_is_tagged_with_its_own_tokenizer(bundle: Path, folder: Path, fit, capsys):
    options = ("--model.encoder", str(bundle), "--model.tokenizer", "")
    result = result_of(fit("ponet", *options))
    assert (
        not result["encoder"]["random_init"]
        and result["evaluation"]["test"]["token_accuracy"] > 0.3
    )
    arguments = tag_arguments(folder, bundle / "tokenizer.json", "ponet")
    assert "comes with a tokenizer" in fails(
        capsys, [*arguments, "--model.encoder", str(bundle), "--run.name", "x"]
    )


def test_a_grid_compares_encoders_from_files(
    folder: Path, tokenizer_json: Path, capsys: pytest.CaptureFixture[str]
):
    from finetune.grid import run_grid
    from training.reports.command import run_finetuning_report

    for number, split in enumerate(("train", "validation")):
        write_tagged(folder / f"{split}.jsonl", num_rows=32, seed=number)
    run_grid([
        *f"--tasks own --lrs 5e-3 --batch_sizes 16 --seeds 1 2 --output {folder}/grid".split(),
        *f"--encoder {encoder_file(folder, 'mixer')} --encoder".split(),
        *f"{encoder_file(folder, 'ponet')} --fit.data.train {folder}/train.jsonl".split(),
        *f"--fit.data.validation {folder}/validation.jsonl --fit.data.kind tags".split(),
        *f"--fit.data.max_len 16 --fit.model.tokenizer {tokenizer_json}".split(),
        *"--fit.trainer.max_epochs 1 --fit.trainer.accelerator cpu --in_process true".split(),
    ])  # fmt: skip
    assert "trials done: 4 of 4" in capsys.readouterr().out
    run_finetuning_report([str(folder / "grid")])
    said = capsys.readouterr().out
    assert all(f"| own | {name} | 2 |" in said for name in ("mixer", "ponet"))
