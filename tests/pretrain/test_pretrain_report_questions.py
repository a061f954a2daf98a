"""Which numbers of pretraining runs a report compares: only answers to the same question."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_run

from training.reports.figures import Column
from training.reports.measures import Logged
from training.reports.pretraining import StudyReport
from training.reports.runs import find_runs
from training.reports.study import make_study, measured

SEEDS = (42, 43, 44)


def report_of(folder: Path) -> StudyReport:
    study = make_study(find_runs([folder])[0])
    base = study.configurations[0]
    return StudyReport(title="", study=study, baseline=base, problems={}, out=Path("o"))


def column_called(folder: Path, title: str) -> Column[Logged]:
    columns = measured(report_of(folder).study)
    return next(column for column in columns if column.measure.title == title)


def write_pair(root: Path, **of_second: Any) -> list[list[Path]]:
    """Two configurations of three runs each, the first clearly better; what the second has."""
    first = [write_run(root / f"a{s}", seed=s, accuracy=0.30 + s / 1e4) for s in SEEDS]
    options = {"accuracy": 0.27, "model__objective": "mlm", **of_second}
    return [first, [write_run(root / f"b{s}", seed=s, **options) for s in SEEDS]]


def test_scores_of_a_task_on_other_splits_are_not_compared(tmp_path: Path) -> None:
    for number, folders in enumerate(write_pair(tmp_path)):
        for folder in folders:
            tasks = {"imdb": {"score": 0.7 + number / 10, "n": 3, "split": "test"}}
            tasks["imdb"]["split"] = ("test", "validation")[number]
            (folder / "study.json").write_text(json.dumps({"downstream": tasks}))
    column = column_called(tmp_path, "imdb")
    assert not any(cell.is_best for cell in column.cells.values())
    text = report_of(tmp_path).text("md")
    said = "imdb is not the same question in all configurations: split differs, test and validation"
    assert said in text and "another question: split differs, test and validation" in text
    assert "imdb: " not in text  # nothing leads there


def write_digests(folders: list[list[Path]], digests: tuple[str, str]) -> None:
    for some, digest in zip(folders, digests, strict=True):
        for folder in some:
            (folder / "bundle").mkdir()
            content = {"metadata": {"data_digest": digest, "steps": 40}}
            (folder / "bundle" / "config.json").write_text(json.dumps(content))


def reason_of(folder: Path) -> str:
    column = column_called(folder, "Masked-LM accuracy")
    reason = column.measure.unlike(report_of(folder).study.runs)
    assert any(cell.is_best for cell in column.cells.values()) == (not reason)
    return reason


def test_other_validation_text_is_another_question_though_guessing_scores_alike(
    tmp_path: Path,
) -> None:
    write_digests(write_pair(tmp_path / "digests"), ("a", "b"))
    assert reason_of(tmp_path / "digests") == "validation text differs"
    text = report_of(tmp_path / "digests").text("md")
    assert text.count("is not the same question in all configurations: validation text") == 3
    write_pair(tmp_path / "folders", data__folder="shards/books")
    assert reason_of(tmp_path / "folders") == "validation text differs"
    (first, _) = write_pair(tmp_path / "one", data__folder="shards/books")
    write_digests([first], ("a",))  # runs that have not ended have no bundle
    assert reason_of(tmp_path / "one") == "validation text differs"


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("data__max_len", (128, 512), "max_len differs, 128 and 512"),
        ("data__needles", ({"facts": 1}, {"facts": 4}), "facts differs, 1 and 4"),
        (
            "data__needles",
            ({"facts": 2, "span": 0}, {"facts": 2, "span": 4096}),
            "span differs, 0 and 4096",
        ),
        (
            "data__needles",
            ({"facts": 2, "questions": 4}, {"facts": 2, "questions": 8}),
            "questions differs, 4 and 8",
        ),
        ("data", [{"max_len": 64, "needles": {"facts": 2, "span": n}} for n in (0, 64)], ""),
        ("data__needles", ({"facts": 0, "span": 0}, {"facts": 0, "span": 4096}), ""),
        ("data__eval_examples", (1024, 2048), "eval_examples differs, 1024 and 2048"),
        ("data__masking", ({"mask_prob": 0.15}, {"mask_prob": 0.3}), ""),
        ("data__segments", ({"rule": "sentence"}, {"rule": "text"}), ""),
    ],
)
def test_how_the_text_is_read_is_part_of_the_question(
    tmp_path: Path, key: str, values: tuple[Any, Any], reason: str
) -> None:
    for number, value in enumerate(values):
        for seed in SEEDS:
            accuracy = 0.3 - number / 10 + (1 + number) * seed / 1e4
            write_run(tmp_path / f"{number}{seed}", seed=seed, accuracy=accuracy, **{key: value})
    assert reason_of(tmp_path) == reason


def test_objectives_on_the_same_text_are_compared_wherever_it_lies(tmp_path: Path) -> None:
    """Pairs cut the documents otherwise, so that guessing differs by some 2 %."""
    folders = write_pair(tmp_path, unigram=0.051, data__folder="elsewhere/wiki")
    write_digests(folders, ("a", "a"))
    assert reason_of(tmp_path) == ""


def test_a_split_that_is_scored_whole_by_both_is_one_question(tmp_path: Path) -> None:
    for number, folders in enumerate(write_pair(tmp_path)):
        for folder in folders:
            config = (folder / "run_config.yaml").read_text()
            config = config.replace("folder: ", f"eval_examples: {2048 + number}\n  folder: ", 1)
            (folder / "run_config.yaml").write_text(config)
            with (folder / "metrics.jsonl").open("a") as file:
                file.write('{"step": 40, "baseline/eval_examples": 700.0}\n')
    assert reason_of(tmp_path) == ""


def test_the_whole_split_stands_beside_what_guessing_scores_on_all_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", unigram=0.069)
    record = {
        "command": "test",
        "step": 40,
        "own_checkpoint": True,
        "differs_from_training": [],
        "examples": 9000,
        "split_examples": 9000,
        "metrics": {"test/mlm_accuracy": 0.3, "test/pair_accuracy": 0.4},
        "baselines": {"unigram_accuracy": 0.052, "pair_chance": 1 / 3},
    }
    (run / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    assert column_called(tmp_path, "Masked-LM accuracy, whole split").level == pytest.approx(5.2)
    assert column_called(tmp_path, "Masked-LM accuracy").level == pytest.approx(6.9)
    assert column_called(tmp_path, "Pair accuracy, whole split").level == pytest.approx(100 / 3)
