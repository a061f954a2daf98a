"""Progress of a fit in a log file: whole lines, no carriage returns."""

from pathlib import Path

import pytest
from finetune_runs import run_fit

SHOWN = ["--trainer.enable_progress_bar", "true"]


def test_a_log_file_gets_lines_and_no_bars(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_fit(bundle, tmp_path, "logged", *SHOWN) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("finetune: epoch")]
    assert [line.partition(",")[0] for line in lines] == [
        "finetune: epoch 1/2",
        "finetune: epoch 2/2",
    ]
    assert "10/10 batches" in lines[0] and "loss=" in lines[-1]
    assert "\r" not in shown.err + shown.out
