"""`predict` for a model that tags words: spans lie where the text has them."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from finetune_runs import json_lines, result_of
from finetune_taggers import run_tag_fit

from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.predict import Predictor
from finetune.tagging.files import read_tagged
from finetune.tagging.predictions import tag_answer
from finetune.tagging.scores import Parse, tag_scores


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    """A hashed mixer that has learned the grammar."""
    folder = tmp_path_factory.mktemp("tagger")
    options = ("--trainer.max_epochs", "6", "--model.decoder", "crf")
    return run_tag_fit(folder, tokenizer_json, "mixer", *options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    """A PoNet on word pieces that gives tags and no label."""
    folder = tmp_path_factory.mktemp("alone")
    options = ("--trainer.max_epochs", "4", "--data.targets", "tags")
    return run_tag_fit(folder, tokenizer_json, "ponet", *options)


@pytest.fixture(scope="module", params=["mixer", "ponet"])
def labeller(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path
) -> Path:
    """A classifier of the labels of tagged texts alone."""
    folder = tmp_path_factory.mktemp("labeller")
    return run_tag_fit(folder, tokenizer_json, request.param, "--data.targets", "label")


def predict(model: Path, rows: Path, *options: str) -> list[dict]:
    output = rows.with_name("predictions.jsonl")
    arguments = ["--model", str(model), "--input", str(rows), "--output", str(output)]
    assert main(["predict", *arguments, *options]) == 0
    return json_lines(output)


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_spans_have_the_characters_of_the_text_as_it_was_given(tagger: Path, tmp_path: Path):
    text = "  \tIt was  the GOOD\u00a0film,\u3000a bad film!"
    (answer,) = predict(tagger, write(tmp_path / "new.jsonl", {"text": text}))
    assert list(answer) == ["line", "label", "probabilities", "words", "tags", "spans"]
    assert answer["words"] == "It was the GOOD film , a bad film !".split()
    assert len(answer["tags"]) == 10 and answer["label"] == "praise"
    first, *_ = answer["spans"]
    assert first == {"kind": "praise", "start": 11, "end": 24, "text": "the GOOD\u00a0film"}
    assert all(text[span["start"] : span["end"]] == span["text"] for span in answer["spans"])
    assert [row | {"line": 1} for row in Predictor(load_classifier(tagger))([text])] == [answer]


def test_spans_of_hand_made_tags_follow_conlleval_and_end_at_the_cut():
    text = read_tagged_words("a b c d e")
    answer = tag_answer(text, ["I-x", "B-x", "I-y", "O"])
    kinds = [(span["kind"], span["start"], span["end"], span["text"]) for span in answer["spans"]]
    assert kinds == [("x", 0, 1, "a"), ("x", 2, 3, "b"), ("y", 4, 5, "c")]
    assert answer["tags"] == ["I-x", "B-x", "I-y", "O", None]
    (span,) = tag_answer(text, ["B-x", "I-x"])["spans"]
    assert span["text"] == "a b"


def read_tagged_words(words: str):
    from finetune.tagging.predictions import with_words
    from finetune.tasks.spec import Row

    return with_words(Row(1, "", words, "", None)).tagged


def test_words_may_be_called_tokens_as_in_training():
    from finetune.tagging.predictions import row_of_words
    from finetune.tasks.spec import Columns

    row = row_of_words(Columns(text="text"), 3, {"tokens": ["a", "b."], "text": "a  b."})
    assert row.tagged.words == ("a", "b.") and row.tagged.offsets == ((0, 1), (3, 5))
    annotated = {"tokens": [{"text": "a"}], "text": "a b."}  # as Prodigy has them
    assert row_of_words(Columns(text="text"), 3, annotated).tagged.words == ("a", "b", ".")


def test_rows_may_be_lists_of_words_with_or_without_their_text(tagger: Path, tmp_path: Path):
    words = ["the", "good", "film]"]
    rows = write(
        tmp_path / "new.jsonl",
        {"words": words},
        {"words": words, "text": "the  good (film]"},
        {"words": words, "text": "the good film"},
        {"words": "the good"},
        {"words": []},
        {"words": ["good", ""]},
        {"text": " "},
        {"text": "\u0001"},
        {"words": ["\u0001"]},
    )
    answers = predict(tagger, rows)
    joined, found, *bad = answers
    assert joined["words"] == found["words"] == words and joined["tags"] == found["tags"]
    (span,), (there,) = joined["spans"], found["spans"]
    assert span == {"kind": "praise", "start": 0, "end": 14, "text": "the good film]"}
    assert there == {"kind": "praise", "start": 0, "end": 16, "text": "the  good (film]"}
    reasons = (
        *("'film]' does not stand", "a list of strings", "an empty word", "an empty word"),
        "is empty",
    )
    for answer, reason in zip(bad, reasons, strict=False):
        assert reason in answer["error"]
        names = ("label", "probabilities", "words", "tags", "spans")
        assert [answer[name] for name in names] == [None] * 5
    assert [len(answer["tags"]) for answer in bad[5:]] == [1, 1]  # control characters are a word


def test_words_beyond_the_length_have_no_tag_and_are_counted(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = write(tmp_path / "new.jsonl", {"text": "the good film " * 6}, {"text": "a bad film"})
    long, short = predict(tagger, rows)
    assert long["tags"][16:] == [None, None] and None not in long["tags"][:16]
    assert long["spans"][-1]["text"] == "the" and None not in short["tags"]
    said = capsys.readouterr().out
    assert "1 of them were cut to 16 tokens" in said and "2 words were cut off" in said
    arguments = ["--model", str(tagger), "--input", str(rows), "--output", f"{rows}.csv"]
    assert main(["predict", *arguments, "--max_len", "20"]) == 2
    assert "the encoder mixes exactly 16 places" in capsys.readouterr().err


def test_without_labels_there_is_no_label_and_tables_hold_json(alone: Path, tmp_path: Path):
    rows = tmp_path / "new.csv"
    rows.write_text('id,text\n7,"it was, the good film"\n8, \n')
    output = tmp_path / "tags.csv"
    arguments = ["--model", str(alone), "--input", str(rows), "--output", str(output)]
    assert main(["predict", *arguments, "--keep", "id"]) == 0
    with output.open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file)
    assert header == ["line", "id", "words", "tags", "spans", "error"]
    words, tags, spans = map(json.loads, first[2:5])
    assert words == ["it", "was", ",", "the", "good", "film"] and len(tags) == 6
    # The comma is of no training text, so what tag it has is chance: it stands before the span.
    assert spans[-1]["text"] == "the good film" and first[5] == ""
    assert second[2:5] == ["", "", ""] and "is empty" in second[5]
    (answer,) = predict(alone, write(tmp_path / "n.jsonl", {"text": "it was, the good film"}))
    assert answer == {"line": 1, "words": words, "tags": tags, "spans": spans}


@pytest.mark.parametrize("model", ["tagger", "alone"])
def test_predictions_of_the_test_file_score_as_the_fit_says_whatever_the_batch(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
):
    run: Path = request.getfixturevalue(model)
    rows = run.parent / "test.jsonl"
    one, many = (
        predict(run, write(tmp_path / "test.jsonl", *json_lines(rows)), "--batch_size", size)
        for size in ("1", "7")
    )
    assert [answer["tags"] for answer in one] == [answer["tags"] for answer in many]
    has_label = model == "tagger"
    gold = [
        Parse(text.tags or (), text.label if has_label else None)
        for text in read_tagged(rows, Counter())
    ]
    said = [Parse(tuple(answer["tags"]), answer.get("label")) for answer in many]
    expected = result_of(run)["evaluation"]["test"]
    for name, value in tag_scores(gold, said).items():
        assert expected[name] == pytest.approx(value, abs=1e-9)


def test_files_of_tagged_texts_are_read_as_in_training(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    conll, table = tmp_path / "new.conll", tmp_path / "new.tsv"
    conll.write_text("the O\ngood O\nfilm O\n\na O\nbad O\nfilm O\n")
    table.write_text(
        "id\tutterance\tslot_labels\tintent\n1\tthe good film\tO O O\tx\n2\ta bad film\tO O O\tx\n"
    )
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "seq.in").write_text("the good film\na bad film\n")
    expected = [answer["spans"] for answer in predict(tagger, conll)]
    assert [spans[0]["kind"] for spans in expected] == ["praise", "blame"]
    for path in (table, folder):
        assert [answer["spans"] for answer in predict(tagger, path)] == expected
    arguments = ["--model", str(tagger), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", *arguments, "--input", str(conll), "--keep", "id"]) == 2
    assert "has no columns to keep" in capsys.readouterr().err
    conll.write_text("the O\ngood O X\n")
    assert main(["predict", *arguments, "--input", str(conll)]) == 2
    assert "new.conll, line 2: 3 columns" in capsys.readouterr().err
    assert main(["predict", *arguments, "--input", str(tmp_path / "no.conll")]) == 2
    assert "no.conll: no such file" in capsys.readouterr().err


def test_a_classifier_of_texts_takes_no_tagged_files(
    bundle: Path, tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from test_finetune_artifact import classifier, info, save_classifier

    torch.manual_seed(0)
    model = save_classifier(tmp_path / "c", classifier(), info(), tokenizer_json=tokenizer_json)
    path = tmp_path / "new.conll"
    path.write_text("the O\n")
    arguments = ["--model", str(model), "--input", str(path), "--output", str(path) + ".csv"]
    assert main(["predict", *arguments]) == 2
    assert "unknown format" in capsys.readouterr().err


def test_a_classifier_of_labels_alone_reads_what_it_was_trained_on(labeller: Path, tmp_path: Path):
    rows = json_lines(labeller.parent / "test.jsonl")
    rows[0]["text"] = "some other text"
    expected = predict(labeller, write(tmp_path / "new.jsonl", *rows))
    assert not any(answer.keys() - {"line", "label", "probabilities"} for answer in expected)
    right = sum(a["label"] == row["label"] for a, row in zip(expected, rows, strict=True))
    scores = result_of(labeller)["evaluation"]["test"]
    assert right / len(rows) == pytest.approx(scores["accuracy"])
    texts = [" ".join(row["words"]) for row in rows]
    marked = [{"text": t, "tokens": ["x"], "words": "5", "entities": []} for t in texts]
    mtop, multiatis = tmp_path / "new.txt", write_multiatis_of(tmp_path / "new.tsv", rows)
    mtop.write_text("".join(map(mtop_line, texts)))
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "seq.in").write_text("\n".join(texts) + "\n")
    plain = write(tmp_path / "plain.jsonl", *({"text": text} for text in texts))
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(texts))
    for path in (write(tmp_path / "m.jsonl", *marked), mtop, multiatis, folder, plain, lines):
        answers = predict(labeller, path)
        for answer, one in zip(answers, expected, strict=True):
            assert answer["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6), path


def mtop_line(text: str) -> str:
    words, start, spans = text.split(), 0, []
    for word in words:
        spans.append({"start": start, "length": len(word)})
        start += len(word) + 1
    tokens = json.dumps({"tokens": words, "tokenSpans": spans})
    return f"1\tIN:X\t\t{text}\tx\ten_XX\t[IN:X ]\t{tokens}\n"


def write_multiatis_of(path: Path, rows: list[dict]) -> Path:
    lines = ["id\tutterance\tslot_labels\tintent"]
    lines += [f"1\t{' '.join(row['words'])}\t{' '.join(row['tags'])}\tx" for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_damaged_rows_of_a_classifier_of_labels_alone_cost_nothing_else(
    labeller: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = {"words": ["the", "good", "film"], "tags": [1, 2, 0]}
    rows = write(
        tmp_path / "n.jsonl", good, {"words": "the good"}, {"words": []}, {"text": " ", "n": 1}
    )
    first, *bad = predict(labeller, rows)
    assert first["label"]
    reasons = ("a list of strings", "an empty word", "is empty")
    for answer, reason in zip(bad, reasons, strict=True):
        assert reason in answer["error"] and answer["label"] is None
    info = labeller / "classifier" / "config.json"
    config = json.loads(info.read_text())
    assert config["task"].pop("has_words")
    old = tmp_path / "old"
    shutil.copytree(info.parent, old)
    (old / "config.json").write_text(json.dumps(config))
    arguments = ["--model", str(old), "--output", str(tmp_path / "out.jsonl")]
    text = write(tmp_path / "text.jsonl", {"text": "the good film"})
    (answer,) = predict(old, text)
    assert answer["probabilities"] == pytest.approx(first["probabilities"], abs=1e-6)
    assert main(["predict", *arguments, "--input", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err


def test_a_text_file_has_a_text_in_every_line_unless_its_words_have_tags(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = ["it was the good film", "", "a bad film"]
    table = write(tmp_path / "new.jsonl", {"text": lines[0]}, {"text": lines[2]})
    expected = [answer["spans"] for answer in predict(tagger, table)]
    texts = tmp_path / "new.txt"
    texts.write_text("\r\n".join(lines))
    first, empty, last = predict(tagger, texts)
    assert [first["spans"], last["spans"]] == expected
    assert [first["line"], empty["line"], last["line"]] == [1, 2, 3]
    assert empty["error"] and empty["spans"] is None
    assert "1 row could not be labelled" in capsys.readouterr().err
    texts.write_text("a good film B-12\n")
    assert [answer["words"] for answer in predict(tagger, texts)] == [
        ["a", "good", "film", "B", "-", "12"]
    ]
    assert "1 lines of the .txt were read as a text each" in capsys.readouterr().out
    texts.write_text("film\nbad film\n")
    assert [answer["words"] for answer in predict(tagger, texts)] == [["film"], ["bad", "film"]]
    texts.write_text("the O\ngood B-praise\nfilm I-praise\n\nbad O\n")
    assert [answer["words"] for answer in predict(tagger, texts)] == [
        ["the", "good", "film"],
        ["bad"],
    ]
    assert "2 texts of the .txt were read as words with tags" in capsys.readouterr().out
    arguments = ["--model", str(tagger), "--output", str(tmp_path / "out.jsonl"), "--keep", "id"]
    texts.write_text("a bad film\n")
    assert main(["predict", *arguments, "--input", str(texts)]) == 2
    assert "has no columns to keep" in capsys.readouterr().err
