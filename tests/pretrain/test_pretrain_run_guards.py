"""Runs whose numbers go wrong: stopped or rolled back, and never saved in that state."""

import json
from pathlib import Path

import pytest
import torch
from pretrain_faults import Killed, assert_same_story, injected, story

from pretrain.cli import main
from training.checkpoints.storage import load_checkpoint, saved_checkpoints

STEPS = 14
ROLLBACK = ["--guards.action", "rollback", "--guards.skip_steps", "2"]


@pytest.fixture
def options(tiny_run: list[str]) -> list[str]:
    """Fourteen steps of eight samples, a checkpoint every three, validation after twelve."""
    return [*tiny_run, "--trainer.max_steps", str(STEPS), "--run.eval_every_n_steps", "12"] + [
        *("--checkpoints.every_n_steps", "3", "--guards.every_n_steps", "1")
    ]


def poison(kind: str, first: int = 52, last: int = 52) -> tuple[str, dict[str, object]]:
    return ("Poison", {"first": first, "last": last, "kind": kind})


def assert_finite_checkpoints(folder: Path) -> list[int]:
    saved = saved_checkpoints(folder / "checkpoints")
    for checkpoint in saved:
        weights = load_checkpoint(checkpoint.path)["state_dict"].values()
        assert all(torch.isfinite(weight).all() for weight in weights), checkpoint.path
    return [checkpoint.step for checkpoint in saved]


@pytest.mark.parametrize("every", ["1", "5"])
@pytest.mark.parametrize("kind, message", [("gradient", "gradient norm"), ("weights", "")])
def test_a_number_that_is_not_finite_stops_the_run_and_names_its_samples(
    kind: str,
    message: str,
    every: str,
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [*options, "--guards.every_n_steps", every]
    assert main(["fit", *given, *injected(poison(kind))]) == 77
    said = capsys.readouterr().err
    assert message in said
    assert "step 7" in said and "48 to 55" in said or kind == "weights" and "56 to 63" in said
    assert assert_finite_checkpoints(tmp_path / "tiny") == [3, 6]
    assert main(["fit", *options]) == 0  # without the poison the same command goes on


def test_a_rollback_skips_the_samples_that_led_there(options: list[str], tmp_path: Path) -> None:
    given = ["fit", *options, *ROLLBACK, *injected(poison("gradient"))]
    assert main(given) == 0
    folder = tmp_path / "tiny"
    assert json.loads((folder / "skipped_windows.json").read_text()) == {
        "windows": [6],  # the window before it was trained on before the checkpoint of step 6
        "rollbacks": 1,
    }
    assert [row["step"] for row in story(folder) if "train/loss" in row] == [*range(1, STEPS + 1)]
    lines = (folder / "samples.txt").read_text().splitlines()
    read = [[int(sample) for sample in line.split()] for line in lines]
    again = read.index([56, 57, 58, 59])
    assert read[again - 1] == [52, 53, 54, 55]  # the poison, and after the rollback what follows
    assert read[-1] == [STEPS * 8 + 4 + n for n in range(4)]
    events = (folder / "events.jsonl").read_text().splitlines()
    names = [json.loads(line)["event"] for line in events]
    assert names == ["started", "stopped", "rolled_back", "resumed", "finished"]
    assert_finite_checkpoints(folder)


def test_a_run_that_was_rolled_back_and_killed_is_the_same_as_one_only_rolled_back(
    options: list[str], tmp_path: Path
) -> None:
    bad = poison("gradient")
    assert main(["fit", *options, *ROLLBACK, *injected(bad)]) == 0
    kill = ("FaultAt", {"hook": "train_batch_end", "steps": [5, 11]})
    again = ["fit", *options, "--run.name", "killed", *ROLLBACK, *injected(kill, bad)]
    for _ in range(2):
        with pytest.raises(Killed):
            main(again)
    assert main(again) == 0
    assert_same_story(tmp_path / "killed", tmp_path / "tiny")


def test_a_rollback_before_the_first_save_goes_back_to_the_checkpoint_that_was_given(
    options: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *options, "--trainer.max_steps", "9"]) == 0
    given = str(tmp_path / "tiny" / "checkpoints" / "step-00000009.ckpt")
    later = ["fit", *options, "--run.name", "later", "--resume", given, *ROLLBACK]
    bad = injected(poison("gradient", 80, 80))
    assert main([*later, "--checkpoints.every_n_steps", "100", *bad]) == 0
    lines = (tmp_path / "later" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [e["event"] for e in events if "event" in e][-3:] == [
        "rolled_back",
        "resumed",
        "finished",
    ]
    assert [e["to_step"] for e in events if e["event"] == "rolled_back"] == [9]
    assert {e["step"] for e in events if e["event"] == "resumed"} == {9}


def test_a_branch_of_a_run_that_was_rolled_back_skips_the_data_that_led_there(
    options: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *options, *ROLLBACK, *injected(poison("gradient"))]) == 0
    given = str(tmp_path / "tiny" / "checkpoints" / "step-00000012.ckpt")
    branch = ["fit", *options, *ROLLBACK, "--run.name", "branch", "--resume", given]
    bad = injected(poison("gradient", 15 * 8, 15 * 8 + 7))  # window 15, which step 15 reads
    assert main([*branch, "--trainer.max_steps", "18", *bad]) == 0
    assert json.loads((tmp_path / "branch" / "skipped_windows.json").read_text()) == {
        "windows": [6, 14, 15],
        "rollbacks": 1,
    }


def test_a_run_that_overwrites_one_that_was_rolled_back_skips_nothing(
    options: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *options, *ROLLBACK, *injected(poison("gradient"))]) == 0
    assert main(["fit", *options, "--run.overwrite", "true"]) == 0
    newest = saved_checkpoints(tmp_path / "tiny" / "checkpoints")[-1].path
    assert load_checkpoint(newest)["PretrainDataModule"]["skipped_windows"] == []


def test_a_loss_spike_is_rolled_back(options: list[str], tmp_path: Path) -> None:
    spikes = ["--guards.spike_factor", "1.5", "--guards.spike_window", "10"]
    late = poison("jump", 12 * 8, 12 * 8)
    assert main(["fit", *options, *ROLLBACK, *spikes, *injected(late)]) == 0
    rolled_back = json.loads((tmp_path / "tiny" / "skipped_windows.json").read_text())
    assert rolled_back == {"windows": [12], "rollbacks": 1}


def test_rollbacks_come_to_an_end(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = injected(poison("gradient", 40, 10_000))
    limit = ["--guards.max_rollbacks", "2"]
    assert main(["fit", *options, *ROLLBACK, *limit, *everything]) == 77
    assert "rolling back (2)" in capsys.readouterr().err
    assert json.loads((tmp_path / "tiny" / "skipped_windows.json").read_text())["rollbacks"] == 3


def test_guards_that_are_off_do_not_interfere(options: list[str], tmp_path: Path) -> None:
    off = ["--guards.action", "off", "--guards.watchdog_minutes", "0"]
    assert main(["fit", *options, *off]) == 0
    assert main(["fit", *options, "--run.name", "on", "--guards.spike_factor", "3"]) == 0
    assert story(tmp_path / "tiny") == story(tmp_path / "on")


def test_weights_that_are_spoilt_by_the_last_step_become_no_bundle(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = poison("weights", STEPS * 8 - 4, STEPS * 8 - 1)  # its last micro-batch
    given = [*options, "--trainer.limit_val_batches", "0", *injected(last)]
    assert main(["fit", *given]) == 77
    assert f"weights are not finite after step {STEPS}" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "bundle").exists()
    assert assert_finite_checkpoints(tmp_path / "tiny") == [9, 12]
