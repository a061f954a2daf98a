"""Two runs side by side in the terminal."""

import json
from pathlib import Path

import pytest
from report_runs import PONET, write_run

from pretrain.cli import main


def compared(first: Path, second: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", str(first), str(second)]) == 0
    return capsys.readouterr().out


def test_two_runs_differ_in_configuration_curve_and_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", accuracy=0.3)
    changed = {**PONET, "local_window": 5}
    second = write_run(tmp_path / "b", accuracy=0.4, arguments=changed, scores={"CoLA": 0.5})
    text = compared(first, second, capsys)
    assert "| model.encoder.local_window | 3 | 5 |" in text
    assert "hidden_size" not in text
    assert "val/mlm_accuracy: 4 shared steps, first different at step 10" in text
    assert "mean |difference| 0.0625, greatest 0.1 at step 40" in text
    assert "| 40 | 0.3000 | 0.4000 | +0.1000 |" in text
    assert "CoLA" in text


def test_equal_runs_are_said_to_be_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_run(tmp_path / "a" / "x"), write_run(tmp_path / "b" / "x")
    text = compared(first, second, capsys)
    assert "val/mlm_loss: 4 shared steps, equal at every one" in text
    assert "first different" not in text


def test_a_divergence_is_a_difference_and_not_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", diverged_at=30)
    text = compared(first, second, capsys)
    assert "val/mlm_loss: 4 shared steps, first different at step 30" in text
    assert "not finite at 2 steps" in text


def test_runs_without_a_step_in_common_and_without_configuration_are_compared_as_far_as_possible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (second / "run_config.yaml").unlink()
    (second / "metrics.jsonl").write_text(json.dumps({"step": 7, "val/mlm_loss": 5.0}) + "\n")
    text = compared(first, second, capsys)
    assert "val/mlm_loss: no step that both have" in text
    assert "B has no run_config.yaml" in text


def test_a_folder_without_metrics_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a")
    assert main(["compare", str(first), str(tmp_path / "no")]) == 2
    assert "has no metrics.jsonl" in capsys.readouterr().err
