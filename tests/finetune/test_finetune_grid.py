"""Running a grid: skipping, failing, dying, two at once, keeping classifiers."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from grid_fakes import always_fails, fake_fit

from data_prep.files import file_lock
from finetune import cli, grid
from finetune.grid import run_grid
from training.interruption import RunInterrupted
from training.studies.progress import duration


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    encoders = ["--encoder", str(tmp_path / "a"), "--encoder", str(tmp_path / "b")]
    where = ["--output", str(tmp_path / "grid")]
    return [*"--tasks cola --lrs 3e-5 1e-4 --seeds 1 2".split(), *encoders, *where]


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch):
    """Run a grid in this process, with one of the stand-ins for its fits."""

    def run(options: list[str], fit) -> None:
        def main(words: list[str]) -> int:
            try:
                fit(Path(words[-1]))
            except KeyboardInterrupt:
                return 130
            except (ValueError, RuntimeError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            return 0

        monkeypatch.setattr(cli, "main", main)
        run_grid([*options, "--in_process"])

    return run


@pytest.fixture
def fit_is(monkeypatch: pytest.MonkeyPatch):
    """Let one of the stand-ins be what the process of a trial runs."""

    def choose(name: str) -> None:
        fakes = str(Path(__file__).parent / "grid_fakes.py")
        monkeypatch.setattr(grid, "FIT_COMMAND", (sys.executable, fakes, name))

    return choose


def record(path: Path) -> dict:
    return json.loads(path.read_text())


def results(tmp_path: Path) -> dict[str, float]:
    found = sorted((tmp_path / "grid").rglob("result.json"))
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_a_grid_runs_every_trial_and_the_same_command_again_runs_none(
    tmp_path: Path, options: list[str], run_here, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(options, fake_fit)
    printed = capsys.readouterr().out
    assert "cola a  2 settings x 2 seeds: 0 done, 0 failed, 4 to run" in printed
    assert "[8/8] cola/b/lr0.0001-bs32-seed2: matthews 0.40" in printed
    assert "trials done: 8 of 8" in printed and "; 1 left, about 0 s" in printed
    before = results(tmp_path)
    run_here(options, always_fails)
    assert results(tmp_path) == before and len(before) == 4


def test_a_dry_run_writes_nothing(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid([*options, "--dry_run", "true"])
    assert "8 trials: 0 done, 0 failed, 8 to run" in capsys.readouterr().out
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(("given", "text"), [
    ("data.max_lenn 64", "fits of cola: .*did you mean data.max_len"),
    ("trainer.max_epochs three", r"fits of cola: .*trainer\.max_epochs.*three"),
])  # fmt: skip
def test_a_dry_run_refuses_what_every_fit_would_refuse(
    options: list[str], given: str, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        run_grid([*options, "--dry_run", *f"--fit.{given}".split()])


def test_only_the_best_classifier_of_task_and_encoder_stays(
    tmp_path: Path, options: list[str], run_here
) -> None:
    run_here(options, fake_fit)
    for encoder in ("a", "b"):
        folder = tmp_path / "grid" / "cola" / encoder
        scores = {
            path.parent.name: json.loads(path.read_text())["evaluation"]["validation"]["score"]
            for path in folder.glob("*/result.json")
        }
        kept = [path.parent.name for path in folder.glob("*/classifier")]
        assert kept == [max(scores, key=scores.__getitem__)]


@pytest.mark.parametrize(("keep", "number"), [("all", 8), ("none", 0)])
def test_all_or_no_classifiers_stay_on_demand(
    tmp_path: Path, options: list[str], run_here, keep: str, number: int
) -> None:
    run_here([*options, "--keep", keep], fake_fit)
    assert len(list((tmp_path / "grid").rglob("classifier"))) == number


def test_other_settings_in_the_same_folder_are_an_error_that_names_them(
    tmp_path: Path, options: list[str], run_here
) -> None:
    run_here(options, fake_fit)
    with pytest.raises(ValueError, match=r"data.max_len was not given, is 64.*another --output"):
        run_here([*options, "--fit.data.max_len", "64"], fake_fit)


def test_a_moved_grid_goes_on(tmp_path: Path, options: list[str], run_here) -> None:
    run_here(options, fake_fit)
    (tmp_path / "grid").rename(tmp_path / "moved")
    moved = [*options[:-1], str(tmp_path / "moved")]
    run_here(moved, always_fails)


def test_workers_finish_the_rest_when_one_trial_fails(
    tmp_path: Path, options: list[str], run_here, fit_is, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_is("fails_at_seed_2")
    with pytest.raises(ValueError, match="trials failed: 2 of 4"):
        run_grid([*options, "--lrs", "1e-4", "--jobs", "2"])
    printed = capsys.readouterr().out
    assert len(results(tmp_path)) == 1 and len(list(tmp_path.rglob("result.json"))) == 2
    assert (
        "failed: cola/a/lr0.0001-bs32-seed2: exit code 1: RuntimeError: CUDA out of mem" in printed
    )
    log = tmp_path / "grid/cola/a/lr0.0001-bs32-seed1/trial.log"
    assert log.read_text() == "one line for the log\n" and "for the log" not in printed
    with pytest.raises(ValueError, match="trials failed: 2 of 4"):
        run_here([*options, "--lrs", "1e-4"], fake_fit)
    run_here([*options, "--lrs", "1e-4", "--retry_failed", "true"], fake_fit)
    assert {record(path)["state"] for path in tmp_path.rglob("trial.json")} == {"done"}


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        ("dies_at_seed_2", "ended by SIGKILL, often because the memory"),
        ("crashes_at_seed_2", "exit code 1: KeyError: 'a bug'"),
    ],
)
def test_a_process_that_dies_costs_its_own_trial_only(
    tmp_path: Path, options: list[str], fit_is, fit: str, reason: str
) -> None:
    fit_is(fit)
    with pytest.raises(ValueError, match="trials failed: 2 of 4"):
        run_grid([*options, "--lrs", "1e-4", "--seeds", "2", "3", "--jobs", "1"])
    assert len(list(tmp_path.rglob("result.json"))) == 2
    folder = tmp_path / "grid/cola/a/lr0.0001-bs32-seed2"
    assert reason in record(folder / "trial.json")["error"]


def test_a_mistake_that_fails_every_trial_stops_the_grid_early(
    tmp_path: Path, options: list[str], run_here
) -> None:
    with pytest.raises(ValueError, match="first 3 trials failed alike, so 5 were not run"):
        run_here(options, always_fails)
    run_here([*options, "--fit.data.max_len", "64"], fake_fit)  # the mistake is mended


def test_a_trial_that_another_grid_is_at_work_on_is_left_alone(
    tmp_path: Path, options: list[str], run_here, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "grid/cola/a/lr3e-05-bs32-seed1"
    folder.mkdir(parents=True)
    with file_lock(folder / ".trial.lock") as lock:
        assert lock is not None
        run_here(options, fake_fit)
    printed = capsys.readouterr().out
    assert "lr3e-05-bs32-seed1: left to another runner" in printed
    assert "trials done: 7 of 8" in printed
    assert not (folder / "result.json").exists()


def test_ctrl_c_ends_with_what_is_left(options: list[str], run_here) -> None:
    def interrupted(trial_yaml: Path) -> None:
        if "seed2" in trial_yaml.parent.name:
            raise KeyboardInterrupt
        fake_fit(trial_yaml)

    with pytest.raises(RunInterrupted, match="4 trials left; the same command goes on") as ended:
        run_here(options, interrupted)
    assert ended.value.exit_code == 130


def test_a_grid_that_is_stopped_lets_its_fits_stop_and_goes_on(
    tmp_path: Path, options: list[str], fit_is
) -> None:
    fit_is("waits_at_seed_2")
    one = [*options, "--lrs", "1e-4", "--seeds", "2", "--tasks", "cola", "--jobs", "2"]

    def stop() -> None:
        while len(list(tmp_path.rglob("started"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(RunInterrupted, match="2 trials left") as ended:
        run_grid(one)
    assert ended.value.exit_code == 75
    assert {record(path)["state"] for path in tmp_path.rglob("trial.json")} == {"interrupted"}
    run_grid(one)
    assert len(list(tmp_path.rglob("result.json"))) == 2


def test_an_encoder_or_a_task_that_is_not_there_stops_before_anything(options: list[str]) -> None:
    with pytest.raises(ValueError, match="--encoder runs/nowhere: no such folder"):
        run_grid([*options, "--encoder", "runs/nowhere"])
    with pytest.raises(ValueError, match="unknown task 'kola'"):
        run_grid([*options, "--tasks", "kola"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (98, "98 s"), (600, "10 min"), (11_100, "3 h 05 min")]
)
def test_times_are_said_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
