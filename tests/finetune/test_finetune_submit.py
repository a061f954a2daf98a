"""`submit`: the leaderboard's files, complete and in order, or nothing."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_finetune_artifact import classifier, info, save_classifier

from finetune import submit
from finetune.artifact import load_classifier
from finetune.cli import main
from finetune.tasks.registry import task_named
from finetune.tasks.spec import Row, TaskSpec

SINGLE, PAIR = ("sentence",), ("sentence1", "sentence2")
TEST_FILES = {
    "CoLA/test": SINGLE,
    "SST-2/test": SINGLE,
    "MRPC/test": ("#1 String", "#2 String"),
    "STS-B/test": PAIR,
    "MNLI/test_matched": PAIR,
    "MNLI/test_mismatched": PAIR,
    "QNLI/test": ("question", "sentence"),
    "QQP/test": ("question1", "question2"),
    "RTE/test": PAIR,
    "WNLI/test": PAIR,
    "diagnostic/diagnostic": PAIR,
}
MODELS = ("cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "qqp", "rte", "wnli")
NUM_ROWS = 7
TEXTS = ["good film", "it was awful", "the film", "bad", "a fine film", "poor", "great it was"]
WORDS = {"MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv", "RTE.tsv", "AX.tsv"}

MakeModel = Callable[..., Path]


@pytest.fixture
def small_glue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test file with seven rows, which is what the leaderboard is said to know."""
    for number, (name, columns) in enumerate(TEST_FILES.items()):
        path = tmp_path / "glue_data" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        index = "id" if name.startswith("QQP") else "index"
        lines = ["\t".join([index, *columns])]
        for row in range(NUM_ROWS):
            texts = [TEXTS[(row + number + place) % 7] for place in range(len(columns))]
            lines.append("\t".join([str(row), *texts]))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def small(name: str) -> TaskSpec:
        spec = task_named(name)
        return dataclasses.replace(spec, sizes=dict.fromkeys(spec.sizes, NUM_ROWS))

    monkeypatch.setattr(submit, "task_named", small)
    return tmp_path / "glue_data"


@pytest.fixture
def make_model(tmp_path: Path, tokenizer_json: Path) -> MakeModel:
    def make(task: str, *, bias: float | None = None, **changes: object) -> Path:
        spec = task_named(task)
        model = classifier(num_labels=spec.num_outputs, seed=len(task))
        if bias is None:  # small random weights would answer every row alike
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    torch.nn.init.normal_(parameter, std=0.5)
        else:
            torch.nn.init.constant_(model.classifier.weight, 0.0)
            torch.nn.init.constant_(model.classifier.bias, bias)
        values = {"task": task, "title": spec.title, "labels": spec.labels}
        values |= {"has_pair": spec.has_pair, "score_range": spec.score_range}
        folder = tmp_path / "runs" / f"{task}{len(changes)}" / "classifier"
        save_classifier(folder, model, info(**{**values, **changes}), tokenizer_json=tokenizer_json)
        return folder.parent

    return make


def run(models: list[Path], folder: Path, output: Path, *options: str) -> int:
    given = [text for model in models for text in ("--model", str(model))]
    return main(["submit", *given, "--folder", str(folder), "--output", str(output), *options])


def answers(archive: Path, name: str) -> list[str]:
    """The predictions of a file, whose header and numbers are checked."""
    with zipfile.ZipFile(archive) as content:
        text = content.read(name).decode("utf-8")
    assert text.endswith("\n") and "\r" not in text
    header, *lines = text.splitlines()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(row) for row in range(len(lines))]
    return [line.split("\t")[1] for line in lines]


def test_nine_models_make_all_eleven_files(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "submission.zip"
    assert run([make_model(task) for task in MODELS], small_glue, output) == 0
    with zipfile.ZipFile(output) as content:
        assert content.testzip() is None
        assert content.namelist() == [
            *("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"),
            *("QNLI.tsv", "QQP.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv"),
        ]
        names = content.namelist()
    for name in set(names) - {"STS-B.tsv"}:
        values = answers(output, name)
        assert len(values) == NUM_ROWS
        allowed = {"entailment", "neutral", "contradiction", "not_entailment"}
        assert set(values) <= (allowed if name in WORDS else {"0", "1"}), name
    assert [path.name for path in output.parent.iterdir()] == ["submission.zip"]
    printed = capsys.readouterr().out
    assert "11 of 11 files" in printed and "will miss" not in printed


def test_answers_are_those_of_the_model_row_by_row(
    small_glue: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    output = tmp_path / "mnli.zip"
    model = make_model("mnli")
    assert run([model], small_glue, output, "--partial", "true", "--batch_size", "2") == 0
    loaded = load_classifier(model)
    for name, number in (("MNLI-m.tsv", 4), ("MNLI-mm.tsv", 5), ("AX.tsv", 10)):
        expected = []
        for row in range(NUM_ROWS):
            texts = [TEXTS[(row + number + place) % 7] for place in range(2)]
            encoded = loaded.encoder.encode([Row(1, "0", *texts, None)], "row")
            with torch.no_grad():
                logits_BC = loaded.model(loaded.encoder.batch(encoded))
            expected.append(loaded.info.labels[int(logits_BC.argmax())])
        assert answers(output, name) == expected
        assert len(set(expected)) > 1


@pytest.mark.parametrize(("score", "text"), [(7.5, "5.000"), (-1.0, "0.000"), (2.34567, "2.346")])
def test_similarity_scores_stay_in_their_range(
    score: float,
    text: str,
    small_glue: Path,
    make_model: MakeModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "stsb.zip"
    model = make_model("stsb", bias=score)
    assert run([model], small_glue, output, "--partial") == 0
    assert answers(output, "STS-B.tsv") == [text] * NUM_ROWS
    assert f"{0 if 0 < score < 5 else NUM_ROWS} clipped" in capsys.readouterr().out


def test_the_same_answers_are_the_same_bytes(
    small_glue: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    model, outputs = make_model("rte"), [tmp_path / "a.zip", tmp_path / "b.zip"]
    for output in outputs:
        assert run([model], small_glue, output, "--partial", "true") == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_missing_tasks_are_refused_unless_wanted(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, models = tmp_path / "part.zip", [make_model("cola"), make_model("mnli")]
    assert run(models, small_glue, output) == 2
    message = capsys.readouterr().err
    names = "SST-2.tsv, MRPC.tsv, STS-B.tsv, QNLI.tsv, QQP.tsv, RTE.tsv, WNLI.tsv"
    assert f"{names} (no --model of its task)" in message
    assert "--partial true" in message and not output.exists()
    assert run(models, small_glue, output, "--partial", "true") == 0
    printed = capsys.readouterr().out
    assert "4 of 11 files" in printed
    assert f"will miss {names} (no" in printed


def test_a_missing_split_is_refused_unless_wanted(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, models = tmp_path / "all.zip", [make_model(task) for task in MODELS]
    (small_glue / "MNLI" / "test_mismatched.tsv").unlink()
    assert run(models, small_glue, output) == 2
    assert "no test_mismatched.tsv" in capsys.readouterr().err
    assert not output.exists()
    assert run(models, small_glue, output, "--partial", "true") == 0
    printed = capsys.readouterr().out
    assert "10 of 11 files" in printed and "will miss MNLI-mm.tsv" in printed


def test_an_archive_of_nothing_is_refused(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_glue / "RTE" / "test.tsv").unlink()
    assert run([make_model("rte")], small_glue, tmp_path / "rte.zip", "--partial", "true") == 2
    assert "would be empty" in capsys.readouterr().err


def test_a_split_of_another_length_is_refused(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = small_glue / "RTE" / "test.tsv", tmp_path / "rte.zip"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert run([make_model("rte")], small_glue, output, "--partial", "true") == 2
    message = capsys.readouterr().err
    assert "RTE/test.tsv: has 6 rows, but RTE.tsv needs 7" in message
    assert not output.exists()


def test_rows_in_another_order_are_refused(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_glue / "RTE" / "test.tsv"
    lines = path.read_text().splitlines()
    lines[2], lines[3] = lines[3], lines[2]
    path.write_text("\n".join(lines) + "\n")
    assert run([make_model("rte")], small_glue, tmp_path / "rte.zip", "--partial", "true") == 2
    assert "line 3: the index is '2' where 1 is expected" in capsys.readouterr().err


def test_models_that_do_not_fit_are_refused(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.zip"
    rte, other = make_model("rte"), make_model("rte", max_len=12)
    cases = {
        "both are of rte": [rte, other],
        "was trained on 'imdb'": [make_model("imdb")],
        "has the labels ['a', 'b'], but rte has": [make_model("rte", labels=("a", "b"))],
        "holds no classifier": [tmp_path],
        "no model is given": [],
    }
    for message, models in cases.items():
        assert run(models, small_glue, output, "--partial", "true") == 2
        assert message in capsys.readouterr().err
    assert run([rte], small_glue, tmp_path / "x.tar", "--partial", "true") == 2
    assert "the leaderboard takes a .zip file" in capsys.readouterr().err


def test_outputs_that_are_not_finite_are_refused(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "stsb.zip"
    model = make_model("stsb", bias=float("nan"))
    assert run([model], small_glue, output, "--partial", "true") == 2
    assert "STS-B.tsv is not a finite number" in capsys.readouterr().err
    assert not output.exists()


def test_cut_texts_are_counted(
    small_glue: Path, make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("cola", max_len=5)
    assert run([model], small_glue, tmp_path / "a.zip", "--partial", "true") == 0
    assert "0 cut" not in capsys.readouterr().out  # three words fit; the longest text has three
    model = make_model("rte", max_len=6)
    assert run([model], small_glue, tmp_path / "b.zip", "--partial", "true") == 0
    num_cut = sum(
        len(f"{TEXTS[(row + 8) % 7]} {TEXTS[(row + 9) % 7]}".split()) > 3 for row in range(7)
    )
    assert f"{num_cut} cut to 6 tokens" in capsys.readouterr().out


def test_the_real_test_files_have_the_rows_of_the_leaderboard(
    shared_dir: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    for file in submit.LEADERBOARD:
        if file.task not in ("mnli", "qqp"):  # their test files are not at hand
            rows = submit.leaderboard_rows(file, str(shared_dir / "data" / "glue"))
            assert len(rows.rows) == task_named(file.task).sizes[file.split]
    output, models = tmp_path / "real.zip", [make_model("wnli"), make_model("mnli")]
    assert run(models, shared_dir / "data" / "glue", output, "--partial", "true") == 0
    assert len(answers(output, "WNLI.tsv")) == 146
    assert len(answers(output, "AX.tsv")) == 1104
