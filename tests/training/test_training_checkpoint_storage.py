"""Checkpoint files: found, verified, and no code in them is ever run."""

import errno
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import content, failing, flip_bit, hidden, newest, redigest, save

from training.checkpoints import retries, storage
from training.checkpoints.schedule import SavesAndStops
from training.checkpoints.storage import LISTING, STATE_FILE, CheckpointError, checkpoint_path
from training.interruption import StopRequest


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", 400)
    loaded = storage.load_checkpoint(path)
    assert path.name == "step-00000400.ckpt" and loaded["step"] == 400
    assert torch.equal(loaded["state_dict"]["weight"], torch.full((2000,), 400.0))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_the_digest_file_is_what_sha256sum_checks(tmp_path: Path) -> None:
    path = save(tmp_path, 1, 1)
    command = ["sha256sum", "-c", "--strict", LISTING]
    subprocess.run(command, cwd=path, check=True, capture_output=True)


def test_checkpoints_are_found_by_name_in_order_of_steps(tmp_path: Path) -> None:
    save(tmp_path, 1000, 200, 123456789)
    for name in (".step-00000300.ckpt.tmp", "best.ckpt", "step-5.ckpt", "step-00000007.ckpt.old"):
        (tmp_path / name).touch()
    assert [c.step for c in storage.saved_checkpoints(tmp_path)] == [200, 1000, 123456789]
    assert storage.saved_checkpoints(tmp_path / "missing") == []


def test_no_checkpoint_at_all_is_none_without_a_warning(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, []) and newest(tmp_path / "missing") == (None, [])


def test_the_newest_valid_is_taken_and_each_broken_one_is_named(tmp_path: Path) -> None:
    flip_bit(save(tmp_path, 100, 200, 300), 0.5)
    (save(tmp_path, 400) / LISTING).unlink()
    step, warnings = newest(tmp_path)
    assert step == 200
    assert "step-00000400.ckpt" in warnings[0] and "no digest" in warnings[0]
    assert "step-00000300.ckpt" in warnings[1] and "damaged" in warnings[1]


@pytest.mark.parametrize(("times", "step", "said"), [(3, 200, 0), (4, 100, 1)])
def test_a_newer_checkpoint_is_passed_over_only_for_an_error_that_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, step: int, said: int
) -> None:
    save(tmp_path, 100, 200)
    stale, digest = failing(OSError(errno.ESTALE, "passes"), times=times), storage.file_sha256
    monkeypatch.setattr(storage, "file_sha256", lambda path: stale() or digest(path))
    monkeypatch.setattr(retries.time, "sleep", lambda _: None)
    found, warnings = newest(tmp_path)
    assert found == step and len(warnings) == said


def test_only_broken_checkpoints_never_mean_a_silent_start_from_zero(tmp_path: Path) -> None:
    for step in (100, 200):
        flip_bit(save(tmp_path, step), 0.3)
    with pytest.raises(CheckpointError, match=r"none of its 2.*00200.*00100.*overwrite true"):
        newest(tmp_path)


def test_removing_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    storage.remove_checkpoint(path)
    storage.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    (tmp_path / ".step-00000006.ckpt.tmp").write_bytes(b"half")
    (tmp_path / ".step-00000007.ckpt.tmp").mkdir()
    (tmp_path / ".notes.tmp").touch()
    storage.remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, ".notes.tmp"}


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_one_flipped_bit_is_found_wherever_it_is(tmp_path: Path, place: float) -> None:
    path = save(tmp_path, 5)
    flip_bit(path, place)
    with pytest.raises(CheckpointError, match="step-00000005.ckpt: the checkpoint is damaged"):
        storage.load_checkpoint(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = save(tmp_path, 5) / STATE_FILE
    whole = file.read_bytes()
    for data, words in ((whole[:-100], "cut short"), (b"", "cut short"), (None, "missing")):
        file.write_bytes(data) if data is not None else file.unlink()
        with pytest.raises(CheckpointError, match=f"damaged: .*{words}: {STATE_FILE}"):
            storage.verify_checkpoint(file.parent)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        storage.verify_checkpoint(checkpoint_path(tmp_path, 6))


def test_a_missing_digest_tells_how_to_make_one_and_that_works(tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    torch.save(content(3), path)
    with pytest.raises(CheckpointError, match=r"sha256sum foreign.ckpt > foreign.ckpt.sha256"):
        storage.load_checkpoint(path)
    assert storage.load_checkpoint(redigest(path))["step"] == 3
    folder = save(tmp_path, 5)
    (folder / LISTING).unlink()
    with pytest.raises(CheckpointError, match=r"find . .* sha256sum .* > SHA256SUMS"):
        storage.load_checkpoint(folder)
    assert storage.load_checkpoint(redigest(folder))["step"] == 5


def test_a_digest_of_another_file_or_no_digest_at_all_is_refused(tmp_path: Path) -> None:
    path, other = save(tmp_path, 5), save(tmp_path, 6)
    text = (other / LISTING).read_text()
    for broken, words in (
        (text, "changed or cut short: state.pt"),
        (text.replace("state", "other"), "missing: other.pt; not listed: state.pt"),
        ("", "not listed: state.pt"),
        ("deadbeef  state.pt\n", "line 1 is not"),
    ):
        (path / LISTING).write_text(broken)
        with pytest.raises(CheckpointError, match=words):
            storage.verify_checkpoint(path)


def test_a_link_leads_to_the_step_file_and_its_digest(tmp_path: Path) -> None:
    link = tmp_path / "last.ckpt"
    for step in (5, 6):
        storage.point_to(link, save(tmp_path, step))
        assert storage.load_checkpoint(link)["step"] == step
    assert not Path(os.readlink(link)).is_absolute()
    storage.remove_checkpoint(checkpoint_path(tmp_path, 6))
    with pytest.raises(CheckpointError, match="last.ckpt, which points to .*06.ckpt"):
        storage.load_checkpoint(link)


def test_a_link_never_replaces_a_real_file_and_is_skipped_where_it_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, mine = save(tmp_path, 5), tmp_path / "best.ckpt"
    mine.write_text("mine")
    storage.point_to(mine, path)
    assert mine.read_text() == "mine"
    monkeypatch.setattr(os, "symlink", failing(OSError(errno.EPERM, "no links")))
    storage.point_to(tmp_path / "last.ckpt", path)
    assert not (tmp_path / "last.ckpt").exists() and hidden(tmp_path) == []


def test_only_a_newer_state_of_the_same_run_replaces_what_it_goes_on_from(tmp_path: Path) -> None:
    saves = SavesAndStops(tmp_path / "resume", stop=StopRequest(), every_n_minutes=0)
    first = save(tmp_path / "resume", 1)
    saves.after_save(save(tmp_path / "elsewhere", 5))
    assert first.is_dir()
    saves.after_save(save(tmp_path / "resume", 2))
    assert [c.step for c in storage.saved_checkpoints(tmp_path / "resume")] == [2]


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_bomb_is_refused_and_never_goes_off(tmp_path: Path, old_format: bool) -> None:
    path, marker = tmp_path / "bomb.ckpt", tmp_path / "marker"
    torch.save({"x": Bomb(marker)}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match=r"holds Python objects, refused: \w+.mkdir"):
        storage.load_checkpoint(redigest(path))
    path.write_bytes(pickle.dumps(Bomb(marker), protocol=2))
    with pytest.raises(CheckpointError, match="bomb.ckpt"):
        storage.load_checkpoint(redigest(path))
    assert not marker.exists()


def test_other_classes_are_refused_by_name_when_loading(tmp_path: Path) -> None:
    path = tmp_path / "numpy.ckpt"
    torch.save({"loss": np.float64(0.5)}, path)
    with pytest.raises(CheckpointError, match=r"refused: numpy.*scalar"):
        storage.load_checkpoint(redigest(path))


def test_what_could_not_be_loaded_again_is_refused_when_saving(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    for value in (np.float64(0.5), Path("x"), torch.nn.Linear(1, 1)):
        with pytest.raises(ValueError, match=r"the checkpoint holds objects of \w+"):
            storage.write_checkpoint({"value": value}, path)
    assert storage.load_checkpoint(path)["step"] == 5 and hidden(tmp_path) == []


@pytest.mark.parametrize("data", [b"PK\x05\x06" + bytes(18), b"no checkpoint", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_called_so(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"this is no checkpoint|cannot be read as a checkpoint"
    ):
        storage.load_checkpoint(redigest(path))
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="it holds a list"):
        storage.load_checkpoint(redigest(path))
