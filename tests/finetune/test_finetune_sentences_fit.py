"""A fit on labelled sentences: learning, windows, resuming, scoring again, predicting, mistakes."""

import csv
import json
import re
from pathlib import Path

import pytest
from finetune_runs import (
    FaultAt,
    assert_same_story,
    interrupt,
    json_lines,
    result_of,
    with_callback,
)
from finetune_sentences import document_options, fit_documents, write_documents

from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.outcome import fit_lines
from finetune.predict import Predictor
from ponet.cli import main as ponet_main

LEARNS = ("--trainer.max_epochs", "8", "--model.dropout_prob", "0")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    """A PoNet that reads documents in windows of 14 tokens."""
    folder = tmp_path_factory.mktemp("labeller")
    assert fit_documents(folder, tokenizer_json, "ponet") == 0
    return folder / "ponet"


@pytest.mark.parametrize(
    ("name", "decoder", "max_len"),
    [("ponet", "independent", 64), ("bert", "crf", 64), ("mixer", "independent", 16)],
)
def test_labels_of_sentences_are_learned_by_any_encoder(
    name: str, decoder: str, max_len: int, tmp_path: Path, tokenizer_json: Path
):
    options = ("--model.decoder", decoder, "--data.max_len", str(max_len), *LEARNS)
    assert fit_documents(tmp_path, tokenizer_json, name, *options) == 0
    result = result_of(tmp_path / name)
    scores = result["evaluation"]["test"]
    assert result["kind"] == "sentences" and result["score"] == ["border_f1"]
    assert scores["border_f1"] == scores["accuracy"] == 1 and scores["pk"] == 0
    assert result["majority"]["test"]["border_f1"] == 0 and scores["num_rows"] == 30


def test_longer_documents_are_read_in_windows_and_counted(labeller: Path):
    data = result_of(labeller)["data"]["splits"]["test"]
    (what,) = data["repairs"]
    assert "windows more than documents" in what and data["num_rows"] == 30
    assert data["num_sentences"] == sum(data["labels"].values()) > 30
    assert result_of(labeller)["evaluation"]["test"]["num_rows"] == 30
    said = "\n".join(fit_lines(result_of(labeller), labeller))
    for label, count in data["labels"].items():
        assert re.search(rf"  {label} .*   {count} sentences", said)


def test_an_interrupted_fit_equals_one_that_was_left_alone(
    tmp_path: Path, tokenizer_json: Path, monkeypatch: pytest.MonkeyPatch
):
    short = ("--data.micro_batch_size", "4", "--trainer.max_epochs", "2")
    document_options(tmp_path, num_rows=40)
    assert fit_documents(tmp_path, tokenizer_json, "ponet", *short) == 0
    cut = (*short, "--run.name", "cut")
    with_callback(monkeypatch, FaultAt(interrupt, epoch=1, batch=5))
    assert fit_documents(tmp_path, tokenizer_json, "ponet", *cut) == 130
    with_callback(monkeypatch, None)
    assert fit_documents(tmp_path, tokenizer_json, "ponet", *cut) == 0
    assert_same_story(tmp_path / "cut", tmp_path / "ponet")


def test_validate_and_test_give_the_scores_and_the_threshold_of_the_fit(labeller: Path):
    for command in ("validate", "test"):
        assert main([command, "--run.root", str(labeller.parent), "--run.name", "ponet"]) == 0
    for record in json_lines(labeller / "evaluations.jsonl"):
        for split, values in record["evaluation"].items():
            expected = result_of(labeller)["evaluation"][split]
            assert values == pytest.approx(expected, abs=1e-6)
    assert len(load_classifier(labeller).info.thresholds) == 1


def predicted(model: Path, rows: Path, output: Path) -> Path:
    arguments = ["--model", str(model), "--input", str(rows), "--output", str(output)]
    assert main(["predict", *arguments]) == 0
    return output


def test_a_prediction_has_labels_and_borders_for_every_sentence(
    labeller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = write_documents(tmp_path / "new.jsonl", num_rows=9, seed=7)
    with rows.open("a") as file:
        file.write('{"text": "It was good. It was bad."}\n{"sentences": ["\\ud800"]}\n')
        file.write('{"sentences": ["good film"]}\n')
    answers = json_lines(predicted(labeller, rows, tmp_path / "out.jsonl"))
    assert "read in several windows" in capsys.readouterr().out
    *own, text, bad, alone = answers
    for answer, row in zip(own, json_lines(rows)[:9], strict=True):
        assert answer["sentences"] == row["sentences"]
        assert len(answer["labels"]) == len(row["sentences"])
        changes = [
            n for n in range(1, len(row["labels"])) if len({*answer["labels"][n - 1 : n + 1]}) > 1
        ]
        assert answer["borders"] == changes
    assert max(answer["windows"] for answer in own) > 1
    assert text["sentences"] == ["It was good.", "It was bad."] and alone["borders"] == []
    assert bad["labels"] is None and "surrogate" in bad["error"]
    assert [a | {"line": 0} for a in Predictor(load_classifier(labeller))(["good film"])] == [
        alone | {"line": 0}
    ]
    (empty,) = Predictor(load_classifier(labeller))([""])
    assert empty["error"] == "has no sentences; one or more are needed"
    with predicted(labeller, rows, tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [json.loads(row["labels"]) for row in table[:9]] == [a["labels"] for a in own]


def test_blank_sentences_keep_their_place_in_a_prediction(
    labeller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (row,) = json_lines(write_documents(tmp_path / "one.jsonl", num_rows=1, seed=8))
    filled = row["sentences"]
    spread = ["", *(one for sentence in filled for one in (sentence, " \u00a0"))]
    (tmp_path / "new.jsonl").write_text(
        "\n".join(json.dumps({"sentences": one}) for one in (filled, spread, ["", " "]))
    )
    whole, wide, bad = json_lines(
        predicted(labeller, tmp_path / "new.jsonl", tmp_path / "out.jsonl")
    )
    count = len(filled)
    assert f"{count + 1} sentences without a character have no label" in capsys.readouterr().out
    assert wide["sentences"] == [one.strip() for one in spread]
    assert wide["labels"][1::2] == whole["labels"] and wide["labels"][::2] == [None] * (count + 1)
    assert whole["borders"] and wide["borders"] == [2 * place + 1 for place in whole["borders"]]
    assert bad["labels"] is None and "has no sentences" in bad["error"]


def test_weights_in_8_bits_label_sentences_and_other_exports_are_refused(
    labeller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["export", str(labeller), "--output", str(tmp_path / "out"), "--format"]
    assert ponet_main([*command, "bits8"]) == 0
    assert load_classifier(tmp_path / "out").info == load_classifier(labeller).info
    for form in ("onnx", "huggingface"):
        capsys.readouterr()
        assert ponet_main([*command, form]) == 2
        assert "labels sentences" in capsys.readouterr().err


def test_linear_models_say_what_is_free(tmp_path: Path):
    pytest.importorskip("sklearn")
    document_options(tmp_path, num_rows=40)
    begins = tmp_path / "begins"
    begins.mkdir()
    for split in ("train", "validation", "test"):
        rows = json_lines(tmp_path / f"{split}.jsonl")
        for row in rows:
            names = row["labels"]
            row["labels"] = [int(n > 0 and names[n] != names[n - 1]) for n in range(len(names))]
        (begins / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, options in (
        ("sections", document_options(tmp_path)),
        ("linear", [*document_options(begins), "--data.marks", "begins"]),
        ("dips", [*document_options(begins), "--data.marks", "begins", "--sentences", "dips"]),
    ):
        run = ["--run.root", str(tmp_path), "--run.name", name]
        assert main(["baseline", *options, *run]) == 0
        result = result_of(tmp_path / name)
        assert result["evaluation"]["test"]["border_f1"] > 0.5, name
        title = "cosine dips" if name == "dips" else "of 3 sentences + linear"
        assert result["encoder"]["name"] == f"TF-IDF {title}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.segments", "paragraphs"], "sentences are labelled, which are the segments"),
        (["--model.decoder", "bio"], "decoder is bio, but own has labels of sentences"),
        (["--model.class_weights", "balanced"], "chosen on validation, are for rare ones"),
        (["--model.thresholds", "per_label"], "not several labels a text here"),
        (["--data.label", "labels"], "leave out data.text, data.text_pair and data.label"),
        (["--data.kind", "tags"], "data.kind is tags, which has no use for it"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(
    options: list[str], message: str, tmp_path: Path, tokenizer_json: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    document_options(tmp_path, num_rows=4)
    assert fit_documents(tmp_path, tokenizer_json, "ponet", *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message in line
