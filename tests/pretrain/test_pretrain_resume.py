"""A run that was stopped anywhere goes on as if it had not been."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from pretrain_corpora import tiny_options
from pretrain_faults import (
    Killed,
    assert_same_story,
    fault_options,
    final_state,
    injected,
    story,
)

from pretrain.cli import main
from training.checkpoints.storage import STATE_FILE, load_checkpoint, saved_checkpoints

STEPS = 22
TRIGGERS = {
    "steps": ["--checkpoints.every_n_steps", "3", "--checkpoints.at_validation", "false"],
    "time": ["--checkpoints.every_n_minutes", "0.0001", "--checkpoints.at_validation", "false"],
    "epoch": ["--checkpoints.every_epoch", "true", "--checkpoints.at_validation", "false"],
    "validation": ["--checkpoints.at_validation", "true"],
    "steps, in the background": [
        *("--checkpoints.every_n_steps", "3", "--checkpoints.asynchronous", "true")
    ],
}


def named(options: list[str], name: str) -> list[str]:
    """The options of another run: three epochs of nine steps, dropout, accumulation 2."""
    return [*options, "--trainer.max_steps", str(STEPS), "--run.name", name] + [
        *("--run.eval_every_n_steps", "4")
    ]


@pytest.fixture(scope="module")
def untouched(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was left alone; for all tests of this file."""
    root = tmp_path_factory.mktemp("untouched")
    assert main(["fit", *named(tiny_options(tiny_shards, root), "twin")]) == 0
    return root / "twin"


@pytest.fixture
def twin(untouched: Path, tmp_path: Path) -> Path:
    """A copy of the run that was left alone."""
    return shutil.copytree(untouched, tmp_path / "twin", symlinks=True)


def run_until_done(arguments: list[str], *, limit: int = 10) -> int:
    """Start a command again and again until it ends; how often it was killed."""
    for killed in range(limit):
        try:
            assert main(arguments) == 0
        except Killed:
            continue
        return killed
    raise AssertionError(f"not done after {limit} starts")


@pytest.mark.parametrize(
    "trigger, workers",
    [("steps", "2"), ("time", "0"), ("epoch", "0"), ("validation", "2")]
    + [("steps, in the background", "0")],
)
def test_three_kills_leave_no_trace(
    trigger: str, workers: str, tiny_run: list[str], tmp_path: Path, twin: Path
) -> None:
    options = [*named(tiny_run, "killed"), *TRIGGERS[trigger], "--data.num_workers", workers]
    faults = fault_options("train_batch_end", 5, 11, 19)
    assert run_until_done(["fit", *options, *faults]) == 3
    assert_same_story(tmp_path / "killed", twin)


def test_epochs_of_a_share_of_the_batches_are_resumed_where_they_were(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = [*tiny_run, "--trainer.max_steps=-1", "--trainer.max_epochs", "3"]
    options += ["--trainer.limit_train_batches", "0.5", "--checkpoints.every_n_steps", "3"]
    assert main(["fit", *options, "--run.name", "whole"]) == 0
    assert saved_checkpoints(tmp_path / "whole" / "checkpoints")[-1].step == 12
    killed = [*options, "--run.name", "killed", *fault_options("train_batch_end", 5, 11)]
    assert run_until_done(["fit", *killed]) == 2
    assert_same_story(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("hook", ["save", "validation_batch_end", "validation_end"])
def test_a_kill_inside_a_save_or_a_validation_leaves_no_trace(
    hook: str, tiny_run: list[str], tmp_path: Path, twin: Path
) -> None:
    options = named(tiny_run, "killed")
    assert run_until_done(["fit", *options, *fault_options(hook, 4, 8, 20)]) == 3
    assert_same_story(tmp_path / "killed", twin)


@pytest.mark.parametrize(
    "hook, kind",
    [("train_start", "SIGTERM"), ("train_batch_start", "SIGINT"), ("train_batch_start", "SIGUSR1")]
    + [("validation_batch_end", "SIGTERM")],
)
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_same_command_goes_on(
    kind: str, hook: str, tiny_run: list[str], tmp_path: Path, twin: Path
) -> None:
    options = named(tiny_run, "stopped")
    step = {"train_start": 0, "train_batch_start": 10, "validation_batch_end": 12}[hook]
    times = 1 if kind == "SIGINT" else 2
    arguments = ["fit", *options, *fault_options(hook, step, kind=kind, times=times)]
    assert main(arguments) == (130 if kind == "SIGINT" else 75)
    saved = saved_checkpoints(tmp_path / "stopped" / "checkpoints")[-1].step
    assert saved == {"train_start": 0, "train_batch_start": 11, "validation_batch_end": 12}[hook]
    assert main(arguments) == 0
    assert_same_story(tmp_path / "stopped", twin)


def test_a_used_up_time_budget_ends_like_a_signal(
    tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = named(tiny_run, "budget")
    assert main(["fit", *options, "--max_time", "0.001s"]) == 75
    assert "time budget" in capsys.readouterr().err
    assert main(["fit", *options, "--max_time", "00:01:00:00"]) == 0
    assert_same_story(tmp_path / "budget", twin)


@pytest.mark.parametrize(("kind", "code", "times"), [("SIGTERM", 75, 1), ("SIGINT", 130, 0)])
def test_a_stop_puts_the_job_back_into_the_queue_but_not_ctrl_c(
    kind: str, code: int, times: int, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requeued: list[bool] = []
    monkeypatch.setattr("pretrain.lightning_cli.requeue", lambda: requeued.append(True))
    options = ["--preemption.requeue", "true", *fault_options("train_batch_end", 2, kind=kind)]
    assert main(["fit", *tiny_run, *options]) == code
    assert len(requeued) == times


def test_a_run_of_so_many_epochs_is_told_to_raise_them(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "1"]
    assert main(["fit", *tiny_run, *epochs]) == 0
    capsys.readouterr()
    assert main(["fit", *tiny_run, *epochs]) == 0
    assert "steps done. To train longer raise --trainer.max_epochs, " in capsys.readouterr().err


def test_a_complete_run_says_so_and_trains_longer_if_asked(
    tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = story(twin)
    assert main(["fit", *named(tiny_run, "twin")]) == 0
    said = capsys.readouterr().err
    assert "is complete: 22 steps done. To train longer raise --trainer.max_steps, " in said
    assert story(twin) == before
    assert main(["fit", *named(tiny_run, "twin"), "--trainer.max_steps", "24"]) == 0
    assert "trainer.max_steps: 22 in the checkpoint, 24 now" in capsys.readouterr().err
    assert [row["step"] for row in story(twin)][-2:] == [24, 24]


def test_the_command_line_beats_the_checkpoint_loudly(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*named(tiny_run, "run"), "--model.optimizer.schedule", "constant"]
    stopped = fault_options("train_batch_start", 9, kind="SIGTERM")
    assert main(["fit", *options, *stopped]) == 75
    changed = ["--model.optimizer.lr", "0.003", "--model.optimizer.beta2", "0.9"]
    assert main(["fit", *options, *changed]) == 0
    said = capsys.readouterr().err
    assert "model.optimizer.lr: 0.01 in the checkpoint, 0.003 now" in said
    rates = {row["step"]: row["train/lr"] for row in story(tmp_path / "run") if "train/lr" in row}
    assert rates[10] == 0.01 and rates[11] == 0.003 == rates[22]
    content = load_checkpoint(saved_checkpoints(tmp_path / "run" / "checkpoints")[-1].path)
    assert content["optimizer_states"][0]["param_groups"][0]["betas"][1] == 0.9


def test_a_resume_with_other_data_tokenizer_objective_or_encoder_is_refused(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = fault_options("train_batch_start", 3, kind="SIGTERM")
    assert main(["fit", *tiny_run, *stopped]) == 75
    capsys.readouterr()
    for change, named_value in (
        (["--model.objective", "mlm"], "objective"),
        (["--model.encoder.num_layers", "3"], "num_layers"),
        (["--data.max_len", "24"], "max_len"),
        (["--seed_everything", "7"], "seed"),
        (["--data.masking.mask_prob", "0.2"], "masking"),
    ):
        assert main(["fit", *tiny_run, *change]) == 2
        said = capsys.readouterr().err
        assert named_value in said and "--run.name" in said, said


def test_muon_goes_on_to_the_bit_and_adamw_does_not_take_over_from_it(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    muon = ["--model.optimizer.matrices", "muon", "--model.optimizer.muon_every_n_steps", "3"]
    assert main(["fit", *named(tiny_run, "alone"), *muon]) == 0
    faults = fault_options("train_batch_end", 5, 13)
    assert run_until_done(["fit", *named(tiny_run, "killed"), *muon, *faults]) == 2
    assert_same_story(tmp_path / "killed", tmp_path / "alone")
    assert any(name.endswith("momentum_buffer") for name in final_state(tmp_path / "killed"))
    assert main(["fit", *named(tiny_run, "killed"), "--trainer.max_steps", "24"]) == 2
    assert "matrices: checkpoint 'muon', command line 'adamw'" in capsys.readouterr().err


def test_broken_checkpoints_are_passed_over_by_name_and_never_in_silence(
    tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*named(tiny_run, "broken"), "--checkpoints.every_n_steps", "2"]
    stopped = fault_options("train_batch_start", 9, kind="SIGTERM")
    assert main(["fit", *options, *stopped]) == 75
    folder = tmp_path / "broken" / "checkpoints"
    newest = saved_checkpoints(folder)[-1]
    content = bytearray((newest.path / STATE_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (newest.path / STATE_FILE).write_bytes(content)
    assert main(["fit", *options]) == 0
    assert newest.path.name in capsys.readouterr().err
    assert (folder / "set_aside" / newest.path.name).exists()
    assert_same_story(tmp_path / "broken", twin)
    for saved in saved_checkpoints(folder):
        (saved.path / STATE_FILE).write_bytes(b"")
    assert main(["fit", *options]) == 2
    said = capsys.readouterr().err
    assert all(saved.path.name in said for saved in saved_checkpoints(folder))


def test_resume_takes_a_path_and_forgets_what_came_after(
    tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = saved_checkpoints(twin / "checkpoints")[-2]
    before = story(twin)
    assert main(["fit", *named(tiny_run, "twin"), "--resume", str(older.path)]) == 0
    assert story(twin) == before
    assert main(["fit", *named(tiny_run, "other"), "--resume", str(older.path)]) == 0
    guessed, *rows = story(tmp_path / "other")
    assert guessed == {**before[0], "step": older.step}
    assert rows == [row for row in before if row["step"] > older.step]
    assert main(["fit", *named(tiny_run, "other"), "--resume", str(older.path)]) == 2
    assert "would replace" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["twin", "other"])
def test_a_run_that_began_at_a_path_and_was_stopped_goes_on_by_the_same_command(
    name: str, tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = saved_checkpoints(twin / "checkpoints")[-2]
    before = story(twin)
    begin = ["fit", *named(tiny_run, name), "--resume", str(older.path)]
    begin += ["--trainer.max_steps", "26", "--checkpoints.every_n_steps", "2"]
    begin += ["--checkpoints.keep_last", "9"]
    for step in (older.step + 2, older.step + 4):
        assert main([*begin, *fault_options("train_batch_end", step, kind="SIGTERM")]) == 75
        assert saved_checkpoints(tmp_path / name / "checkpoints")[-1].step == step
    capsys.readouterr()
    assert main(begin) == 0
    assert f"going on from {tmp_path / name / 'checkpoints'}" in capsys.readouterr().err
    rows = story(tmp_path / name)
    assert rows[-1]["step"] == 26
    trained = [row["step"] for row in rows if "train/loss" in row and row["step"] > older.step]
    assert trained == list(range(older.step + 1, 27))
    if name == "twin":  # it has ended: the path means what it says again
        assert main([*begin, "--trainer.max_steps", "22"]) == 0
        assert story(twin)[-1]["step"] == before[-1]["step"]


def test_a_path_does_not_begin_in_the_folder_of_a_run_that_died_before_its_first_checkpoint(
    tiny_run: list[str], tmp_path: Path, twin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = [*named(tiny_run, "dead"), "--run.eval_every_n_steps", "12"]
    with pytest.raises(Killed):
        main(["fit", *late, *fault_options("train_batch_end", 3)])
    metrics = tmp_path / "dead" / "metrics.jsonl"
    before = metrics.read_bytes()
    older = saved_checkpoints(twin / "checkpoints")[-2]
    begin = ["fit", *named(tiny_run, "dead"), "--resume", str(older.path)]
    assert main(begin) == 2
    assert "would mix its metrics with another's" in capsys.readouterr().err
    assert metrics.read_bytes() == before
    killed = [*begin, "--run.overwrite", "true", *fault_options("train_batch_end", older.step + 1)]
    with pytest.raises(Killed):
        main(killed)
    assert main(begin) == 0  # that one is on its way
    assert [row["step"] for row in story(tmp_path / "dead")][:2] == [older.step, older.step + 1]


def test_an_earlier_run_is_never_replaced_unasked(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run]) == 0
    capsys.readouterr()
    assert main(["fit", *tiny_run, "--resume", "never"]) == 2
    assert "holds an earlier run" in capsys.readouterr().err
    assert main(["fit", *tiny_run, "--run.overwrite", "true"]) == 0
    events = (tmp_path / "tiny" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in events] == ["started", "finished"]


def test_no_more_checkpoints_are_kept_than_the_last_two_and_the_best(twin: Path) -> None:
    folder = twin / "checkpoints"
    steps = [saved.step for saved in saved_checkpoints(folder)]
    losses = {row["step"]: row["val/loss"] for row in story(twin) if "val/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert steps[-2:] == [20, 22] and set(steps) == {20, 22, best}
    assert (folder / "last.ckpt").resolve() == folder / "step-00000022.ckpt"
    assert (folder / "best.ckpt").resolve().name == f"step-{best:08d}.ckpt"


def test_a_full_disk_ends_a_run_with_the_checkpoints_before_it_intact(
    tiny_run: list[str],
    tmp_path: Path,
    twin: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fsync = os.fsync

    def full_after_step_8(descriptor: int) -> None:
        if "step-00000012" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    options = named(tiny_run, "full")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_after_step_8)
        assert main(["fit", *options]) == 74
    assert "step-00000012" in capsys.readouterr().err
    assert [saved.step for saved in saved_checkpoints(tmp_path / "full" / "checkpoints")] == [4, 8]
    assert main(["fit", *options]) == 0
    assert_same_story(tmp_path / "full", twin)


def test_a_line_about_several_steps_does_not_tell_where_the_run_was_stopped(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = [*tiny_run, "--trainer.max_steps", "9", "--trainer.log_every_n_steps", "3"]
    assert main(["fit", *options, "--run.name", "twin"]) == 0
    stopped = ["fit", *options, *fault_options("train_batch_start", 6, kind="SIGTERM")]
    assert main(stopped) == 75
    assert [saved.step for saved in saved_checkpoints(tmp_path / "tiny/checkpoints")][-1] == 7
    assert main(stopped) == 0
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")


def test_a_validation_that_comes_twice_because_of_a_kill_is_kept_once(
    tiny_run: list[str], tmp_path: Path
) -> None:
    assert main(["fit", *tiny_run, "--run.name", "twin"]) == 0
    faults = injected(
        ("FaultAt", {"hook": "validation_batch_end", "steps": [2], "kind": "SIGTERM"}),
        ("FaultAt", {"hook": "validation_end", "steps": [2]}),
    )
    assert main(["fit", *tiny_run, *faults]) == 75  # in a validation, with a checkpoint before it
    assert run_until_done(["fit", *tiny_run, *faults]) == 1  # when it was logged and not yet saved
    assert_same_story(tmp_path / "tiny", tmp_path / "twin")


def test_a_run_stopped_before_its_first_step_follows_the_command_line_too(
    tiny_run: list[str], tmp_path: Path
) -> None:
    constant = ["--model.optimizer.schedule", "constant", "--model.optimizer.warmup_steps", "0"]
    stopped = fault_options("train_start", 0, kind="SIGTERM")
    assert main(["fit", *tiny_run, *constant, *stopped]) == 75
    assert main(["fit", *tiny_run, *constant, "--model.optimizer.lr", "0.003"]) == 0
    rows = story(tmp_path / "tiny")
    assert {row["train/lr"] for row in rows if "train/lr" in row} == {0.003}
