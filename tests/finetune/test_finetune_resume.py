"""A fit that is stopped or killed goes on when its command is run again, to the bit on a CPU."""

import errno
import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from finetune_runs import (
    FaultAt,
    assert_same_story,
    fit_arguments,
    interrupt,
    result_of,
    with_callback,
)

from finetune.artifact import load_classifier
from finetune.callbacks import TrainingLog
from finetune.cli import main
from finetune.run_config import differences
from training.checkpoints.storage import STATE_FILE
from training.run_folder import sole_writer

# 5 optimiser steps of 4 micro-batches per epoch; validation also in the middle of the third epoch.
OPTIONS = (
    *("--data.global_batch_size", "32", "--data.micro_batch_size", "8", "--trainer.max_epochs"),
    *("3", "--trainer.log_every_n_steps", "3", "--trainer.val_check_interval", "0.4"),
)


class Hit(BaseException):
    """What stands for a kill: nothing in the code catches it."""


def kill() -> None:
    raise Hit


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    assert main(fit_arguments(bundle, folder, "whole", *OPTIONS, test=True)) == 0
    return folder / "whole"


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the fits from now on a callback."""
    return partial(with_callback, monkeypatch)


@pytest.mark.parametrize(
    "fault",
    [
        {"epoch": 0, "batch": 10},
        {"epoch": 1, "batch": 0},
        {"epoch": 2, "batch": 13},
        {"epoch": 0, "validation": 2},
    ],
    ids=str,
)
def test_a_killed_fit_equals_one_that_was_left_alone(
    undisturbed: Path, bundle: Path, faulty: Any, fault: dict[str, int]
) -> None:
    name = "killed-" + "-".join(f"{key}{value}" for key, value in fault.items())
    arguments = fit_arguments(bundle, undisturbed.parent, name, *OPTIONS, test=True)
    faulty(FaultAt(kill, **fault))
    with pytest.raises(Hit):
        main(arguments)
    run = undisturbed.parent / name
    assert not (run / "result.json").exists()
    faulty(None)
    assert main(arguments) == 0
    assert_same_story(run, undisturbed)


def test_loader_workers_go_on_with_the_same_rows(
    undisturbed: Path, bundle: Path, faulty: Any
) -> None:
    arguments = fit_arguments(bundle, undisturbed.parent, "workers", *OPTIONS, test=True)
    faulty(FaultAt(interrupt, epoch=1, batch=5))
    assert main(arguments) == 130
    faulty(None)
    assert main([*arguments, "--data.num_workers", "2"]) == 0
    assert_same_story(undisturbed.parent / "workers", undisturbed)


def test_a_signal_stops_between_two_steps_with_a_checkpoint(
    undisturbed: Path, bundle: Path, faulty: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "signal"
    arguments = fit_arguments(bundle, undisturbed.parent, name, *OPTIONS, test=True)
    faulty(FaultAt(terminate, epoch=1, batch=9))
    capsys.readouterr()
    assert main(arguments) == 75
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("stopped: SIGTERM was received: stopped after step 8 with ")
    assert ".ckpt; the same command goes on from there" in message
    assert load_classifier(undisturbed.parent / name).info.labels == ("no", "yes")
    assert "this fit has not ended" in capsys.readouterr().err
    faulty(None)
    options = ["--trainer.enable_progress_bar", "true"]
    assert main([*arguments, *options]) == 0
    said = capsys.readouterr().err
    assert "going on after step 8" in said and "\nstep 9 of 15: score 0." in said
    assert_same_story(undisturbed.parent / name, undisturbed)


def test_a_finished_fit_is_shown_again_and_not_touched(
    undisturbed: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in undisturbed.iterdir()}
    capsys.readouterr()
    assert main(fit_arguments(bundle, undisturbed.parent, "whole", *OPTIONS, test=True)) == 0
    printed = capsys.readouterr()
    assert (
        "whole is complete: nothing was trained" in printed.err and "test, 41 rows" in printed.out
    )
    assert {p.name: p.stat().st_mtime_ns for p in undisturbed.iterdir()} == before


def test_a_run_does_not_go_on_with_other_settings_data_or_weights(
    bundle: Path, tmp_path: Path, faulty: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = shutil.copytree(bundle, tmp_path / "encoder")
    arguments = fit_arguments(encoder, tmp_path, "x", *OPTIONS)
    faulty(FaultAt(interrupt, epoch=0, batch=11))
    assert main(arguments) == 130
    faulty(None)
    before = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir() if p.is_file()}

    def refused(*options: str) -> str:
        capsys.readouterr()
        assert main([*arguments, *options]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        after = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir() if p.is_file()}
        assert after == before and "--run.overwrite true" in line
        return line

    assert "model.dropout_prob was 0.1, is 0.2" in refused("--model.dropout_prob", "0.2")
    assert "seed_everything was 42, is 1" in refused("--seed_everything", "1")
    train = tmp_path / "train.csv"
    content = train.read_bytes()
    train.write_bytes(content.replace(b",yes,", b",no,", 1))
    assert f"the train file {train} has changed" in refused()
    train.write_bytes(content)
    weights = encoder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + b"\0\0\0\0")
    assert f"the encoder's model.safetensors {weights} has changed" in refused()
    weights.write_bytes(kept)
    (path,) = (tmp_path / "x" / "resume").iterdir()
    (path / STATE_FILE).write_bytes((path / STATE_FILE).read_bytes()[:1000])
    assert f"{path}: the checkpoint is damaged" in refused()
    assert main([*arguments, "--run.overwrite", "true"]) == 0
    assert result_of(tmp_path / "x")["best_epoch"]


def test_another_name_of_the_same_place_is_no_other_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("run/classifier", "run/bundle", "other"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    stored = {"model": {"encoder": "run", "kind": "a"}}
    for same in ("./run", "run/classifier", str(tmp_path / "run"), "link", "other/../run/bundle"):
        assert not differences(stored, {"model": {"encoder": same, "kind": "a"}})
    for other in ("other", "nowhere"):
        assert differences(stored, {"model": {"encoder": other, "kind": "a"}}) == [
            f"model.encoder was run, is {other}"
        ]


def test_a_run_goes_on_after_an_update_that_adds_options(
    bundle: Path, tmp_path: Path, faulty: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(bundle, tmp_path, "x", *OPTIONS)
    faulty(FaultAt(kill, epoch=0, batch=10))
    with pytest.raises(Hit):
        main(arguments)
    path = tmp_path / "x" / "run_config.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["model"]["decoder"], stored["model"]["optimizer"]["eps"]
    path.write_text(yaml.safe_dump(stored))
    assert main([*arguments, "--model.optimizer.eps", "1e-4"]) == 2
    assert "model.optimizer.eps was not given, is 0.0001. Either" in capsys.readouterr().err
    faulty(None)
    assert main(arguments) == 0
    assert result_of(tmp_path / "x")["best_epoch"]


def test_a_second_writer_and_a_refused_replacement_leave_the_run_alone(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    run, nested = tmp_path / "x", tmp_path / "x" / "seed-7"
    quick = ("--trainer.max_epochs", "1")
    assert main(fit_arguments(bundle, tmp_path, "x", *quick)) == 0
    assert main(fit_arguments(bundle, tmp_path, "x/seed-7", *quick)) == 0
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    again = [*fit_arguments(bundle, tmp_path, "x", *quick), "--run.overwrite", "true"]
    with sole_writer(run, own=(), doing="fit"):
        assert main(again) == 2
    assert "x is in use: fit (process" in capsys.readouterr().err
    mistakes = (
        *(("--data.train", "gone.csv"), ("--model.encoder", "gone"), ("--data.max_len", "2")),
        *(("--trainer.max_epochs", "0"), ("--trainer.precision", "bf16-true")),
        *(("--trainer.limit_val_batches", "0"), ("--trainer.overfit_batches", "1")),
        ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/f2"),
    )
    for options in mistakes:
        assert main([*again, *options]) == 2, options
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before, options
    with monkeypatch.context() as patch:
        patch.setattr("finetune.module.FinetuneModule.training_step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(again)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert main([*again, "--trainer.fast_dev_run", "true"]) == 0
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert main([*again, "--seed_everything", "5"]) == 0
    assert result_of(run)["settings"]["seed"] == 5
    assert result_of(nested) == json.loads(before[nested / "result.json"])


def test_a_full_disk_ends_the_fit_and_keeps_what_was_saved(
    undisturbed: Path, bundle: Path, faulty: Any, monkeypatch: Any, capsys: Any
) -> None:
    arguments = fit_arguments(bundle, undisturbed.parent, "full", *OPTIONS, test=True)
    fsync = os.fsync

    def full_in_the_second_epoch(descriptor: int) -> None:
        if "step-00000007" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_in_the_second_epoch)
        assert main(arguments) == 74
    assert "the disk or quota is full" in capsys.readouterr().err
    assert main(arguments) == 0
    assert_same_story(undisturbed.parent / "full", undisturbed)


def test_losses_that_are_not_logged_yet_are_kept_as_means_over_the_ranks() -> None:
    log, again, checkpoint = TrainingLog(10), TrainingLog(10), {"callbacks": {}}
    log._losses = [torch.tensor(1.0), torch.tensor(2.0)]
    others = SimpleNamespace(reduce=lambda own, reduce_op: (own + 3 * own) / 2)
    trainer: Any = SimpleNamespace(strategy=others)
    log.on_save_checkpoint(trainer, trainer, checkpoint)
    again.load_state_dict(checkpoint["callbacks"][again.state_key])
    assert [float(loss) for loss in again._losses] == [2.0, 4.0]
