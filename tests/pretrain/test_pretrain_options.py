"""What is printed can be read, pipes are files, unknown names get a near one, None is null."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune.cli import main as finetune_main
from ponet import PoNetConfig
from pretrain.cli import main
from pretrain.module import PretrainModule
from training.metrics_file import read_metrics
from training.parsing import readable_arguments, shortened

FITS = {
    "fit": (main, ["fit", "--model.encoder", "PoNetConfig", "--data.folder", "x"]),
    "tune": (main, ["tune", "lr", "--model.encoder", "PoNetConfig", "--data.folder", "x"]),
    "finetune": (finetune_main, ["fit", "--model.encoder", "x", "--data.train", "a.csv"]),
}


@pytest.mark.parametrize("name", FITS)
def test_what_print_config_prints_is_a_config(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = FITS[name]
    if name == "tune":
        arguments = [*arguments, "--output", str(tmp_path / "lr.yaml")]
    with pytest.raises(SystemExit) as ended:
        run([*arguments, "--print_config"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and yaml.safe_load(printed)["trainer"]["precision"] is None
    path = tmp_path / "printed.yaml"
    path.write_text(printed)
    words = arguments[: 2 if name == "tune" else 1]
    with pytest.raises(SystemExit) as ended:
        run([*words, "--config", str(path), "--print_config"])
    assert ended.value.code == 0 and capsys.readouterr().out == printed


def test_a_config_may_come_from_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"trainer: {max_steps: 7, max_time: null}")
    os.close(write_end)
    arguments = [*FITS["fit"][1], "--config", f"/dev/fd/{read_end}", "--print_config"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
    with pytest.raises(SystemExit):
        main(arguments)
    os.close(read_end)
    assert "max_steps: 7" in capsys.readouterr().out
    copy = Path(sys.argv[-2])
    assert copy.is_file(), "ranks that Lightning starts with sys.argv read it again"
    copy.unlink()


def test_none_is_null_for_the_trainer_as_wandbs_agent_writes_it() -> None:
    given = ["--trainer.gradient_clip_val=None", "--trainer.precision", "None", "--run.name=None"]
    expected = ["--trainer.gradient_clip_val=null", "--trainer.precision", "null"]
    assert readable_arguments(given) == [*expected, "--run.name=None"]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        (["--trainer.max_stepz", "5"], "--trainer.max_steps"),
        (["--max_steps", "5"], "--trainer.max_steps"),
        (["--model.lr", "5"], "--model.optimizer.lr"),
        (["--trainer.max_stepz=5"], "--trainer.max_steps"),
        (["--model.encoder.hiden_size", "5"], "hidden_size"),
        (["trainer: {max_stepz: 3}"], "trainer.max_steps"),
        (["modle: {objective: mlm}"], "model.objective"),
        (["run: {nam: a}"], "run.name"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one_in_one_line(
    given: list[str], near: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not given[0].startswith("-"):
        (tmp_path / "a.yaml").write_text(given[0])
        given = ["--config", str(tmp_path / "a.yaml")]
    assert main([*FITS["fit"][1], *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"; did you mean {near}?" in line


def test_a_key_that_stands_twice_is_refused_in_files_and_on_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("trainer: {max_steps: 2}\ntrainer: {devices: 1}\n")
    run, arguments = FITS["finetune"]
    assert run([*arguments, "--config", str(path)]) == 2
    assert "'trainer' stands there twice, in line 1 and line 2" in capsys.readouterr().err
    assert main([*FITS["fit"][1], "--trainer", "{max_steps: 2, max_steps: 3}"]) == 2
    assert "'max_steps' stands there twice" in capsys.readouterr().err


@pytest.mark.parametrize(("accelerator", "said"), [("tpu", "torch_xla"), ("klingon", "'klingon'")])
def test_devices_that_there_are_not_are_one_line(
    accelerator: str, said: str, tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run, "--trainer.accelerator", accelerator]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_wrong_type_is_named_without_an_account_of_every_type_tried() -> None:
    message = (
        'Parser key "trainer.precision":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [typing.Literal['64', '32'], <class 'NoneType'>]\n  Errors:\n    - Expected a"
        " <class 'NoneType'>\n  Given value type: <class 'str'>\n  Given value: 64x\n"
    )
    assert shortened(message) == "trainer.precision is '64x'; allowed: '64', '32', null"


def test_an_option_that_is_missing_is_named_as_it_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit"]) == 2
    assert "arguments are required: --data.folder (" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["pretrain", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_command_says_at_once_what_it_loads(package: str, repository: Path) -> None:
    command = [sys.executable, "-m", package, "fit", "--config", "nowhere.yaml"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    first, last = done.stderr.splitlines()
    assert done.returncode == 2 and first.startswith(f"ponet-{package} fit: loading PyTorch")
    assert last == "error: --config nowhere.yaml: no such file"


def test_the_first_lines_say_what_runs_on_what_for_how_long_and_where_it_goes(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run, "--trainer.enable_progress_bar", "false"]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("run tiny: 4 steps of 8 examples; objective mlm_sso; everything goes")
    assert str(tmp_path / "tiny") in first and second.startswith("data ") and "tokens" in second
    assert third.startswith("model: ponet, 2 layers x 16, ") and "4 examples x 2 acc" in third


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_of_the_pair_loss_that_teaches_nothing_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="pair_loss_weight is .*; it must be 0 or more"):
        PretrainModule(PoNetConfig.preset("nano", vocab_size=64), pair_loss_weight=weight)


def test_the_loss_that_is_written_is_the_one_that_is_made_small(
    tiny_run: list[str], tmp_path: Path
) -> None:
    weighted = ["--model.pair_loss_weight", "3", "--run.eval_every_n_steps", "2"]
    assert main(["fit", *tiny_run, *weighted]) == 0
    rows = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    for stage in ("train", "val"):
        found = [row for row in rows if f"{stage}/loss" in row]
        assert found
        for row in found:
            parts = row[f"{stage}/mlm_loss"] + 3 * row[f"{stage}/pair_loss"]
            assert row[f"{stage}/loss"] == pytest.approx(parts)


@pytest.mark.parametrize(
    ("words", "first", "shown", "hidden"),
    [
        ("fit", "Pretrain an encoder, or go on", "--resume", "--ckpt_path"),
        ("validate", "Score masked words and pairs", "the newest valid checkpoint", "--resume"),
        ("test", "Score masked words and pairs", "--ckpt_path", "--guards"),
        ("predict", "Write what a model says", "--ckpt_path", "--return_predictions"),
        ("tune lr", "", "--min_lr", "--resume"),
    ],
    ids=lambda value: value.split()[0] if value else "",
)
def test_help_shows_what_a_command_does_and_takes(
    words: str, first: str, shown: str, hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and f"\n{first}" in printed
    assert shown in " ".join(printed.split()) and hidden not in printed
    for decided in ("accumulate_grad_batches", "max_time", "val_check_interval"):
        assert f"--trainer.{decided}" not in printed  # refused, because another option decides it
