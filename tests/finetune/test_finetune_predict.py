"""`predict`: order, streaming, lengths, and what a line says."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finetune_runs import json_lines
from test_finetune_artifact import NUM_TOKENS, classifier, info, save_classifier

from data_prep.command import counted
from data_prep.table_rows import read_table
from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.predict import BATCHES_AT_ONCE, Predictor
from finetune.tasks.rows import JOINED
from finetune.tasks.spec import Row
from ponet import FNetConfig, SequenceClassifier
from ponet.tokenizer import ids_digest

WORDS = "good great fine bad awful poor a film it was the".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "classifier"
    return save_classifier(folder, classifier(), info(), tokenizer_json=tokenizer_json)


def texts(number: int) -> list[str]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 22, (number,), generator=generator).tolist()
    return [" ".join(WORDS[(row + k) % 11] for k in range(n)) for row, n in enumerate(lengths)]


def write_rows(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def predict(model: Path, rows: Path, *options: str) -> list[dict]:
    output = rows.with_name("predictions.jsonl")
    arguments = ["--model", str(model), "--input", str(rows), "--output", str(output)]
    assert main(["predict", *arguments, *options]) == 0
    return json_lines(output)


def test_every_row_is_answered_in_order_as_if_it_were_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = texts(60)
    answers = predict(model, write_rows(tmp_path / "new.jsonl", rows), "--batch_size", "2")
    assert [answer["line"] for answer in answers] == list(range(1, 61))
    num_cut = sum(len(row.split()) > 14 for row in rows)
    assert 0 < num_cut < 60
    assert f"{num_cut} of them were cut to 16 tokens" in capsys.readouterr().out
    predictor = Predictor(load_classifier(model), source="rows")
    for answer, row in zip(answers, rows, strict=True):
        (alone, is_cut), *_ = predictor.stream(iter([Row(answer["line"], "", row, "", None)]))
        assert answer["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert is_cut == (len(row.split()) > 14)


def test_the_batch_size_changes_nothing(model: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "new.jsonl", texts(40))
    one, many = (predict(model, path, "--batch_size", size) for size in ("1", "64"))
    for a, b in zip(one, many, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_rows_are_read_only_as_far_as_needed(model: Path) -> None:
    num_read = 0

    def rows() -> Iterator[Row]:
        nonlocal num_read
        while True:
            num_read += 1
            yield Row(num_read, "", "good film", "", None)

    stream = Predictor(load_classifier(model), source="rows", batch_size=2).stream(rows())
    next(stream)
    assert num_read == 2 * BATCHES_AT_ONCE


def test_a_greater_length_reads_more(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "new.jsonl", [" ".join(["good"] * 14 + ["bad"] * 50)])
    cut, whole = predict(model, path), predict(model, path, "--max_len", "99")
    assert "were cut" in capsys.readouterr().out
    assert cut[0]["probabilities"] != whole[0]["probabilities"]
    predict(model, path, "--max_len", "66")
    assert "were cut" not in capsys.readouterr().out


def test_a_regression_gives_scores_and_pairs_are_read(tokenizer_json: Path, tmp_path: Path) -> None:
    told = info(labels=(), text="a", text_pair="b", has_pair=True)
    model = classifier(num_labels=1)
    save_classifier(tmp_path / "r", model, told, tokenizer_json=tokenizer_json)
    path = tmp_path / "new.csv"
    path.write_text("a,b,c\ngood,bad,fine\nthe film,a film,poor film\n")
    answers = predict(tmp_path / "r", path)
    assert [sorted(answer) for answer in answers] == [["line", "score"]] * 2
    others = predict(tmp_path / "r", path, "--text_pair", "c")
    assert others[0]["score"] != answers[0]["score"]


@pytest.mark.parametrize(
    "line", ["{good} film", "a good B-film", "-DOCSTART- bad", "bad\u2028film"]
)
def test_every_line_of_a_text_file_is_a_text(model: Path, tmp_path: Path, line: str) -> None:
    path = tmp_path / "new.txt"
    expected = predict(model, write_rows(tmp_path / "new.jsonl", [line, "poor film"]))
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes(f"{line}{end}poor film{end}".encode())
        found = predict(model, path)
        assert [answer["line"] for answer in found] == [1, 2]
        assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]


def test_mistakes_are_one_line_and_leave_no_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, damaged, empty = (tmp_path / name for name in ("new.csv", "d.csv", "e.csv"))
    path.write_text("text\ngood\n \n")
    damaged.write_bytes(b"text\ngood\nb\xe9d\n")
    empty.write_text('text\n""\n""\n')
    files = ["--input", str(path), "--output", str(tmp_path / "p.jsonl")]
    for options, message in (
        (["--model", "none"], "none: holds no classifier"),
        (["--model", str(model), "--text", "b"], "line 2: no column 'b'"),
        (["--model", str(model), "--keep", "id"], "line 2: no column 'id'"),
        (["--model", str(model), "--output", str(tmp_path / "p.txt")], "must end in .jsonl, .csv"),
        (["--model", str(model), "--text_pair", "b"], "labels single texts"),
        (["--model", str(model), "--batch_size", "0"], "batch_size is 0"),
        (["--model", str(model), "--max_len", "3"], "max_len is 3"),
        (["--model", str(model), "--output", str(path)], "new.csv is the input itself"),
        ([], "model"),
        (["--model", str(model), "--input", str(damaged)], "line 3: is not UTF-8"),
        (["--model", str(model), "--input", str(empty)], "line 2: 'text' is empty"),
    ):
        assert main(["predict", *files, *options]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and message in lines[0]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["d.csv", "e.csv", "new.csv"]


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_streams_and_columns_of_text_files_are_refused(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / ("out.jsonl" if command == "predict" else "out.html")
    arguments = [command, "--model", str(model), "--output", str(output)]
    os.mkfifo(tmp_path / "pipe.csv")
    for given in ("-", "/dev/stdin", str(tmp_path / "pipe.csv")):
        assert main([*arguments, "--input", given]) == 2
        assert f"--input {given} is a stream, but the input is read" in capsys.readouterr().err
    path = tmp_path / "new.txt"
    path.write_text("good film\n")
    assert main([*arguments, "--input", str(path), "--text", "body"]) == 2
    said = capsys.readouterr().err
    assert f"--text body would do nothing: {path} holds a text in every line" in said


@pytest.mark.parametrize(
    ("command", "folder", "output"),
    [
        ("predict", "out.jsonl", "out.jsonl"),
        ("explain", "out.html", "out.html"),
        ("explain", "out.jsonl", "out.html"),
    ],
)
def test_an_output_that_is_a_folder_is_refused_before_a_row_is_computed(
    command: str, folder: str, output: str, model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Predictor, "answers", None)
    (tmp_path / folder).mkdir()
    rows = write_rows(tmp_path / "new.jsonl", ["good film"])
    files = ["--input", str(rows), "--output", str(tmp_path / output)]
    assert main([command, "--model", str(model), *files]) == 2
    assert f"{tmp_path / folder} is a folder; name a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", folder]


@pytest.mark.parametrize(
    ("name", "content", "bad"),
    [
        ("new.csv", 'id,text\n1,good\n2," "\n3,bad\n4,\u200b\n', {3: "is empty", 5: "tokenizer"}),
        ("new.csv", "id,text\n1,good\n2\n3,bad\n", {3: "has 1 columns"}),
        ("new.tsv", "id\ttext\n1\tgood\n2\tbad\tfilm\n3\tbad\n", {3: "has 3 columns"}),
        (
            "new.jsonl",
            '{"id": 1, "text": "a"}\n{"id": 2, "text": null}\n{"id"',
            {2: "null", 3: "JSON"},
        ),
        (
            "new.jsonl",
            '{"id": 1}\n{"id": 2, "text": "a"}\n[1]',
            {1: "no column", 3: "no JSON object"},
        ),
    ],
)
def test_a_row_that_cannot_be_labelled_costs_nothing_but_itself(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name, content, bad
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    answers = predict(model, path, "--keep", "id")
    errors = {answer["line"]: answer["error"] for answer in answers if "error" in answer}
    assert list(errors) == list(bad)
    assert all(text in errors[line] for line, text in bad.items())
    assert all(answer["label"] is None for answer in answers if "error" in answer)
    first = next(iter(bad))
    told = capsys.readouterr().err
    assert f"{counted(len(bad), 'row(s)')} could not be labelled" in told
    assert f"the first is line {first}: {errors[first]}" in told
    left = predict(model, path, "--bad_rows", "skip", "--keep", "id")
    assert left == [answer for answer in answers if "error" not in answer]
    assert len(left) == len(answers) - len(bad) > 0


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables_are_written_with_the_columns_that_are_kept(
    model: Path, tmp_path: Path, ending: str, separator: str
) -> None:
    path, output = tmp_path / "new.csv", tmp_path / f"labels.{ending}"
    path.write_text('id,text\nx7,"good,\nfilm"\nx8, \n')
    arguments = ["--model", str(model), "--input", str(path), "--output", str(output)]
    assert main(["predict", *arguments, "--keep", "id, text"]) == 0
    with output.open(newline="", encoding="utf-8") as file:
        header, first, second = csv.reader(file, delimiter=separator)
    assert header == ["line", "id", "text", "label", "probability no", "probability yes", "error"]
    assert first[:3] == ["2", "x7", "good,\nfilm"] and first[3] in ("no", "yes")
    assert float(first[4]) + float(first[5]) == pytest.approx(1.0) and first[6] == ""
    assert second[:6] == ["4", "x8", " ", "", "", ""] and "is empty" in second[6]


def test_no_two_columns_of_a_table_are_called_the_same(model: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "new.jsonl", tmp_path / "labels.csv"
    path.write_text('{"line": "L7", "text": "good film", "label": ["no", "über"]}\n')
    arguments = ["--model", str(model), "--input", str(path), "--output", str(output)]
    assert main(["predict", *arguments, "--keep", "line,label"]) == 0
    ((_, row),) = read_table(output, is_own=True)
    assert (row["line"], row["input line"], row["input label"]) == ("1", "L7", '["no", "über"]')
    assert row["label"] in ("no", "yes")


def test_columns_that_are_kept_twice_stand_there_once_and_two_of_one_name_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "new.csv", tmp_path / "labels.csv"
    path.write_text("id,text,label,input label\n7,good film,x,y\n")
    arguments = ["--model", str(model), "--input", str(path), "--output"]
    assert main(["predict", *arguments, str(output), "--keep", "id,label, id"]) == 0
    with output.open(newline="") as file:
        header, row = csv.reader(file)
    assert header[:4] == ["line", "id", "input label", "label"] and row[1:3] == ["7", "x"]
    output.unlink()
    for keep in ("label,input label", "input label,label"):
        assert main(["predict", *arguments, str(output), "--keep", keep]) == 2
        said = capsys.readouterr().err
        assert "--keep label,input label: both would be the column 'input label'" in said
    assert not output.exists()
    assert predict(model, path, "--keep", "label,input label")[0]["input"] == {
        "label": "x",
        "input label": "y",
    }


def test_what_fnet_says_of_a_text_does_not_depend_on_the_others(
    tokenizer_json: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sizes = FNetConfig.preset(
        "nano", vocab_size=NUM_TOKENS, num_layers=1, hidden_size=32, ffn_size=64, max_positions=24
    )
    network = SequenceClassifier(sizes, num_labels=2).eval()
    folder = save_classifier(tmp_path / "c", network, info(), tokenizer_json=tokenizer_json)
    path = write_rows(tmp_path / "new.jsonl", texts(40))
    one, many = (predict(folder, path, "--batch_size", size) for size in ("1", "64"))
    for a, b in zip(one, many, strict=True):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)
    encoder = load_classifier(folder).encoder
    rows = [Row(1, "0", text, "", None) for text in ("good", "good film it was")]
    alone, padded = (encoder.batch(encoder.encode(rows[:end], "rows")) for end in (1, 2))
    with torch.no_grad():  # padding does change what the model itself says
        assert not torch.allclose(network(alone)[0], network(padded)[0], atol=1e-4)


def test_progress_is_told_while_it_takes_long(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "new.jsonl", texts(5))
    predict(model, path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("ponet.inference._QUIET_S", 0.0)
    monkeypatch.setattr("finetune.predict.BATCHES_AT_ONCE", 2)
    predict(model, path, "--batch_size", "1")  # two at once: the rate is that of whole chunks
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" rows")[0] for line in lines] == ["2 of 5", "4 of 5"]


def test_texts_that_are_none_are_named_in_python(model: Path) -> None:
    predictor = Predictor(load_classifier(model))
    with pytest.raises(ValueError, match=r"texts\[1\] is a float; a str is needed"):
        predictor(["good", float("nan")])  # what an empty cell of a data frame is
    with pytest.raises(TypeError, match="texts is a generator, .* such as list"):
        predictor(text for text in ["good"])


def test_texts_are_labelled_in_python(model: Path) -> None:
    predictor = Predictor(load_classifier(model))
    answers = predictor(["good film", "", "bad"])
    assert [answer["line"] for answer in answers] == [1, 2, 3]
    assert answers[0]["label"] in ("no", "yes") and answers[1]["label"] is None
    assert answers[2] == predictor(["bad"])[0] | {"line": 3}
    for texts in ("good", ["good"]):
        with pytest.raises(ValueError, match="takes one list of texts"):
            predictor(texts, ["bad"] if isinstance(texts, list) else None)


@pytest.mark.parametrize("change", ["larger", "permuted"])
def test_another_tokenizer_than_that_of_training_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    folder = shutil.copytree(model, tmp_path / "c")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    if change == "larger":
        vocab |= {f"word{n}": len(vocab) + n for n in range(9)}
    else:
        vocab["good"], vocab["bad"] = vocab["bad"], vocab["good"]
    path.write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config["tokenizer_digest"] = ids_digest(model / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(config))
    rows = write_rows(tmp_path / "new.jsonl", ["good"])
    arguments = ["--model", str(folder), "--input", str(rows), "--output", f"{rows}.jsonl"]
    assert main(["predict", *arguments]) == 2
    message = "has 28 entries, but the model" if change == "larger" else "is not the tokenizer"
    assert message in capsys.readouterr().err


def test_lists_of_strings_are_paragraphs_and_dotted_names_are_fields_inside(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"m": {"text": value, "id": 7}} for value in (["good", "film"], "good film", [3])]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined, plain, bad = predict(model, path, "--text", "m.text", "--keep", "m.id")
    assert joined["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)
    assert bad["error"] == "'m.text' is [3]; a text is needed"
    assert [answer["input"] for answer in (joined, plain, bad)] == [{"m.id": 7}] * 3
    assert f"1 {JOINED}" in capsys.readouterr().out
