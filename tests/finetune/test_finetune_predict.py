"""`predict`: order, streaming, lengths, and what a line says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from finetune_runs import json_lines
from test_finetune_artifact import classifier, info

from finetune.artifact import load_classifier, save_classifier
from finetune.cli import main
from finetune.predict import BATCHES_AT_ONCE, Predictor
from finetune.tasks.tables import TextRow

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
        (alone, is_cut), *_ = predictor.stream(iter([TextRow(answer["line"], row, "", "")]))
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

    def rows() -> Iterator[TextRow]:
        nonlocal num_read
        while True:
            num_read += 1
            yield TextRow(num_read, "good film", "", "")

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


def test_mistakes_are_one_line_and_leave_no_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text\ngood\n \n")
    files = ["--input", str(path), "--output", str(tmp_path / "p.jsonl")]
    for options, message in (
        (["--model", "none"], "none: holds no classifier"),
        (["--model", str(model)], "line 3: 'text' is empty"),
        (["--model", str(model), "--text_pair", "b"], "labels single texts"),
        (["--model", str(model), "--batch_size", "0"], "batch_size is 0"),
        (["--model", str(model), "--max_len", "3"], "max_len is 3"),
        (["--model", str(model), "--output", str(path)], "new.csv is the input itself"),
        ([], "model"),
    ):
        assert main(["predict", *files, *options]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and message in lines[0]
    assert [found.name for found in tmp_path.iterdir()] == ["new.csv"]
