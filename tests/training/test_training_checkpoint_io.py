"""Lightning's plugin: reported only when verified, retried, never swallowed, also aside."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_files import content, failing, flip_bit, newest
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from training.checkpoints import io as io_module
from training.checkpoints import storage
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.storage import CheckpointError, checkpoint_path


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def checkpoint_io(request: pytest.FixtureRequest) -> Iterator[VerifiedCheckpointIO]:
    io = VerifiedCheckpointIO(asynchronous=request.param, retry_wait_s=0.0)
    yield io
    io.teardown()


def test_a_save_is_reported_after_it_is_verified(
    checkpoint_io: VerifiedCheckpointIO, tmp_path: Path
) -> None:
    seen = []
    checkpoint_io.on_saved = lambda path: seen.append((path, newest(tmp_path)))
    for step in (1, 2):
        checkpoint_io.save_checkpoint(content(step), str(checkpoint_path(tmp_path, step)))
    checkpoint_io.wait()
    assert seen == [(checkpoint_path(tmp_path, step), (step, [])) for step in (1, 2)]
    loaded = checkpoint_io.load_checkpoint(checkpoint_path(tmp_path, 2), weights_only=None)
    assert loaded["step"] == 2
    with pytest.raises(ValueError, match="weights_only=False would run"):
        checkpoint_io.load_checkpoint(checkpoint_path(tmp_path, 2), weights_only=False)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ENOENT])
def test_errors_that_pass_are_retried(
    checkpoint_io: VerifiedCheckpointIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    monkeypatch.setattr(os, "fsync", failing(OSError(number, "passes"), times=2))
    checkpoint_io.save_checkpoint(content(1), checkpoint_path(tmp_path, 1))
    checkpoint_io.wait()
    assert newest(tmp_path) == (1, []) and caplog.text.count("is tried again") == 2


def test_a_folder_that_vanishes_during_a_save_is_made_again(
    checkpoint_io: VerifiedCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, gone = tmp_path / "checkpoints", os.replace, []

    def vanishing(*args: object) -> None:
        if not gone:
            gone.append(shutil.rmtree(folder))
        real(*args)

    monkeypatch.setattr(os, "replace", vanishing)
    checkpoint_io.save_checkpoint(content(1), checkpoint_path(folder, 1))
    checkpoint_io.wait()
    assert newest(folder) == (1, [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failed_save_is_raised_and_never_reported_as_saved(
    checkpoint_io: VerifiedCheckpointIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    checkpoint_io.on_saved = lambda path: pytest.fail(f"{path} was reported as saved")
    monkeypatch.setattr(os, "fsync", failing(OSError(number, "fails")))
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoint_io.save_checkpoint(content(1), checkpoint_path(tmp_path, 1))
        checkpoint_io.save_checkpoint(content(2), checkpoint_path(tmp_path, 2))
    assert caplog.text.count("is tried again") == (3 if number == errno.EIO else 0)
    assert list(tmp_path.iterdir()) == []
    checkpoint_io.wait()


def test_a_background_save_keeps_the_state_of_the_moment_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), storage.write_serialised
    monkeypatch.setattr(io_module, "write_serialised", lambda *args: go_on.wait(10) and real(*args))
    io = VerifiedCheckpointIO(asynchronous=True)
    weights, numbers = torch.ones(4), [1]
    io.save_checkpoint({"weights": weights, "numbers": numbers}, checkpoint_path(tmp_path, 1))
    weights.mul_(7)
    numbers.append(2)
    assert newest(tmp_path) == (None, [])
    go_on.set()
    loaded = io.load_checkpoint(checkpoint_path(tmp_path, 1))
    assert loaded["weights"].tolist() == [1.0] * 4 and loaded["numbers"] == [1]
    io.teardown()


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    state = torch.nn.Linear(300, 300).state_dict()
    state["tied"] = state["weight"]
    storage.write_checkpoint({"state": state}, checkpoint_path(tmp_path, 1))
    file = checkpoint_path(tmp_path, 1) / storage.STATE_FILE
    assert file.stat().st_size < 1.2 * 4 * 300 * 300
    loaded = storage.load_checkpoint(checkpoint_path(tmp_path, 1))["state"]
    assert loaded["tied"].data_ptr() == loaded["weight"].data_ptr()


class Line(LightningModule):
    """A straight line, learnt with momentum, so that the optimiser has a state to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(io: VerifiedCheckpointIO, steps: int, ckpt_path: Path | None = None) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, plugins=[io], enable_checkpointing=False, **quiet
    )
    torch.manual_seed(0)
    trainer.fit(Line(), DataLoader(torch.ones(3, 1)), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize("asynchronous", [False, True])
def test_lightnings_trainer_saves_and_resumes_through_it(
    tmp_path: Path, asynchronous: bool
) -> None:
    path = checkpoint_path(tmp_path, 3)
    io = VerifiedCheckpointIO(asynchronous=asynchronous)
    fit(io, 3).save_checkpoint(path)
    io.teardown()
    resumed = fit(VerifiedCheckpointIO(asynchronous=asynchronous), 6, ckpt_path=path)
    whole = fit(VerifiedCheckpointIO(asynchronous=asynchronous), 6)
    assert resumed.global_step == 6
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    flip_bit(path, 0.5)
    with pytest.raises(CheckpointError, match="damaged"):
        fit(VerifiedCheckpointIO(), 6, ckpt_path=path)
