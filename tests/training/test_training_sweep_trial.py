"""A trial is one fit and what follows it: named, stopped and gone on with as one command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_files import REPOSITORY, record

from pretrain.cli import main
from training.command_line import option_value
from training.interruption import RUNNER_VARIABLE
from training.result import _KEYS, BASELINE
from training.studies.command import own_steps, parse_trial, with_run_folder
from training.studies.runner import AGENT_VARIABLES
from training.studies.trials import downstream_scores, write_study

PYTHON = sys.executable
FAKE = """
import json, pathlib, sys
_, log, _, *words = sys.argv
folder = pathlib.Path("r") / "a"
with open(log, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[1] == "fit":
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text('{"step": 4, "elapsed_s": 1, "val/mlm_accuracy": 0.5}')
if words[1] == "grid" and "broken.yaml" in words:
    sys.exit("error: the grid's reason")
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for every process a trial starts; none of them does anything."""
    (tmp_path / "fake.py").write_text(FAKE)
    log = tmp_path / "log"

    program = tmp_path / "fake_python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/fake.py {log} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", *AGENT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name in ("glue.yaml", "broken.yaml"):
        (tmp_path / name).write_text("tasks: [sst2]")
    return log


def lines(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


FIT = ["--data.folder", "d", "--run.name=a", "--run.root", "r"]


def test_what_follows_a_fit_gets_its_run_and_ends_in_a_study(commands: Path) -> None:
    follow = ["--follow", "test", "--follow", "glue.yaml", "--data_folder", "sst2=d"]
    assert main(["trial", *follow, "--", *FIT]) == 0
    fit, test, grid = lines(commands)
    assert fit == ["pretrain", "fit", *FIT]
    assert test == ["pretrain", "test", *FIT, "--run.wandb=off"]
    places = ["--encoder", "r/a", "--output", "r/a/downstream", "--folder", "sst2=d"]
    assert grid == ["finetune", "grid", "--config", "glue.yaml", *places]
    study = json.loads(Path("r/a/study.json").read_text())
    assert study["pretraining"] == {"val/mlm_accuracy": 0.5, "steps": 4}
    assert study["downstream"] == {}


def test_a_failure_is_the_trials_own_and_nothing_follows_it(commands: Path) -> None:
    follow = ["--follow", "broken.yaml", "--follow", "test"]
    assert main(["trial", *follow, "--", *FIT]) == 1
    assert [line[1] for line in lines(commands)] == ["fit", "grid"]
    assert not Path("r/a/study.json").exists()


def test_a_sweep_starts_the_fit_and_what_follows_it_itself(
    commands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "program": "pretrain",
        "method": "grid",
        "command": ["${interpreter}", "-m", "${program}", "trial", "--", "--x=1", "${args}"],
        "parameters": {"y": {"value": "a"}},
    }
    Path("s.yaml").write_text(yaml.safe_dump(content))
    sweep = ["sweep", "s.yaml", "--output", "r", "--follow", "test", "--follow"]
    own = ["--x=1", "--y=a", "--run.name=trial", "--run.root=r"]
    assert main([*sweep, "broken.yaml"]) == 2
    assert "trial: failed: exit code 1: error: the grid's reason" in capsys.readouterr().out
    assert [line[:2] for line in lines(commands)] == [
        ["pretrain", "fit"],
        ["pretrain", "test"],
        ["finetune", "grid"],
    ]
    assert lines(commands)[0] == ["pretrain", "fit", *own]
    assert lines(commands)[1] == ["pretrain", "test", *own, "--run.wandb=off"]
    assert record(Path("r/trial"))["state"] == "failed"


def test_only_the_first_of_several_ranks_goes_on_after_the_fit(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["trial", "--follow", "test", "--", *FIT]) == 0
    assert [line[1] for line in lines(commands)] == ["fit"]


def test_a_finetuning_trial_is_the_fit_which_knows_whether_it_is_done(commands: Path) -> None:
    assert main(["trial", "--package", "finetune", "--", *FIT]) == 0
    assert lines(commands) == [["finetune", "fit", *FIT]]


def test_under_wandbs_agent_the_run_is_called_after_its_ids() -> None:
    agent = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r2"}
    options, folder = with_run_folder(["--x=1"], agent)
    assert folder == Path("runs/s1/r2")
    assert options == ["--x=1", "--run.name=s1/r2", "--run.wandb=online", "--run.root=runs"]
    chosen = ["--run.name", "n", "--run.wandb", "offline", "--run.root=o"]
    assert with_run_folder(chosen, agent) == (chosen, Path("o/n"))
    with pytest.raises(ValueError, match="needs --run.name NAME"):
        with_run_folder(["--x=1"], {})


def test_the_last_value_of_an_option_counts() -> None:
    assert option_value(["--a", "1", "--a=2", "--ab=3", "--a"], "--a") == "2"
    assert option_value(["--ab=3"], "--a") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "nowhere.yaml", "--", "--x"], "no such file; give the YAML"),
        (["--package", "finetune", "--follow", "test", "--", "--x"], "leave it out"),
        (["--follow", "test"], "after `--`"),
        (["--folow", "test", "--", "--x"], "Did you mean 'follow'"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("budget", [["--max_time", "5h"], ["--max_time=5h"]])
def test_the_time_budget_of_a_fit_is_not_passed_on_to_its_evaluations(budget: list[str]) -> None:
    options, fit = parse_trial(["--follow", "test", "--", *budget, *FIT])
    first, words = own_steps(["pretrain"], options, fit, Path("r/a"))
    assert first == ("pretrain", "fit", *budget, *FIT)
    assert words == (sys.executable, "-m", "pretrain", "test", *FIT, "--run.wandb=off")


def test_the_commands_that_follow_are_commands_of_ours() -> None:
    from finetune.grid import parse_grid

    grid = str(REPOSITORY / "configs" / "finetune" / "small_glue.yaml")
    given = ["--follow", grid, "--data_folder", "sst2=d", "--data_folder", "all"]
    options, fit = parse_trial([*given, "--", *FIT])
    _, words = own_steps(["pretrain"], options, fit, Path("r/a"))
    assert words[:4] == (sys.executable, "-m", "finetune", "grid")
    parsed = parse_grid(words[4:])
    assert parsed.encoders == ("r/a",) and parsed.output == Path("r/a/downstream")
    assert parsed.folder == ("sst2=d", "all")


SLEEPER = """
import pathlib, sys, time
from training.interruption import StopRequest
request = StopRequest()
request.install()
pathlib.Path("up").touch()
deadline = time.monotonic() + 30
while not request.exit_code and time.monotonic() < deadline:
    time.sleep(0.02)
print(request.reason, file=sys.stderr)
sys.exit(request.exit_code)
"""


def sleeper(folder: Path) -> tuple[str, dict[str, str]]:
    """A program that waits as a fit does until it is asked to stop, and its environment."""
    (folder / "sleeper.py").write_text(SLEEPER)
    return str(folder / "sleeper.py"), {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
)
def test_a_signal_is_passed_on_and_nothing_follows(
    commands: Path, number: signal.Signals, code: int
) -> None:
    program, environment = sleeper(commands.parent)
    Path(program).rename(commands.parent / "fake.py")
    run = f"import sys; sys.executable = {sys.executable!r}\nfrom pretrain.cli import main\n"
    words = ["trial", "--follow", "test", "--", *FIT]
    process = subprocess.Popen(
        [PYTHON, "-c", f"{run}sys.exit(main({words!r}))"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(commands.parent / "up")
    process.send_signal(number)
    printed = process.communicate(timeout=20)[1]
    assert process.returncode == code, printed
    assert printed.count("SIGTERM was received") == 1


def test_a_run_whose_sweep_is_gone_stops_with_a_checkpoint(tmp_path: Path) -> None:
    program, environment = sleeper(tmp_path)
    runner = (
        "import os, subprocess, sys, time\n"
        f"environment = {{**os.environ, {RUNNER_VARIABLE!r}: str(os.getpid())}}\n"
        f"subprocess.Popen([sys.executable, {program!r}], env=environment)\ntime.sleep(30)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", runner],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    wait_for(tmp_path / "up")
    process.kill()
    assert process.stderr is not None
    assert "the sweep that started this run is gone" in process.stderr.read()


def result(task: str, seed: int, score: float | None, **values: Any) -> dict[str, Any]:
    keys = {name: dict.fromkeys(words.split()) for name, words in _KEYS.items()}
    return {
        **keys.pop("the result"),
        **keys,
        "format_version": 1,
        "task": task,
        "score": ["accuracy"],
        "settings": {**keys["settings"], "lr": values.pop("lr", 0.1), "seed": seed}
        | {"fold": 0, "repeat": 0},
        "evaluation": {"validation": {} if score is None else {"score": score}, **values},
        "majority": {"validation": {"score": 0.25}, "test": {"score": 0.3}},
        "diverged": score is None,
        "data": {"best_constant": {"test": {"score": 0.35}}},
    }


def write_results(run: Path, results: list[dict[str, Any]]) -> None:
    for number, content in enumerate(results):
        folder = run / "downstream" / content["task"] / "a" / str(number)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(content))


def test_a_study_reports_the_setting_that_is_best_on_validation(tmp_path: Path) -> None:
    write_results(
        tmp_path,
        [
            result("imdb", 1, 0.5, test={"score": 0.9}),
            result("imdb", 2, 0.7, test={"score": 0.7}),
            result("imdb", 1, 0.4, lr=0.2, test={"score": 1.0}),
            result("imdb", 2, 0.4, lr=0.2, test={"score": 1.0}),
            result("imdb", 1, 0.99, lr=0.3),  # one seed less than the others
            result("rte", 1, 0.6),
            result("rte", 2, None),
        ],
    )
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "elapsed_s": 1, "val/loss": 3.0}\n'
        '{"step": 2, "elapsed_s": 2, "val/loss": 2.0}\n{"step": 3, "elap'
    )
    study = write_study(tmp_path)
    assert study["pretraining"] == {"val/loss": 2.0, "steps": 2}
    imdb, rte = study["downstream"]["imdb"], study["downstream"]["rte"]
    assert (imdb["score"], imdb["n"], imdb["split"]) == (pytest.approx(0.8), 2, "test")
    assert imdb["setting"] == {"lr": 0.1} and imdb["num_settings"] == 3
    assert (rte["score"], rte["scores"], rte["num_diverged"]) == (0.425, [0.6, 0.25], 1)
    assert (imdb["constant"], rte["constant"]) == (0.35, 0.25)  # the better constant answer
    assert json.loads((tmp_path / "study.json").read_text()) == study


def test_a_seed_that_diverged_before_any_score_leaves_the_others_on_test(tmp_path: Path) -> None:
    scored = [result("imdb", seed, 0.8, test={"score": 0.6}) for seed in (1, 2)]
    write_results(tmp_path, [*scored, result("imdb", 3, None) | {"evaluation": {}}])
    imdb = downstream_scores(tmp_path / "downstream")["imdb"]
    assert (imdb["split"], imdb["scores"], imdb["num_diverged"]) == ("test", [0.6, 0.6, 0.3], 1)


def test_a_linear_model_beside_the_fits_is_never_the_score_of_the_run(tmp_path: Path) -> None:
    free = result("imdb", 0, 0.9, lr=0.0)
    free["encoder"] |= {"kind": BASELINE, "num_features": 1, "cpu_s": 0.1}
    write_results(tmp_path, [result("imdb", 42, 0.5), free])
    imdb = downstream_scores(tmp_path / "downstream")["imdb"]
    assert (imdb["score"], imdb["num_settings"], imdb["setting"]) == (0.5, 1, {"lr": 0.1})


def test_a_damaged_or_foreign_result_is_named(tmp_path: Path) -> None:
    write_results(tmp_path, [result("rte", 1, 0.6) | {"format_version": 9}])
    with pytest.raises(ValueError, match="rte/a/0/result.json: format_version is 9"):
        downstream_scores(tmp_path / "downstream")
