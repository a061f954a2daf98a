"""metrics.jsonl and what is drawn and printed from it."""

import json
from pathlib import Path

import pytest

from training.cli import MetricsFileLogger
from training.metrics_file import last_value, own_test_rows, read_metrics, run_rows, series
from training.reports.curves import curve_panels, plot_curves
from training.reports.runs import Run
from training.reports.study import Configuration, Study
from training.run_folder import add_event, append_record
from training.summary import run_summary, summary_lines


def test_lines_come_back_as_they_were_logged(tmp_path: Path) -> None:
    logger = MetricsFileLogger(tmp_path / "run" / "metrics.jsonl")
    logger.log_metrics({"train/loss": 3.5, "epoch": 0.0}, step=10)
    logger.log_metrics({"train/loss": float("nan")}, step=20)
    rows = read_metrics(logger.path)
    assert [row["step"] for row in rows] == [10, 20]
    assert rows[0]["train/loss"] == 3.5
    assert rows[1]["train/loss"] != rows[1]["train/loss"]
    assert "epoch" not in rows[0]


def test_a_broken_last_line_is_ignored_and_any_other_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "a"')
    assert series(read_metrics(path), "a") == ([1], [2.0])
    path.write_text('{"step": 1\n{"step": 2, "a": 3.0}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_metrics(path)


ROWS = [
    {"step": 0, "baseline/unigram_accuracy": 0.05, "baseline/unigram_loss": 6.5},
    {"step": 0, "baseline/pair_chance": 1 / 3, "baseline/eval_examples": 900.0},
    {"step": 10, "train/mlm_loss": 6.0, "train/mlm_accuracy": 0.1, "train/tokens_per_s": 100.0},
    {"step": 20, "val/mlm_loss": 5.5, "val/mlm_accuracy": 0.2, "val/pair_accuracy": 0.5},
]


def test_the_summary_sets_results_beside_guessing(tmp_path: Path) -> None:
    text = "\n".join(summary_lines(tmp_path, ROWS))
    assert "20.0%" in text and "unigram 5.0%" in text and "4.0 x the unigram guesser" in text
    assert "chance 33.3%" in text and "above chance (+10.6 standard errors, 900 pairs)" in text


def test_the_summary_has_a_validation_whose_guesses_were_not_logged(tmp_path: Path) -> None:
    text = "\n".join(summary_lines(tmp_path, ROWS[2:]))
    assert "20.0%" in text and "unigram unknown" in text and "chance unknown" in text
    assert "no validation" not in text
    assert "no validation" in "\n".join(summary_lines(tmp_path, ROWS[:3]))


def test_the_summary_does_not_call_noise_learning(tmp_path: Path) -> None:
    noise = {"step": 30, "val/pair_accuracy": 0.35, "val/mlm_accuracy": 0.2}
    assert "not above chance yet" in "\n".join(summary_lines(tmp_path, [*ROWS, noise]))


def test_curves_are_drawn_for_the_metrics_that_exist(tmp_path: Path) -> None:
    assert plot_curves({"x": []}, tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()
    path = plot_curves({"x": ROWS, "y": ROWS[:3]}, tmp_path / "curves.png")
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")


def test_a_curve_says_that_its_thin_line_is_training_where_there_is_one(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    labels = []
    for rows in (ROWS, [row for row in ROWS if row["step"] != 10]):
        alone = Configuration(
            label="x", runs=[Run(folder=tmp_path, name="x", rows=rows)], factors={}
        )
        panels = curve_panels(Study(configurations=[alone], names={}, unchanged={}))
        axis = Figure().subplots()
        panels[0].draw(axis)
        labels.append(axis.get_xlabel())
    assert labels == ["optimiser steps; thin: training", "optimiser steps"]


def test_last_value_skips_rows_without_the_metric() -> None:
    assert last_value(ROWS, "train/mlm_loss") == 6.0
    assert last_value(ROWS, "absent") is None


def test_several_runs_are_tabled_and_drawn_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        logger = MetricsFileLogger(tmp_path / name / "metrics.jsonl")
        for row in ROWS:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    table, plot = tmp_path / "table.txt", tmp_path / "plot.png"
    runs = [str(tmp_path / name) for name in ("a", "b")]
    run_summary([*runs, "--table", str(table), "--plot", str(plot)])
    assert table.read_text().count("masked-LM accuracy") == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="not a run folder"):
        run_summary([str(tmp_path)])


TESTED = {
    "command": "test",
    "own_checkpoint": True,
    "step": 4,
    "differs_from_training": [],
    "examples": 9,
    "split_examples": 9,
    "metrics": {"test/loss": 2.0},
    "baselines": {},
}


def test_an_evaluation_that_was_cut_short_does_not_hide_those_after_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"time": "2026-01-01", "comm')  # the disk was full
    append_record(path, TESTED)
    assert own_test_rows(tmp_path) == [{"step": 4, "test/loss": 2.0}]


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"step": 5}, True),
        ({"step": 3}, False),
        ({"own_checkpoint": False}, False),
        ({"examples": 8}, False),
        ({"differs_from_training": ["data was a, now b"]}, False),
        ({"command": "validate"}, False),
    ],
)
def test_only_tests_of_a_runs_last_state_data_and_split_are_its_own(
    changes: dict, counts: bool, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "val/loss": 3}\n{"step": null}\n')
    append_record(tmp_path / "evaluations.jsonl", TESTED | changes)
    assert (last_value(run_rows(tmp_path), "test/loss") == 2.0) is counts


def test_a_test_before_a_run_went_back_to_an_earlier_step_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "val/loss": 3}\n')
    record = json.dumps({"time": "2026-01-01T00:00:00+00:00", **TESTED})
    (tmp_path / "evaluations.jsonl").write_text(record + "\n")
    add_event(tmp_path, "resumed", step=4)
    assert last_value(run_rows(tmp_path), "test/loss") == 2
    add_event(tmp_path, "resumed", step=2)
    assert last_value(run_rows(tmp_path), "test/loss") is None
