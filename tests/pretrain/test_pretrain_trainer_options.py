"""Options of Lightning's Trainer: each works, is refused, or is said to change nothing."""

import json
import math
from pathlib import Path

import pytest
from pretrain_corpora import tiny_options, write_shards, write_tokenizer

from pretrain.cli import main
from pretrain.run_config import check_trainer_options, metric_names, remarks
from training.metrics_file import read_metrics, series


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"overfit_batches": 1}, "trainer.overfit_batches 1 has no effect"),
        ({"overfit_batches": 0.1}, "build shards of a few documents"),
        ({"barebones": True}, "trainer.barebones True leaves out the metrics"),
        ({"use_distributed_sampler": True}, "which know ranks"),
        ({"enable_checkpointing": False}, "a run always saves at its end"),
        ({"max_steps": 0}, "trainer.max_steps is 0: nothing would be trained"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0"),
        ({"log_every_n_steps": 0}, "a number above 0 is needed"),
        ({"log_every_n_steps": -5}, "log_every_n_steps is -5: a number above 0 is needed"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val is -1.0: .*or 0 for no clipping"),
        ({"gradient_clip_val": math.nan}, "gradient_clip_val is nan"),
        ({"max_steps": 4, "min_steps": 5}, "min_steps 5 is above trainer.max_steps 4"),
        ({"max_steps": -1, "max_epochs": -1}, "the run would have no end"),
        ({"max_epochs": 3, "limit_train_batches": 8}, "8 counts micro-batches, so the steps"),
        ({"precision": "bf16-true"}, "bf16-true keeps the weights themselves in 16 bits"),
        ({"precision": "16-true"}, "give bf16-mixed or 16-mixed"),
    ],
)
def test_what_a_run_cannot_follow_is_refused_with_the_reason(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_trainer_options(given)


def test_what_changes_nothing_is_said_and_what_works_is_not() -> None:
    works = {
        **{"max_steps": -1, "limit_val_batches": 0, "overfit_batches": 0.0, "min_steps": 3},
        **{"logger": None, "sync_batchnorm": False, "detect_anomaly": True},
        **{"gradient_clip_val": 0, "log_every_n_steps": 1},
        "precision": "bf16-mixed",
    }
    check_trainer_options(works)
    assert not list(remarks(works))
    idle = {"logger": True, "sync_batchnorm": True, "limit_test_batches": 0.5, "model_registry": ""}
    said = list(remarks({**idle, "limit_train_batches": 4}))
    assert len(said) == 5 and all("nothing" in line or "only" in line for line in said)
    assert "metrics.jsonl is always written" in "".join(remarks({"logger": False}))


def early_stopping(monitor: str, patience: int) -> list[str]:
    """Stops when the loss has not *grown*, so soon."""
    options = {"monitor": monitor, "mode": "max", "patience": str(patience)}
    named = [
        part for key, value in options.items() for part in (f"--trainer.callbacks.{key}", value)
    ]
    return ["--trainer.callbacks+=EarlyStopping", *named, "--trainer.max_steps", "12"]


def test_early_stopping_looks_at_validations_and_the_same_command_finds_the_run_ended(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", *tiny_run, *early_stopping("val/mlm_loss", 1)]
    assert main(command) == 0
    assert series(read_metrics(tmp_path / "tiny" / "metrics.jsonl"), "val/loss")[0] == [2, 4]
    files = {path: path.read_bytes() for path in (tmp_path / "tiny").rglob("*.jsonl")}
    capsys.readouterr()
    assert main(command) == 0
    assert "4 steps done, then a callback ended it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in files} == files
    assert main(["fit", *tiny_run, *early_stopping("val/mlm_loss", 2)]) == 0
    steps = series(read_metrics(tmp_path / "tiny" / "metrics.jsonl"), "val/loss")[0]
    assert steps == [2, 4, 6], "more patience goes on from where it was"


@pytest.mark.parametrize("callback", ["EarlyStopping", "ModelCheckpoint"])
def test_a_metric_that_there_is_not_is_refused_before_anything_is_trained(
    callback: str, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--trainer.callbacks+={callback}", "--trainer.callbacks.monitor", "val_loss"]
    assert main(["fit", *tiny_run, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{callback} looks at a metric 'val_loss'" in error and "val/pair_accuracy" in error
    assert not (tmp_path / "tiny").exists()
    assert "val/pair_loss" not in metric_names("mlm") and "val/mlm_loss" in metric_names("mlm")


def test_a_callback_that_changes_the_batches_is_refused(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler = {
        "class_path": "pytorch_lightning.callbacks.GradientAccumulationScheduler",
        "init_args": {"scheduling": {"2": 4}},
    }
    assert main(["fit", *tiny_run, "--trainer.callbacks", json.dumps([scheduler])]) == 2
    assert "would change the batches that the run counts" in capsys.readouterr().err


def test_users_checkpoints_leave_the_runs_own_alone(tiny_run: list[str], tmp_path: Path) -> None:
    options = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor", "val/loss"]
    assert main(["fit", *tiny_run, *options]) == 0
    own = {path.name for path in (tmp_path / "tiny" / "checkpoints").glob("*.ckpt")}
    assert own == {"best.ckpt", "last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt"}
    assert series(read_metrics(tmp_path / "tiny" / "metrics.jsonl"), "val/loss")[0] == [2, 4]


def test_options_that_change_no_number_give_the_same_metrics(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = [
        *("--trainer.num_sanity_val_steps", "2", "--trainer.limit_train_batches", "4"),
        *("--trainer.reload_dataloaders_every_n_epochs", "1", "--trainer.inference_mode", "false"),
        *("--trainer.detect_anomaly", "true"),
    ]
    kept = ("train/loss", "val/loss")

    def losses(name: str) -> list[tuple]:
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        return [(row["step"], *(row.get(key) for key in kept)) for row in rows]

    assert main(["fit", *tiny_run]) == 0
    assert main(["fit", *tiny_run, *options, "--run.name", "other"]) == 0
    assert losses("other") == losses("tiny") and len(losses("tiny")) > 4


@pytest.mark.parametrize("steps", ["true", "2"])
def test_a_rehearsal_ends_with_0_says_so_and_writes_nothing(
    steps: str, tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run, "--trainer.fast_dev_run", steps]) == 0
    shown = capsys.readouterr().out
    assert "validation MLM loss" in shown and "this was a rehearsal" in shown
    assert not list(tmp_path.iterdir())


def test_a_corpus_without_validation_documents_trains_where_nothing_validates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_tokenizer(tmp_path / "made.json", vocab_size=65, num_continuations=6)
    text = [[5 + (i + j) % 50 for j in range(6)] for i in range(60)]
    write_shards(tmp_path / "shards", {"train": [text], "validation": []}, made)
    command = ["fit", *tiny_options(tmp_path / "shards", tmp_path), "--model.objective", "mlm"]
    assert main(command) == 2
    assert "--trainer.limit_val_batches 0" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()
    assert main([*command, "--trainer.limit_val_batches", "0"]) == 0
    assert "no validation" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    assert series(rows, "train/loss")[0] == [1, 2, 3, 4] and not series(rows, "val/loss")[0]
    assert (tmp_path / "tiny" / "bundle" / "model.safetensors").is_file()
