"""How a run that was stopped at its very end comes to the end of one that was left alone."""

import os
import signal
from pathlib import Path

import pytest
from pretrain_faults import Killed, assert_same_story, fault_options, story
from pytorch_lightning import LightningModule, Trainer

from pretrain.cli import main
from training.checkpoints.schedule import RunCheckpoints
from training.checkpoints.storage import load_checkpoint, saved_checkpoints
from training.run_folder import read_events

STEPS = 22


def named(options: list[str], name: str) -> list[str]:
    """The options of another run: three epochs of nine steps, dropout, accumulation 2."""
    return [*options, "--trainer.max_steps", str(STEPS), "--run.name", name] + [
        *("--run.eval_every_n_steps", "4")
    ]


def events_of(folder: Path) -> list[str]:
    """The names of a run's events, in order."""
    return [event["event"] for event in read_events(folder)]


def test_a_signal_in_the_last_validation_loses_nothing(tiny_run: list[str], tmp_path: Path) -> None:
    options = [*named(tiny_run, "stopped"), "--trainer.max_steps", "12"]
    assert main(["fit", *options, "--run.name", "twin"]) == 0
    arguments = ["fit", *options, *fault_options("validation_batch_end", 12, kind="SIGTERM")]
    assert main(arguments) == 75
    assert main(arguments) == 0
    assert story(tmp_path / "stopped") == story(tmp_path / "twin")
    assert (tmp_path / "stopped" / "bundle" / "model.safetensors").exists()
    best = [(tmp_path / name / "checkpoints/best.ckpt").readlink() for name in ("stopped", "twin")]
    assert best[0] == best[1] == Path("step-00000012.ckpt")
    assert events_of(tmp_path / "stopped") == ["started", "stopped", "finished"]
    before = (tmp_path / "stopped" / "events.jsonl").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "stopped" / "events.jsonl").read_bytes() == before
    for name in ("stopped", "twin"):
        assert main(["fit", *options, "--run.name", name, "--trainer.max_steps", "16"]) == 0
    assert_same_story(tmp_path / "stopped", tmp_path / "twin")


def test_the_best_of_a_run_stopped_before_its_last_validation_is_known_when_it_is_made_longer(
    tiny_run: list[str], tmp_path: Path
) -> None:
    """The interval does not divide the run: made longer, it does not validate that step again."""
    options = [*named(tiny_run, "stopped"), "--trainer.max_steps", "10"]
    arguments = ["fit", *options, *fault_options("train_batch_end", 10, kind="SIGTERM")]
    assert main(arguments) == 75
    assert main(arguments) == 0
    newest = saved_checkpoints(tmp_path / "stopped" / "checkpoints")[-1].path
    state = load_checkpoint(newest)["callbacks"]["RunCheckpoints"]
    losses = {r["step"]: r["val/loss"] for r in story(tmp_path / "stopped") if "val/loss" in r}
    assert state["best_step"] == 10 and state["best_loss"] == losses[10] == min(losses.values())


def test_a_run_that_was_cut_short_on_purpose_goes_on_by_its_own_command(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = ["fit", *named(tiny_run, "short")]
    assert main([*options, *fault_options("train_batch_start", 9, kind="SIGTERM")]) == 75
    assert main([*options, "--trainer.max_steps", "10"]) == 0  # complete: nothing to do
    assert main(options) == 0
    assert story(tmp_path / "short")[-1]["step"] == STEPS


EARLY = [
    *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"),
    *("--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=9"),
]
"""Ends a run after its second validation."""


@pytest.mark.parametrize("fault", ["killed", "SIGTERM"])
def test_a_run_that_early_stopping_has_ended_does_not_train_on_after_a_stop_just_then(
    fault: str, tiny_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = named(tiny_run, "twin")
    assert main(["fit", *options, *EARLY]) == 0
    ended = story(tmp_path / "twin")
    assert ended[-1]["step"] == 8
    note = RunCheckpoints.on_validation_end

    def struck(self: RunCheckpoints, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 8 and fault == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        note(self, trainer, pl_module)
        if trainer.global_step == 8:
            raise Killed

    options = ["fit", *named(tiny_run, "struck"), *EARLY]
    with monkeypatch.context() as patched:
        patched.setattr(RunCheckpoints, "on_validation_end", struck)
        if fault == "killed":
            with pytest.raises(Killed):
                main(options)
        else:
            assert main(options) == 75
    assert main(options) == 0
    assert_same_story(tmp_path / "struck", tmp_path / "twin")
    assert events_of(tmp_path / "struck")[-1] == "finished"
    branch = tmp_path / "struck" / "checkpoints" / "step-00000008.ckpt"
    longer = ["--trainer.callbacks.patience=2"]
    assert main([*options, *longer]) == 0
    assert story(tmp_path / "struck")[-1]["step"] == 12
    assert main([*options, "--run.name", "branch", "--resume", str(branch)]) == 0
    assert story(tmp_path / "branch")[-1]["step"] == 12
