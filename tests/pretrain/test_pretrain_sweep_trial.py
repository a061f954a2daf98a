"""A trial is one fit and what follows it: named, stopped and gone on with as one command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_files import REPOSITORY

from pretrain.cli import main
from training.studies import trial_command
from training.studies.study import downstream_scores, write_study
from training.studies.supervision import Supervisor
from training.studies.trial_command import follow_command, option_value, with_run_folder
from training.studies.trials import RUNNER_VARIABLE

FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
log = pathlib.Path(words[0]); folder = log.parent / "r" / "a"
with open(log, "a") as file:
    file.write(json.dumps(words[1:]) + "\\n")
if words[2] == "fit":
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text('{"step": 4, "elapsed_s": 1, "val/mlm_accuracy": 0.5}')
sys.exit(9 if words[2] == "grid" and "broken.yaml" in words else 0)
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for every process a trial starts; none of them does anything."""
    (tmp_path / "fake.py").write_text(FAKE)
    log = tmp_path / "log"

    def fake(*words: str) -> list[str]:
        return [sys.executable, str(tmp_path / "fake.py"), str(log), *words]

    monkeypatch.setattr(trial_command, "_python", fake)
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", *trial_command._AGENT_VARIABLES):
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
    assert main(["trial", *follow, "--", *FIT]) == 9
    assert [line[1] for line in lines(commands)] == ["fit", "grid"]
    assert not Path("r/a/study.json").exists()


def test_only_the_first_of_several_ranks_goes_on_after_the_fit(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["trial", "--follow", "test", "--", *FIT]) == 0
    assert [line[1] for line in lines(commands)] == ["fit"]


def test_a_finetuning_trial_starts_anew_and_is_not_repeated_when_it_has_its_result(
    commands: Path,
) -> None:
    trial = ["trial", "--package", "finetune", "--", *FIT]
    assert main(trial) == 0
    assert lines(commands) == [["finetune", "fit", *FIT]]
    Path("r/a/result.json").write_text('{"diverged": true}')
    assert main(trial) == 0 and len(lines(commands)) == 2
    Path("r/a/result.json").write_text('{"diverged": false}')
    assert main(trial) == 0 and len(lines(commands)) == 2


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
        (["--folow", "test", "--", "--x"], "unrecognized arguments"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trial", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_commands_that_follow_are_commands_of_ours() -> None:
    from finetune.grids.config import parse_grid

    grid = str(REPOSITORY / "configs" / "finetune" / "small_glue.yaml")
    words = follow_command(grid, FIT, Path("r/a"), ["sst2=d", "all"])
    assert words[:4] == [sys.executable, "-m", "finetune", "grid"]
    config, options = parse_grid(words[4:])
    assert config.encoders == ("r/a",) and options.output == Path("r/a/downstream")
    assert config.folder == "all" and config.task_fit["sst2"]["data"]["folder"] == "d"


SLEEPER = (
    "import signal, sys, time, pathlib\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(30)"
)
SUPERVISED = (
    "import sys\nfrom training.studies.supervision import Supervisor\n"
    "with Supervisor() as supervisor:\n"
    "    sys.exit(supervisor.run([sys.executable, *sys.argv[1:]], knows_every_signal=False))"
)


def supervised(tmp_path: Path) -> list[str]:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return [sys.executable, "-c", SUPERVISED, str(tmp_path / "sleeper.py"), str(tmp_path / "up")]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_exit_code_comes_back(
    tmp_path: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(supervised(tmp_path), env=environment)
    wait_for(tmp_path / "up")
    process.send_signal(number)
    assert process.wait(20) == 75


def test_a_run_whose_sweep_is_gone_stops_with_a_checkpoint(tmp_path: Path) -> None:
    runner = (
        "import os, subprocess, sys, time\n"
        f"environment = {{**os.environ, {RUNNER_VARIABLE!r}: str(os.getpid())}}\n"
        f"subprocess.Popen({supervised(tmp_path)!r}, env=environment)\ntime.sleep(30)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", runner], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "up")
    process.kill()
    assert process.stderr is not None
    assert "stopping with a checkpoint" in process.stderr.read()  # ends when all have ended


def test_nothing_more_is_started_after_a_stop() -> None:
    with Supervisor() as supervisor:
        os.kill(os.getpid(), signal.SIGTERM)
        assert supervisor.run(["no such program"]) == 75


def result(task: str, seed: int, score: float | None, **values: Any) -> dict[str, Any]:
    scores = {} if score is None else {"score": score}
    return {
        "format_version": 1,
        "task": task,
        "score": ["accuracy"],
        "settings": {"lr": values.pop("lr", 0.1), "seed": seed, "fold": 0, "repeat": 0},
        "evaluation": {"validation": scores, **values},
        "majority": {"validation": {"score": 0.25}, "test": {"score": 0.3}},
        "diverged": score is None,
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
    assert json.loads((tmp_path / "study.json").read_text()) == study


def test_a_damaged_or_foreign_result_is_named(tmp_path: Path) -> None:
    write_results(tmp_path, [result("rte", 1, 0.6) | {"format_version": 9}])
    with pytest.raises(ValueError, match="rte/a/0/result.json: format_version is 9"):
        downstream_scores(tmp_path / "downstream")


def write_grid(folder: Path) -> Path:
    """A grid of one fit on a few texts of the tiny corpus's words."""
    generator = random.Random(0)
    for split, count in (("train", 48), ("validation", 24)):
        labels = [generator.choice(["yes", "no"]) for _ in range(count)]
        rows = [f"w{generator.randint(0, 50)} w{int(label == 'yes')},{label}" for label in labels]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    data = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    fit = {"data": {**data, "max_len": 16}, "trainer": {"max_epochs": 1, "accelerator": "cpu"}}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"tasks": ["own"], "lrs": [0.005], "fit": fit}))
    return path


@pytest.mark.slow
def test_a_real_sweep_ends_in_downstream_scores_and_goes_on_from_its_checkpoint(
    tiny_run: list[str], tmp_path: Path
) -> None:
    follow = ["--follow", "validate", "--follow", str(write_grid(tmp_path))]
    own = tiny_run.index("--run.root")
    options = tiny_run[:own] + tiny_run[own + 4 :]  # without --run.root and --run.name
    command = ["${env}", "${interpreter}", "-m", "${program}", "trial", *follow, "--", *options]
    content = {
        "program": "pretrain",
        "method": "grid",
        "metric": {"name": "val/mlm_accuracy"},
        "command": [*command, "${args}"],
        "parameters": {"model.objective": {"values": ["mlm"]}},
    }
    file, run = tmp_path / "real.yaml", tmp_path / "out" / "trial"
    file.write_text(yaml.safe_dump(content))
    arguments = ["sweep", str(file), "--output", str(run.parent)]
    assert main(arguments) == 0
    study = json.loads((run / "study.json").read_text())
    assert study["pretraining"]["steps"] == 4 and "val/mlm_loss" in study["pretraining"]
    assert study["downstream"]["own"]["n"] == 1
    (run / "trial.json").unlink()
    assert main(arguments) == 0
    log = (run / "trial.log").read_text()
    assert "is complete: 4 steps are done" in log and "1 done, 0 failed, 0 to run" in log
