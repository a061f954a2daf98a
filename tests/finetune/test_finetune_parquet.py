"""A user's own rows in Parquet files: read as those of JSONL, and faults named with their row."""

import datetime
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finetune_runs import json_lines
from test_finetune_artifact import classifier, info, save_classifier

from data_prep import parquet
from data_prep.table_rows import read_table
from finetune.cli import main
from finetune.sentences.files import read_documents
from finetune.tagging.files import has_tagged_layout, read_tagged
from finetune.tasks.own import OwnFiles
from finetune.tasks.registry import load_task

COLUMNS = {"text": ["good", "bad", "né", "poor"], "label": [10, 9, 10, 9]}


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def task_rows(path: Path) -> tuple[Any, ...]:
    task = load_task("own", own=OwnFiles(train=str(path), validation=str(path)))
    return task.spec.labels, task.splits["train"].rows


def test_rows_are_those_of_jsonl(tmp_path: Path) -> None:
    lines = map(json.dumps, pa.table(COLUMNS).to_pylist())
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    expected = task_rows(tmp_path / "t.jsonl")
    assert expected[0] == ("9", "10")
    path = write(tmp_path / "t.parquet", COLUMNS)
    assert task_rows(path) == expected
    (tmp_path / "T.PARQUET.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert task_rows(tmp_path / "T.PARQUET.gz") == expected


def test_values_stay_as_they_are_and_categories_are_their_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 2)
    columns = {
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
        "n": [1, None, 3],
        "list": [["x"], [], None],
        "inner": [{"t": "u"}, {"t": None}, None],
    }
    rows = list(read_table(write(tmp_path / "r.parquet", columns), is_own=True))
    assert rows == [
        (1, {"kind": "a", "n": 1, "list": ["x"], "inner": {"t": "u"}}),
        (2, {"kind": "b", "n": None, "list": [], "inner": {"t": None}}),
        (3, {"kind": "a", "n": 3, "list": None, "inner": None}),
    ]


def test_faults_are_named_with_file_and_row(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", COLUMNS)
    content = path.read_bytes()
    path.write_bytes(content[:40])
    with pytest.raises(ValueError, match=r"r\.parquet: cannot be read as Parquet"):
        list(read_table(path))
    (tmp_path / "r.parquet.gz").write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(ValueError, match=r"r\.parquet\.gz: cannot be read as Parquet"):
        list(read_table(tmp_path / "r.parquet.gz"))
    not_utf8 = pa.array([b"a", b"b", b"caf\xe9"]).cast(pa.string(), safe=False)
    with pytest.raises(ValueError, match=r"r\.parquet, row 3: 'text' cannot be read .*UTF-8"):
        list(read_table(write(path, {"text": not_utf8})))
    pq.write_table(pa.table([pa.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(ValueError, match="a column name occurs twice"):
        list(read_table(path))
    with pytest.raises(ValueError, match="has no rows"):
        list(read_table(write(path, {"text": pa.array([], pa.string())})))
    with pytest.raises(ValueError, match=r"r\.parquet, row 2: 'text' is null"):
        task_rows(write(path, {"text": ["a", None], "label": [0, 1]}))


def test_predict_answers_every_row_and_keeps_columns(
    tokenizer_json: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_classifier(tmp_path / "c", classifier(), info(), tokenizer_json=tokenizer_json)
    day = datetime.date(2020, 2, 1)
    columns = {"text": ["good film", None, "bad"], "day": [day] * 3, "raw": [b"x"] * 3}
    path = write(tmp_path / "new.parquet", columns)
    for ending in (".jsonl", ".csv"):
        output = tmp_path / f"out{ending}"
        arguments = ["--model", str(model), "--input", str(path), "--output", str(output)]
        assert main(["predict", *arguments, "--keep", "day,raw"]) == 0
    assert "the first is row 2: 'text' is null" in capsys.readouterr().err
    answers = json_lines(tmp_path / "out.jsonl")
    assert [answer["line"] for answer in answers] == [1, 2, 3]
    assert answers[0]["input"] == {"day": "2020-02-01", "raw": "b'x'"}
    assert answers[1]["error"] == "'text' is null; a text is needed"
    assert "2020-02-01" in output.read_text().splitlines()[1]
    write(path, {"text": [None]})
    assert main(["predict", *arguments]) == 2
    assert "new.parquet, row 1: 'text' is null" in capsys.readouterr().err


def test_words_with_tags_and_sentences_with_labels_are_read(tmp_path: Path) -> None:
    columns = {"words": [["a", "b"], ["c"]], "tags": [["O", "B-x"], ["O"]]}
    path = write(tmp_path / "tags.parquet", columns)
    first, second = read_tagged(path, Counter())
    assert (first.words, first.tags) == (("a", "b"), ("O", "B-x")) and second.line == 2
    assert not has_tagged_layout(path)
    columns["tags"][1] = ["O", "O"]
    with pytest.raises(ValueError, match=r"tags\.parquet, row 2"):
        read_tagged(write(path, columns), Counter())
    columns = {"sentences": [["A b.", "C."], ["D."]], "labels": [[1, 0], [0, 1]]}
    with pytest.raises(ValueError, match=r"s\.parquet, row 2"):
        read_documents(write(tmp_path / "s.parquet", columns), "labels", Counter())
    columns["labels"][1] = [0]
    first, _ = read_documents(write(tmp_path / "s.parquet", columns), "labels", Counter())
    assert (first.words, first.tags) == (("A b.", "C."), ("1", "0"))


def test_lists_of_texts_and_fields_inside_of_a_column_are_read(tmp_path: Path) -> None:
    columns = {"meta": [{"text": ["a", "b"]}, {"text": ["c"]}], "label": [0, 1]}
    path = str(write(tmp_path / "t.parquet", columns))
    task = load_task("own", own=OwnFiles(train=path, validation=path, text="meta.text"))
    assert [row.text for row in task.splits["train"].rows] == ["a\n\nb", "c"]
