"""Runs on Long Range Arena: what they leave, both modes, going on, self-pretraining, mistakes."""

import json
import math
from functools import partial

import pytest
import torch
from finetune_runs import json_lines, result_of
from lra_runs import LISTOPS, run_fit, small_tasks, write_encoder
from safetensors.torch import load_file
from wandb_reading import keep_wandb_in, offline_logs, read_offline_run

from finetune.cli import main
from finetune.lra import generated, lightning_cli
from finetune.lra.generated import make_blocks, read_blocks
from finetune.outcome import fit_lines


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_tasks(monkeypatch)


def test_a_fit_leaves_a_result_that_says_mode_and_data(tmp_path):
    assert run_fit(tmp_path, "a") == 0
    found = result_of(tmp_path / "runs/a")
    assert found["task"] == "lra-listops-strict-generated"
    assert (found["data"]["kind"], found["data"]["mode"]) == ("generated", "strict")
    assert found["task_facts"]["family"] == "Long Range Arena"
    assert found["task_facts"]["published"]["PoNet"] == 37.80
    assert found["evaluation"]["test"]["num_rows"] == LISTOPS.sizes["test"]
    assert found["total_steps"] == LISTOPS.steps
    assert found["encoder"]["name"] == "ponet"
    whole_passes = {**found, "settings": {**found["settings"], "epochs": 1.0}, "best_step": 6}
    said = "\n".join(fit_lines(whole_passes, tmp_path))
    assert ", step 6" in said and "of 1.0" not in said and "--trainer.max_steps" in said


def test_published_mode_scores_whole_batches_alone(tmp_path):
    assert run_fit(tmp_path, "a", "--data.mode", "published") == 0
    found = result_of(tmp_path / "runs/a")
    assert found["task"] == "lra-listops-published-generated"
    assert found["evaluation"]["test"]["num_rows"] == 16  # of 20, in batches of 8
    assert found["settings"]["schedule"] == "one cycle, beta1 too"


LOG = ("--trainer.log_every_n_steps", "2")


class Stop(Exception):
    """What ends a run in the middle."""


def test_a_run_that_was_stopped_equals_one_that_was_not(tmp_path, monkeypatch):
    options = ("--data.mode", "published", "--model.self_pretrain_steps", "4")
    assert run_fit(tmp_path, "whole", *options) == 0
    own = lightning_cli.LraCLI.own_callbacks

    class StopAt(lightning_cli.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 9:
                raise Stop

    monkeypatch.setattr(
        lightning_cli.LraCLI, "own_callbacks", lambda self, config: [*own(self, config), StopAt()]
    )
    with pytest.raises(Stop):
        run_fit(tmp_path, "stopped", *options)
    monkeypatch.setattr(lightning_cli.LraCLI, "own_callbacks", own)
    assert run_fit(tmp_path, "stopped", *options) == 0
    runs = [tmp_path / "runs" / name for name in ("whole", "stopped")]
    one, two = ({**result_of(run), "elapsed_s": 0} for run in runs)
    assert one == two
    one, two = (load_file(run / "classifier/model.safetensors") for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (json_lines(run / "metrics.jsonl") for run in runs)
    assert [{**r, "elapsed_s": 0} for r in one] == [{**r, "elapsed_s": 0} for r in two]


def test_a_used_up_time_budget_leaves_no_result_and_the_same_command_goes_on(tmp_path, capsys):
    assert run_fit(tmp_path, "whole") == 0
    assert run_fit(tmp_path, "a", "--max_time", "0.001s") == 75
    assert "time budget" in capsys.readouterr().err
    assert not (tmp_path / "runs/a/result.json").exists()
    assert run_fit(tmp_path, "a", "--max_time", "1h") == 0
    one, two = ({**result_of(tmp_path / "runs" / n), "elapsed_s": 0} for n in ("whole", "a"))
    assert one == two


def test_a_rehearsal_makes_a_step_of_both_kinds(tmp_path, monkeypatch, capsys):
    steps = []
    step = lightning_cli.LraModule.training_step
    monkeypatch.setattr(
        lightning_cli.LraModule,
        "training_step",
        lambda self, *args: steps.append(self.is_pretraining) or step(self, *args),
    )
    options = ("--model.self_pretrain_steps", "9", "--trainer.fast_dev_run", "true")
    assert run_fit(tmp_path, "a", *options, "--data.micro_batch_size", "4") == 0
    assert steps == [True, True, False, False]
    assert "nothing was written" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "validated"), [(5, [2, 4, 5]), (7, [3, 6, 7])])
def test_there_are_no_more_validations_than_asked_for(tmp_path, steps, validated):
    options = ("--data.evaluations", "3", "--trainer.max_steps", str(steps))
    assert run_fit(tmp_path, "a", *options) == 0
    rows = json_lines(tmp_path / "runs/a/metrics.jsonl")
    assert [row["step"] for row in rows if "val/loss" in row] == validated


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    assert run_fit(tmp_path, "a") == 0
    capsys.readouterr()
    assert run_fit(tmp_path, "a") == 0
    assert "nothing was trained" in capsys.readouterr().err
    assert main(["test", "--run.root", str(tmp_path / "runs"), "--run.name", "a"]) == 2
    assert "runs/a is no run of `finetune fit`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_steps", "logged"),
    [
        (4, {"self": [2, 4], "train/loss": [6, 8, 9, 10], "val/loss": [6, 9, 10]}),
        (3, {"self": [2, 3], "train/loss": [4, 6, 8, 9], "val/loss": [6, 9]}),
    ],
)
def test_self_pretraining_is_another_encoder_whose_loss_is_kept(
    tmp_path, capsys, num_steps, logged
):
    few = ("--data.eval_batch_size", "5", "--data.max_eval_rows", "10")
    assert run_fit(tmp_path, "a", "--model.self_pretrain_steps", str(num_steps), *LOG, *few) == 0
    found = result_of(tmp_path / "runs/a")
    assert found["evaluation"]["validation"]["num_rows"] == 10  # as asked for, not all 16
    assert found["encoder"]["name"] == f"ponet + {num_steps} steps of self-pretraining"
    kept = found["data"]["self_pretraining"]
    assert kept["steps"] == num_steps
    assert 0 < kept["loss"] < 10
    assert 1 < kept["frequency_loss"] < math.log(16)
    told = f"by their frequencies alone loses {kept['frequency_loss']:.3f} nats"
    assert told in capsys.readouterr().out
    assert found["total_steps"] == LISTOPS.steps
    rows = json_lines(tmp_path / "runs/a/metrics.jsonl")
    steps = {name: [r["step"] for r in rows if name in r] for name in ("train/loss", "val/loss")}
    steps["self"] = [row["step"] for row in rows if "self_pretrain/loss" in row]
    assert steps == logged


@pytest.mark.parametrize("kind", ["FNetConfig", "BertConfig"])
def test_the_other_encoders_train_too(tmp_path, kind):
    path = write_encoder(tmp_path, kind)
    assert run_fit(tmp_path, "a", "--model.encoder", str(path), "--trainer.max_steps", "2") == 0


@pytest.mark.parametrize(("options", "text"), [
    (("--data.task", "listop"), "expected"),
    (("--data.folder", "/nowhere"), "no such folder"),
    (("--data.max_len", "100"), "one length"),
    (("--data.micro_batch_size", "3"), "does not divide"),
    (("--model.encoder", "/nowhere.yaml"), "no such file"),
    (("--data.seed", "3"), "seed_everything"),
    (("--trainer.devices", "2"), "one run"),
    (("--trainer.val_check_interval", "3"), "data.evaluations"),
    (("--trainer.max_epochs", "1"), "--trainer.max_steps"),
    (("--trainer.max_time", "00:00:00:01"), "max_time"),
    (("--trainer.limit_train_batches", "3"), "--data.max_train_rows"),
    (("--trainer.limit_val_batches", "0.5"), "--data.max_eval_rows"),
    (("--model.optimizer.beta1", "0.8", "--data.mode", "published"), "cycles it"),
])  # fmt: skip
def test_a_mistake_is_one_message(tmp_path, capsys, options, text):
    assert run_fit(tmp_path, "a", *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error:")
    assert text in error


def test_wandb_has_the_result_of_a_run_too(tmp_path, monkeypatch):
    keep_wandb_in(tmp_path / "home", monkeypatch)
    assert run_fit(tmp_path, "a", "--run.wandb", "offline", "--trainer.max_steps", "2") == 0
    (log,) = offline_logs(tmp_path / "runs/a")
    read, found = read_offline_run(log), result_of(tmp_path / "runs/a")
    assert read.config["data.task"] == "listops"
    assert read.summary["model/num_parameters"] == found["encoder"]["num_parameters"]
    assert read.summary["best/test/accuracy"] == found["evaluation"]["test"]["accuracy"]


def test_a_run_may_lie_below_the_data_that_it_reads(tmp_path, capsys):
    for name in ("train", "val", "test"):
        rows = "".join(f"[MAX {n % 10} 0 ]\t{n % 10}\n" for n in range(16))
        (tmp_path / f"basic_{name}.tsv").write_text(f"Source\tTarget\n{rows}")
    options = ("--data.folder", str(tmp_path), "--trainer.max_steps", "2")
    assert run_fit(tmp_path, "a", *options) == 0
    assert run_fit(tmp_path, "a", *options) == 0
    assert "nothing was trained" in capsys.readouterr().err
    (tmp_path / "basic_val.tsv").write_text(f"Source\tTarget\n{rows}3\t3\n")
    assert run_fit(tmp_path, "a", *options) == 2
    assert "the data's basic_val.tsv" in capsys.readouterr().err


def test_a_start_that_was_killed_between_block_and_record_goes_on(tmp_path, monkeypatch):
    def killed(*_):
        raise Stop

    make = partial(make_blocks, tmp_path, "listops", 1, num_samples=12)
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(generated, "write_json", killed)
        make()
    assert make() == 3 and make() == 0
    read = partial(read_blocks, tmp_path, first=0, num_samples=12, length=2048, is_pixels=False)
    assert len(read()) == 12
    block = next(tmp_path.glob("block-0001-*.npz"))
    block.write_bytes(b"x")
    assert make() == 0
    with pytest.raises(ValueError, match=f"{block.name}: is not what was made"):
        read()


def test_a_block_that_was_changed_is_refused(tmp_path, capsys):
    assert run_fit(tmp_path, "a") == 0
    block = next((tmp_path / "made").rglob("block-0003-*.npz"))
    block.write_bytes(block.read_bytes()[:-1] + b"x")
    assert run_fit(tmp_path, "b") == 2
    assert "is not what was made" in capsys.readouterr().err
    block.unlink()
    assert run_fit(tmp_path, "b") == 0
    first, second = (result_of(tmp_path / "runs" / name)["evaluation"] for name in "ab")
    assert json.dumps(first) == json.dumps(second)
