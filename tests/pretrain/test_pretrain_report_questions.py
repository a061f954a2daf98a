"""Which numbers of pretraining runs a report compares: only answers to the same question."""

import json
from pathlib import Path
from typing import Any

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
