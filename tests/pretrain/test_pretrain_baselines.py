"""What guessing scores stands beside the validations of a run, and is that on the same examples."""

from pathlib import Path

import pytest

from pretrain.cli import main
from training.metrics_file import read_metrics, series

EXAMPLES = "baseline/eval_examples"


def guesses(run: Path) -> tuple[list[float], list[float]]:
    """Steps at which baselines were logged, and of how many examples."""
    return series(read_metrics(run / "metrics.jsonl"), EXAMPLES)


def test_a_run_that_goes_on_with_other_examples_logs_what_guessing_scores_on_them(
    tiny_run: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *tiny_run]) == 0
    assert main(["fit", *tiny_run, "--trainer.max_steps", "6"]) == 0
    assert guesses(tmp_path / "tiny") == ([0], [16])
    fewer = [*tiny_run, "--data.eval_examples", "8"]
    for steps in ("8", "10"):
        assert main(["fit", *fewer, "--trainer.max_steps", steps]) == 0
    assert guesses(tmp_path / "tiny") == ([0, 6], [16, 8])


def test_a_run_from_the_checkpoint_of_another_has_its_own(
    tiny_run: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *tiny_run]) == 0
    resume = ["--resume", str(tmp_path / "tiny" / "checkpoints" / "last.ckpt")]
    other = [*tiny_run, "--run.name", "other", "--trainer.max_steps", "6", *resume]
    assert main(["fit", *other]) == 0
    assert guesses(tmp_path / "other") == ([4], [16])


@pytest.mark.parametrize("steps", ["4", "6"])
def test_a_run_that_begins_to_validate_later_has_them_too(
    steps: str, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run, "--trainer.limit_val_batches", "0"]) == 0
    assert "no validation" in capsys.readouterr().out and not guesses(tmp_path / "tiny")[0]
    assert main(["fit", *tiny_run, "--trainer.max_steps", steps]) == 0
    shown = capsys.readouterr().out
    assert "no validation" not in shown and "16 pairs" in shown
    assert guesses(tmp_path / "tiny") == ([4], [16])


@pytest.mark.parametrize(("limit", "examples"), [("1", 4), ("0.5", 8), ("9", 16)])
def test_they_are_of_the_examples_that_a_limited_validation_scores(
    limit: str, examples: int, tiny_run: list[str], tmp_path: Path
) -> None:
    options = ["--data.eval_batch_size", "4", "--trainer.limit_val_batches", limit]
    assert main(["fit", *tiny_run, *options]) == 0
    assert guesses(tmp_path / "tiny") == ([0], [examples])
