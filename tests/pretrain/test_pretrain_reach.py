"""What runs spent until they first had the same validation loss."""

import json
import math
from pathlib import Path

import pytest
from report_runs import PONET, write_run

from pretrain.cli import main
from training.reports.reach import common_loss, reached, reached_by
from training.reports.runs import find_runs, read_run


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": 10 * n, "loss": loss} for n, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((8, 6, 4), 25.0),
        ((8, 5, 4), 20.0),
        ((4, 3, 2), 10.0),
        ((8, 6, 5.5), None),
        ((8, 4, 7, 3), 17.5),  # the first time counts
        ((8, math.nan, 4), 25.0),
        ((5,), 10.0),
        ((), None),
    ],
)
def test_a_loss_is_reached_between_two_validations(losses, step) -> None:
    found = reached(curve(*losses), 5.0, key="loss", spent=("step",))
    assert found == (None if step is None else {"step": pytest.approx(step)})


def with_tokens(run: Path, *, late_s: float = 0.0) -> Path:
    """Add what a fit logs of its samples and its data, and time that a second start began with."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["elapsed_s"] += late_s * (row["step"] > 20)
        if "train/loss" in row:
            row["train/samples_seen"] = 32.0 * row["step"]
    rows[0] |= {"data/tokens_total": 1000.0, "data/coverage": 0.9, "data/examples": 100.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_run_says_steps_tokens_and_seconds_of_all_its_starts(tmp_path: Path) -> None:
    run = read_run(with_tokens(write_run(tmp_path / "a", accuracy=0.0), late_s=100))
    assert reached_by(run, 6.125) == pytest.approx(
        {"step": 25, "elapsed_s": 20 + (30 + 100 - 20) / 2, "tokens": 25 * 32 * 9}
    )
    assert reached_by(run, 5.0) == pytest.approx({"step": 40, "elapsed_s": 140, "tokens": 11520})
    assert reached_by(run, 4.9) is None
    bare = read_run(write_run(tmp_path / "b", accuracy=0.0))
    assert reached_by(bare, 6.5) == pytest.approx({"step": 20, "elapsed_s": 20})


def test_the_worst_last_loss_is_the_common_one_unless_runs_diverged_or_differ_in_text(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "a", accuracy=0.3)
    write_run(tmp_path / "b", accuracy=0.1)
    write_run(tmp_path / "c", accuracy=0.5, diverged_at=30)
    runs, _ = find_runs([tmp_path])
    assert common_loss(runs) == pytest.approx(8 - 3 - 0.1)
    assert common_loss(runs, 6.0) == 6.0 and common_loss(runs[2:]) is None
    write_run(tmp_path / "d", data__folder="shards/books")
    assert common_loss(find_runs([tmp_path])[0]) is None


def report_of(folder: Path, *options: str) -> tuple[list[str], dict]:
    """The lines of its table, and the JSON."""
    out = folder / "report"
    assert main(["report", str(folder / "runs"), "--out", str(out), *options]) == 0
    text = (out / "table.md").read_text()
    page = (out / "index.html").read_text()
    assert ("## Spent until" in text) == ("Spent until the same loss</h2>" in page)
    lines = text.partition("## Spent until the same loss\n\n")[2].partition("\n\n## ")[0]
    return lines.splitlines(), json.loads((out / "table.json").read_text())["reached"]


def write_two(folder: Path, **of_second) -> None:
    """Two configurations of two seeds; the second has losses lower by 0.75, which is 10 steps."""
    for seed in (1, 2):
        with_tokens(write_run(folder / f"runs/slow{seed}", seed=seed, accuracy=0.0))
        other = {"seed": seed, "accuracy": 0.75, "arguments": {**PONET, "local_window": 5}}
        with_tokens(write_run(folder / f"runs/swift{seed}", **other, **of_second))


def test_a_report_compares_what_was_spent_until_the_same_loss(tmp_path: Path) -> None:
    write_two(tmp_path)
    lines, found = report_of(tmp_path, "--baseline", "slow1")
    assert lines[0] == "| Configuration | Steps | Tokens | Seconds |"
    slow, swift = (line for line in lines if line.startswith("| local_window"))
    assert "**40**<br>40 to 40, n 2 | **11,520**" in slow and "baseline" not in slow
    assert "**30**<br>30 to 30, n 2<br>0.75 of the baseline's | **8,640**" in swift
    assert "5.000 nats, the worst last one of the finished runs" in lines[-1]
    assert found["loss"] == 5.0 and len(found["spent"]) == 4
    lines, _ = report_of(tmp_path, "--loss", "4.5")
    assert "| not reached<br>by 2 of 2 | not reached" in lines[2]
    assert "4.500 nats, between two validations" in lines[-1]


def test_a_run_that_has_not_ended_sets_no_loss_and_may_not_reach_it(tmp_path: Path) -> None:
    write_two(tmp_path)
    changed = {**PONET, "local_window": 7}
    write_run(tmp_path / "runs/young", steps=10, accuracy=0.0, arguments=changed)
    lines, found = report_of(tmp_path)
    assert found["loss"] == 5.0 and "| not reached<br>by 1 of 1 |" in lines[4]


def test_nothing_is_compared_of_one_configuration_or_of_different_texts(tmp_path: Path) -> None:
    write_run(tmp_path / "one/runs/a", seed=1)
    write_run(tmp_path / "one/runs/b", seed=2)
    assert report_of(tmp_path / "one") == ([], {"loss": None, "spent": {}})
    write_two(tmp_path / "two", data__folder="shards/books")
    assert report_of(tmp_path / "two")[0] == []


def test_compare_says_it_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = with_tokens(write_run(tmp_path / "a", accuracy=0.0))
    second = with_tokens(write_run(tmp_path / "b", accuracy=0.75))

    def compared(*options: str) -> str:
        capsys.readouterr()
        assert main(["compare", str(first), str(second), *options]) == 0
        return capsys.readouterr().out

    text = compared()
    assert "| until val/mlm_loss 5.0000 | A | B | B / A |" in text
    assert "| steps | 40 | 30 | 0.750 |" in text and "| tokens | 11,520 | 8,640 | 0.750 |" in text
    assert "| steps | not reached | 40 |  |" in compared("--loss", "4.25")
    assert "| steps | not reached | not reached |  |" in compared("--loss", "1")
    assert main(["compare", str(first), str(second), "--loss", "-1"]) == 2
    assert "--loss must be >= 0, got -1" in capsys.readouterr().err
    second = write_run(tmp_path / "c", data__folder="shards/books")
    assert "not compared: validation text differs" in compared()
