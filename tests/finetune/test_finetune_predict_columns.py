"""`predict`: what becomes of kept columns, and of rows without any content."""

import csv
import json
from pathlib import Path

import pytest
from finetune_runs import json_lines
from test_finetune_artifact import classifier, info, save_classifier

from finetune.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "classifier"
    return save_classifier(folder, classifier(), info(), tokenizer_json=tokenizer_json)


def predict(model: Path, rows: Path, *options: str) -> list[dict]:
    output = rows.with_name("predictions.jsonl")
    arguments = ["--model", str(model), "--input", str(rows), "--output", str(output)]
    assert main(["predict", *arguments, *options]) == 0
    return json_lines(output)


def test_a_kept_column_that_some_rows_lack_is_null_there(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.jsonl"
    rows = [{"text": "good"}, {"text": "bad", "id": 7, "m": {"x": 1}}, {"text": 3}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = predict(model, path, "--keep", "id,m.x")
    kept = [{"id": None, "m.x": None}, {"id": 7, "m.x": 1}, {"id": None, "m.x": None}]
    assert [answer["input"] for answer in answers] == kept
    assert [bool(answer["label"]) for answer in answers] == [True, True, False]
    capsys.readouterr()
    arguments = ["--model", str(model), "--input", str(path), "--output", f"{path}.csv"]
    assert main(["predict", *arguments, "--keep", "id"]) == 0
    assert [line.split(",")[1] for line in Path(f"{path}.csv").read_text().splitlines()] == [
        *("id", "", "7", "")
    ]
    capsys.readouterr()
    assert main(["predict", *arguments, "--keep", "id,idd"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "new.jsonl: no row has a column 'idd'; the first one has 'text'. Name" in said


def test_numbers_that_are_not_finite_are_kept_as_null(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "a", "id": NaN, "l": [1, {"x": -Infinity}]}\n')
    (answer,) = predict(model, path, "--keep", "id,l")
    assert answer["input"] == {"id": None, "l": [1, {"x": None}]}
    table = tmp_path / "out.csv"
    arguments = ["--model", str(model), "--input", str(path), "--output", str(table)]
    assert main(["predict", *arguments, "--keep", "l"]) == 0
    with table.open(newline="") as file:
        assert list(csv.reader(file))[1][1] == '[1, {"x": null}]'


def test_the_empty_rows_of_a_spreadsheet_are_left_out_and_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.csv"
    path.write_text("id,text,\n1,good,\n,,\n2,,\n , ,\n3,bad,\n,,\n")
    answers = predict(model, path, "--keep", "id")
    assert [answer["input"]["id"] for answer in answers] == ["1", "2", "3"]
    assert [answer["line"] for answer in answers if "error" in answer] == [4]
    said = capsys.readouterr()
    assert "3 rows: " in said.out and "\n3 rows without any content left out" in said.out
    assert "1 row could not be labelled" in said.err
