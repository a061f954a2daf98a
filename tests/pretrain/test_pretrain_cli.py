"""The command line: every run leaves what it promises, every mistake is one clear message."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ponet import load_bundle
from pretrain.cli import main
from pretrain.objectives import OBJECTIVES
from training.checkpoints.storage import load_checkpoint
from training.metrics_file import last_value, own_test_rows, read_metrics, series
from training.reports.runs import read_run


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return read_metrics(folder / "metrics.jsonl")


def test_fit_leaves_metrics_config_curves_checkpoints_and_a_bundle(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run]) == 0
    run = tmp_path / "tiny"
    rows = metrics_of(run)
    assert series(rows, "train/loss")[0] == [1, 2, 3, 4]
    assert series(rows, "val/mlm_loss")[0] == [2, 4]
    rates = [0.005, 0.01, 0.01, 0.005]  # of warm-up, peak and decay, as the steps used them
    assert series(rows, "train/lr") == ([1, 2, 3, 4], pytest.approx(rates))
    names = {name for row in rows for name in row}
    assert {"train/tokens_per_s", "train/grad_norm", "train/lr", "val/perplexity"} <= names
    assert {"baseline/unigram_accuracy", "baseline/pair_chance", "val/pair_accuracy"} <= names
    for made in ("run_config.yaml", "curves.png", "checkpoints/last.ckpt"):
        assert (run / made).exists(), made
    assert (run / "checkpoints/best.ckpt").exists() and (run / "bundle/model.safetensors").exists()
    printed = capsys.readouterr().out
    assert "masked-LM accuracy" in printed and "chance 33.3%" in printed


def test_the_saved_configuration_repeats_the_run(tiny_run: list[str], tmp_path: Path) -> None:
    assert main(["fit", *tiny_run]) == 0
    saved = str(tmp_path / "tiny" / "run_config.yaml")
    assert main(["fit", "--config", saved, "--run.name", "again"]) == 0
    losses = series(metrics_of(tmp_path / "tiny"), "train/loss")
    assert series(metrics_of(tmp_path / "again"), "train/loss") == losses


def test_the_exported_bundle_is_the_trained_model(tiny_run: list[str], tmp_path: Path) -> None:
    assert main(["fit", *tiny_run]) == 0
    run = tmp_path / "tiny"
    checkpoint = load_checkpoint(run / "checkpoints" / "last.ckpt")
    bundle = load_bundle(run / "bundle")
    exported = bundle.model.state_dict()
    trained = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    assert trained.keys() == exported.keys()
    assert all(torch.equal(trained[name], exported[name]) for name in trained)
    assert bundle.metadata["objective"] == "mlm_sso" and bundle.metadata["steps"] == 4
    assert checkpoint["ponet_run"]["config"]["data"]["max_len"] == 32


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("encoder", ["PoNetConfig", "BertConfig", "FNetConfig"])
def test_every_encoder_learns_with_every_objective(
    encoder: str, objective: str, tiny_run: list[str], tmp_path: Path
) -> None:
    options = [option.replace("PoNetConfig", encoder) for option in tiny_run]
    options += ["--model.objective", objective, "--trainer.max_steps", "40"]
    options += ["--run.eval_every_n_steps", "20", "--model.encoder.dropout_prob", "0.0"]
    assert main(["fit", *options]) == 0
    _, losses = series(metrics_of(tmp_path / "tiny"), "train/mlm_loss")
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.04
    has_pairs = bool(series(metrics_of(tmp_path / "tiny"), "val/pair_accuracy")[0])
    assert has_pairs == (OBJECTIVES[objective].num_pair_classes > 0)


def test_bfloat16_trains_with_clipped_gradients_and_the_fused_optimizer(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = [*tiny_run, "--trainer.precision", "bf16-mixed"]
    options += ["--model.optimizer.lr", "1e-20", "--trainer.gradient_clip_val"]
    assert main(["fit", *options, "1e-3"]) == 0
    _, norms = series(metrics_of(tmp_path / "tiny"), "train/grad_norm")
    assert min(norms) > 1e-3  # logged before clipping
    checkpoint = load_checkpoint(tmp_path / "tiny" / "checkpoints" / "last.ckpt")
    moments = checkpoint["optimizer_states"][0]["state"].values()
    first = torch.stack([moment["exp_avg"].norm() for moment in moments]).norm()
    assert 0 < first <= 1e-3  # a mean of gradients of norm 1e-3 each


def test_a_logger_of_the_users_own_is_used_beside_the_metrics_file(
    tiny_run: list[str], tmp_path: Path
) -> None:
    logger = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "csv")]
    assert main(["fit", *tiny_run, *logger]) == 0
    assert series(metrics_of(tmp_path / "tiny"), "val/mlm_loss")[0] == [2, 4]
    assert "val/mlm_loss" in next((tmp_path / "csv").rglob("metrics.csv")).read_text()


def test_the_last_step_is_validated_where_the_interval_does_not_divide_the_run(
    tiny_run: list[str], tmp_path: Path
) -> None:
    options = [*tiny_run, "--trainer.max_steps", "3"]
    assert main(["fit", *options]) == 0
    metrics = tmp_path / "tiny" / "metrics.jsonl"
    rows = read_metrics(metrics)
    assert series(rows, "val/mlm_loss")[0] == [2, 3]
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    metrics.write_text(
        "".join(line for line in lines if '"step": 3, ' not in line or "val/" not in line)
    )
    assert main(["fit", *options]) == 0  # complete, but for what was lost
    again = read_metrics(metrics)
    assert series(again, "val/mlm_loss") == series(rows, "val/mlm_loss")
    times = [row["elapsed_s"] for row in again if row["elapsed_s"]]
    assert times == sorted(times)


def test_validate_test_and_predict_use_the_runs_checkpoint(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run]) == 0
    capsys.readouterr()
    rows = metrics_of(tmp_path / "tiny")
    for command in ("validate", "test", "predict"):
        assert main([command, *tiny_run]) == 0
    printed = capsys.readouterr().out
    assert (
        "step 4: validation MLM loss" in printed and "whole validation split: MLM loss" in printed
    )
    assert "predictions-rank0.jsonl" in printed and "nan" not in printed
    assert f"written: {tmp_path / 'tiny' / 'evaluations.jsonl'}" in printed
    validated, tested = read_metrics(tmp_path / "tiny" / "evaluations.jsonl")
    assert validated["command"] == "validate" and validated["step"] == 4
    last = last_value(rows, "val/mlm_loss")
    assert validated["metrics"]["val/mlm_loss"] == pytest.approx(last, abs=1e-6)
    assert validated["differs_from_training"] == [] == tested["differs_from_training"]
    (row,) = own_test_rows(tmp_path / "tiny")
    assert row["test/mlm_loss"] == tested["metrics"]["test/mlm_loss"] and row["step"] == 4
    assert read_run(tmp_path / "tiny").last("test/mlm_loss") == row["test/mlm_loss"]
    assert metrics_of(tmp_path / "tiny") == rows
    lines = (tmp_path / "tiny" / "predictions-rank0.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    assert len(record["labels"]) == len(record["predictions"]) == len(record["confidence"]) > 0
    assert sum(record["pair_probabilities"]) == pytest.approx(1, abs=1e-3)


def test_fill_gives_words_with_probabilities_from_the_bundle(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run]) == 0
    bundle = str(tmp_path / "tiny" / "bundle")
    assert main(["fill", bundle, "w1 [MASK] w3 [MASK].", "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "[MASK] 1:" in printed and "[MASK] 2:" in printed and "%" in printed
    assert main(["fill", bundle, "w1 w2"]) == 2
    assert "no [MASK]" in capsys.readouterr().err


def check_error(capsys: pytest.CaptureFixture[str], arguments: list[str], *expected: str) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and message.startswith("error: ")
    assert len(message.splitlines()) <= 6, message
    for part in expected:
        assert part in message, message


def test_mistakes_in_options_end_in_one_message(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_error(capsys, ["fti"], "'fti'", "fit")
    check_error(capsys, ["fit", *tiny_run, "--trainer.max_step", "3"], "max_step")
    check_error(capsys, ["fit", *tiny_run, "--data.max_len", "many"], "max_len")
    check_error(capsys, ["fit", *tiny_run, "--model.encoder.pooling", "x"], "pooling")
    check_error(capsys, ["fit", *tiny_run, "--data.objective", "mlm"], "--model.objective")
    check_error(capsys, ["fit", *tiny_run, "--data.seed=3"], "--seed_everything")
    accumulate = ["--trainer.accumulate_grad_batches", "2"]
    check_error(capsys, ["fit", *tiny_run, *accumulate], "--data.global_batch_size")
    check_error(capsys, ["fit", *tiny_run, "--model.objective", "mlm_xyz"], "mlm_xyz", "mlm_sso")
    check_error(capsys, ["fit", *tiny_run, "--run.name", "../x"], "../x")
    no_checkpoints = ["--trainer.enable_checkpointing", "false"]
    check_error(capsys, ["fit", *tiny_run, *no_checkpoints], "enable_checkpointing")
    check_error(capsys, ["fit", "--config", str(tmp_path / "none.yaml")], "none.yaml")


def test_mistakes_in_yaml_files_end_in_one_message(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    for content, expected in (
        ("model: {optimizer: {learning_rate: 1}}", "learning_rate"),
        ("trainer: {max_steps: soon}", "max_steps"),
        ("data: {objective: mlm}", "model.objective"),
        ("trainer: {val_check_interval: 5}", "run.eval_every_n_steps"),
        ("model: {optimizer: {lr: -1}}", "lr must be > 0"),
    ):
        path.write_text(content)
        options = [option for option in tiny_run]
        lr = options.index("--model.optimizer.lr")
        del options[lr : lr + 2]
        check_error(capsys, ["fit", *options, "--config", str(path)], expected)


def test_mistakes_about_data_end_in_one_message(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    check_error(capsys, ["fit", *tiny_run, "--data.folder", nowhere], nowhere, "data_prep build")
    small = ["--model.encoder.vocab_size", "30"]
    check_error(capsys, ["fit", *tiny_run, *small], "30", "65")
    check_error(capsys, ["fit", *tiny_run, "--data.micro_batch_size", "3"], "micro_batch_size")


def test_damaged_shards_and_foreign_tokenizers_are_named_before_training(
    tiny_run: list[str], tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, (name, damage) in enumerate(
        (
            ("train/tokens.bin", lambda content: content[:-2]),
            ("train/tokens.bin", lambda content: content[:40] + b"\xff\xff" + content[42:]),
            ("tokenizer.json", lambda content: content.replace(b"w1", b"v1", 1)),
        )
    ):
        folder = tmp_path / f"damaged{number}"
        shutil.copytree(tiny_shards, folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        check_error(capsys, ["fit", *tiny_run, "--data.folder", str(folder)], name, "damaged")


def test_evaluation_without_a_checkpoint_is_refused(
    tiny_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    check_error(capsys, ["validate", *tiny_run], "no checkpoint", "--ckpt_path")
    check_error(capsys, ["validate", *tiny_run, "--max_time=3h"], "--max_time ends a fit")


def test_a_checkpoint_of_another_encoder_is_refused_by_name(
    tiny_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *tiny_run]) == 0
    capsys.readouterr()
    other = ["--model.encoder.local_window", "5"]
    check_error(capsys, ["validate", *tiny_run, *other], "local_window", "checkpoint 3")
