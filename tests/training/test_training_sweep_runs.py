"""A sweep runs every trial once, whatever happens to the runner; failures are told and kept."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_files import record, start_sweep, starts, write_sweep

from pretrain.cli import main
from training.studies.runner import environment_of


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def sweep(file: Path, output: Path, *options: str) -> int:
    return main(["sweep", str(file), "--output", str(output), *options])


def test_every_trial_runs_once_and_leaves_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write_sweep(tmp_path, {"x": {"values": [1, 2, 3]}}), tmp_path / "out"
    assert sweep(file, output, "--jobs", "2") == 0
    assert "trials done: 3 of 3" in capsys.readouterr().out
    assert sweep(file, output) == 0
    assert starts(output) == {"x-1": 1, "x-2": 1, "x-3": 1}
    found = record(output / "x-2")
    assert (found["state"], found["exit_code"], found["parameters"]) == ("done", 0, {"x": 2})
    assert found["metrics"]["val/mlm_accuracy"] == 2.0
    assert found["command"][-3:] == ["--x=2", "--run.name=x-2", f"--run.root={output}"]
    assert found["started"] <= found["ended"] and found["starts"] == 1


def test_a_dry_run_prints_the_commands_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write_sweep(tmp_path, {"x": {"values": [1, 2]}}), tmp_path / "out"
    assert sweep(file, output, "--dry-run", "--", "--more") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert f"--x=1 --more --x=1 --run.name=x-1 --run.root={output}" in first
    assert second.count("--x=2") == 2
    assert not output.exists()


def test_failed_trials_are_told_and_run_again_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, {"end": {"values": ["0", "fail"]}})
    output = tmp_path / "out"
    for _ in range(2):
        assert sweep(file, output) == 2
        printed = capsys.readouterr()
        assert "failed: end-fail: exit code 3: the reason" in printed.out
        assert "--retry_failed true runs them again" in printed.err
    assert starts(output) == {"end-0": 1, "end-fail": 1}
    assert sweep(file, output, "--retry_failed", "true") == 2
    assert starts(output) == {"end-0": 1, "end-fail": 2}


def test_a_mistake_in_the_sweep_ends_it_after_three_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, {"x": {"values": [1, 2, 3, 4, 5]}, "end": {"value": "fail"}})
    assert sweep(file, tmp_path / "out") == 2
    assert "the first 3 trials failed alike" in capsys.readouterr().err
    assert len(starts(tmp_path / "out")) == 3


def test_a_preempted_trial_is_started_again(tmp_path: Path) -> None:
    file, output = write_sweep(tmp_path, {"end": {"value": "again"}}), tmp_path / "out"
    assert sweep(file, output) == 0
    assert starts(output) == {"trial": 3} and record(output / "trial")["starts"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--", "--y=5"], "other additions"), (["--seed", "1"], "--seed 42, not 1")],
)
def test_a_folder_takes_one_sweep_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    file = write_sweep(tmp_path, {"x": {"values": [1]}}, method="random", run_cap=1)
    output = tmp_path / "out"
    assert sweep(file, output) == 0
    assert sweep(file, output, *options) == 2
    assert message in capsys.readouterr().err
    write_sweep(tmp_path, {"x": {"values": [2]}}, method="random", run_cap=1)
    assert sweep(file, output) == 2
    assert "another sweep file" in capsys.readouterr().err


def test_a_sweep_file_may_be_a_pipe(tmp_path: Path) -> None:
    file, pipe = write_sweep(tmp_path, {"x": {"values": [1]}}), tmp_path / "pipe"
    os.mkfifo(pipe)
    for _ in range(2):
        writer = threading.Thread(target=pipe.write_text, args=(file.read_text(),))
        writer.start()
        assert sweep(pipe, tmp_path / "out") == 0
        writer.join()
    assert starts(tmp_path / "out") == {"trial": 1}


def test_a_larger_count_adds_to_a_random_sweep(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, {"x": {"min": 0.0, "max": 1.0}}, method="random")
    output = tmp_path / "out"
    assert sweep(file, output, "--count", "1") == 0
    assert sweep(file, output, "--count", "3") == 0
    assert set(starts(output).values()) == {1} and len(starts(output)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_goes_on_without_repeating_finished_trials(
    tmp_path: Path, number: signal.Signals
) -> None:
    parameters = {"end": {"values": ["0", "wait", "also"]}}
    file, output = write_sweep(tmp_path, parameters), tmp_path / "out"
    runner = start_sweep(file, output)
    until((output / "waiting").exists)
    runner.send_signal(number)
    code = runner.wait(20)
    if number == signal.SIGTERM:
        assert code == 75 and record(output / "end-wait")["state"] == "interrupted"
    else:  # the trial outlives its runner, and holds its lock as long as it does
        pid = int((output / "end-wait" / "starts.txt").read_text())
        second = start_sweep(file, output, "--wait", "false")
        assert "end-wait: left to another runner" in second.communicate(timeout=20)[0]
        assert starts(output) == {"end-0": 1, "end-wait": 1, "end-also": 1}
        os.kill(pid, signal.SIGTERM)
    assert sweep(file, output) == 0
    assert starts(output) == {"end-0": 1, "end-wait": 2, "end-also": 1}


def test_two_runners_share_a_sweep_and_never_a_trial(tmp_path: Path) -> None:
    parameters = {"x": {"values": list(range(12))}, "seconds": {"value": 0.05}}
    file, output = write_sweep(tmp_path, parameters), tmp_path / "out"
    runners = [start_sweep(file, output, "--jobs", "2") for _ in range(2)]
    printed = [runner.communicate(timeout=60)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], printed
    assert starts(output) == {f"x-{x}": 1 for x in range(12)}


def test_a_damaged_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = write_sweep(tmp_path, {"x": {"value": 1}}), tmp_path / "out"
    (output / "trial").mkdir(parents=True)
    (output / "trial" / "trial.json").write_text('{"exit_code": ')
    assert sweep(file, output) == 2
    assert re.search(r"trial/trial.json: is not valid JSON of a trial", capsys.readouterr().err)


def test_a_trial_whose_metrics_cannot_be_read_has_failed_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write_sweep(tmp_path, {"x": {"values": [1, 2]}}), tmp_path / "out"
    (tmp_path / "fake_run.py").write_text(
        "import pathlib, sys\n"
        "given = dict(word[2:].split('=') for word in sys.argv[1:])\n"
        "folder = pathlib.Path(given['run.root']) / given['run.name']\n"
        "text = '{\\n{\\n' if given['x'] == '1' else '{\"step\": 1}\\n'\n"
        "(folder / 'metrics.jsonl').write_text(text)\n"
    )
    assert sweep(file, output) == 2
    assert "metrics.jsonl, line 1: not a JSON object" in capsys.readouterr().out
    assert (record(output / "x-1")["exit_code"], record(output / "x-2")["state"]) == (0, "done")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "no such sweep file"),
        (["x.yaml", "--jobs", "0"], "--jobs is 0; give 1 or more"),
        (["x.yaml", "--jobz", "2"], "Did you mean 'jobs'"),
        (["x.yaml", "--", "--run.name=a"], "a name and folder of its own"),
        (["x.yaml", "--engine", "slurm"], "'slurm', it must be one of local, ray"),
        (["x.yaml", "--dry_run", "maybe"], "'maybe', it must be true or false"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_program_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, {"x": {"value": 1}}, command=["no-such-program", "${args}"])
    assert sweep(file, tmp_path / "out") == 2
    assert "no-such-program cannot be started" in capsys.readouterr().err


def test_follow_is_put_before_the_options_of_fit_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["go", "trial", "--", "${args}"]
    file = write_sweep(tmp_path, {"x": {"value": 1}}, command=command)
    follow = ["--dry_run", "--follow", "validate", "--data_folder", "sst2=d"]
    assert sweep(file, tmp_path / "out", *follow) == 0
    assert capsys.readouterr().out.startswith(
        "go trial --follow validate --data_folder sst2=d -- --x=1 --run.name=trial"
    )
    assert sweep(write_sweep(tmp_path, {"x": {"value": 1}}), tmp_path / "out", *follow) == 2
    assert "whose command is `trial" in capsys.readouterr().err


def test_trials_at_once_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert "CUDA_VISIBLE_DEVICES" not in environment_of(0, 1, ["0", "1"])
    shares = [environment_of(place, 2, ["0", "1", "2"]) for place in (0, 1)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0,2", "1"]
    assert shares[0]["OMP_NUM_THREADS"] == "4"
    assert environment_of(3, 4, ["0", "1"])["CUDA_VISIBLE_DEVICES"] == "1"


def test_the_commands_start_without_torch(repository: Path) -> None:
    import subprocess

    code = (
        "import sys\nimport training.studies.command, training.studies.command\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
