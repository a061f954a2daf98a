"""Strategies on two processes: they train alike, save what can be trusted, and export it whole."""

import pickle
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_corpora import tiny_options
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)
from strategy_ranks import job, run_jobs

from ponet import load_bundle
from pretrain.cli import main
from pretrain.run_config import check_strategy
from pretrain.strategies import FsdpStrategy, ZeroStrategy
from training.checkpoints.storage import (
    CheckpointError,
    load_checkpoint,
    seal_folder,
    temporary_path,
)
from training.metrics_file import read_metrics, series
from training.optim import PretrainOptimizer
from training.ranks import check_whole

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install -c constraints.txt deepspeed",
)
ZERO = pytest.param("deepspeed_zero2", marks=needs_deepspeed)
SECOND, LAST = "checkpoints/step-00000002.ckpt", "checkpoints/step-00000004.ckpt"


def options(shards: Path, root: Path, name: str, *, steps: int = 4) -> list[str]:
    return [
        *tiny_options(shards, root),
        *("--data.micro_batch_size", "2", "--run.name", name, "--trainer.max_steps", str(steps)),
        *("--model.optimizer.schedule", "constant", "--trainer.gradient_clip_val", "0.5"),
        # Seven validation examples on one rank, six on the other: one batch on each.
        *("--data.eval_examples", "13", "--data.eval_batch_size", "6"),
    ]


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished runs of two ranks, named by their strategy, started by torchrun."""
    root = tmp_path_factory.mktemp("strategies")
    sharded = ["fsdp", *(("deepspeed_zero1", "deepspeed_zero2") if find_spec("deepspeed") else ())]
    jobs = [job(name, *options(tiny_shards, root, name)) for name in ("ddp", *sharded)]
    for name in ("fsdp", sharded[-1]):
        second = str(root / name / SECOND)
        jobs.append(job(name, *options(tiny_shards, root, f"{name}-resumed"), "--resume", second))
    for name in ("ddp", sharded[-1]):
        given = options(tiny_shards, root, f"{name}-bf16")
        jobs.append(job(name, *given, "--trainer.precision", "bf16-mixed"))
    for number, result in enumerate(run_jobs(root, jobs)):
        for rank in result["ranks"]:
            assert rank["code"] == 0, (jobs[number]["arguments"], rank["stderr"])
    return root


def losses(folder: Path, name: str = "train/loss", *, first: int = 1) -> list[float]:
    steps, values = series(read_metrics(folder / "metrics.jsonl"), name)
    assert steps == ([2, 4] if name.startswith("val") else list(range(first, 5)))
    return values


def bundle_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_bundle(folder / "bundle").model.state_dict()


@pytest.mark.parametrize(
    "strategy", ["fsdp", pytest.param("deepspeed_zero1", marks=needs_deepspeed), ZERO]
)
def test_every_strategy_trains_validates_and_exports_as_ddp_does(strategy: str, runs: Path) -> None:
    for metric in ("train/loss", "val/loss", "train/grad_norm", "train/lr"):
        expected = losses(runs / "ddp", metric)
        assert losses(runs / strategy, metric) == pytest.approx(expected, abs=1e-5), metric
    assert min(losses(runs / "ddp", "train/grad_norm")) > 0.5  # so that clipping is part of it
    ours, theirs = bundle_weights(runs / strategy), bundle_weights(runs / "ddp")
    for name, weight in theirs.items():
        # Where gradients are rounding noise, Adam's steps are too: those are the few outliers.
        assert (ours[name] - weight).abs().mean() < 1e-4, name


@pytest.mark.parametrize("strategy", ["fsdp", ZERO])
def test_a_resumed_sharded_run_repeats_the_uninterrupted_one(strategy: str, runs: Path) -> None:
    resumed = runs / f"{strategy}-resumed"
    assert losses(resumed, first=3) == losses(runs / strategy)[2:]
    ours, theirs = bundle_weights(resumed), bundle_weights(runs / strategy)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@needs_deepspeed
def test_bfloat16_under_deepspeed_stays_close_to_ddp(runs: Path) -> None:
    # DeepSpeed holds the weights themselves in bfloat16; DDP only multiplies in it.
    expected = losses(runs / "ddp")
    assert losses(runs / "ddp-bf16") == pytest.approx(expected, abs=0.02)
    assert losses(runs / "deepspeed_zero2-bf16") == pytest.approx(expected, abs=0.02)
    weights = bundle_weights(runs / "deepspeed_zero2-bf16").values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert not all(torch.equal(w, w.bfloat16().float()) for w in weights)  # the float32 masters


def continued(checkpoint: Path, shards: Path, root: Path) -> list[float]:
    """Losses of steps 3 and 4 on one device, from a checkpoint of step 2 made on two."""
    given = options(shards, root, "continued")
    assert main(["fit", *given, "--resume", str(checkpoint)]) == 0
    return series(read_metrics(root / "continued" / "metrics.jsonl"), "train/loss")[1]


def test_a_checkpoint_of_fsdp_is_an_ordinary_one(
    runs: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    first = runs / "fsdp" / SECOND
    content, by_ddp = load_checkpoint(first), load_checkpoint(runs / "ddp" / SECOND)
    state, expected = content["optimizer_states"][0], by_ddp["optimizer_states"][0]
    assert state["param_groups"] == expected["param_groups"]
    shapes = [{n: v["exp_avg"].shape for n, v in s["state"].items()} for s in (state, expected)]
    assert shapes[0] == shapes[1]
    resumed = continued(first, tiny_shards, tmp_path)
    assert resumed == pytest.approx(losses(runs / "ddp")[2:], abs=1e-5)


@needs_deepspeed
def test_a_zero_folder_becomes_an_ordinary_checkpoint_that_any_number_of_devices_resumes(
    runs: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = runs / "deepspeed_zero2" / SECOND
    whole = tmp_path / "whole.ckpt"
    assert main(["export", str(folder), "--checkpoint", str(whole)]) == 0
    resumed = continued(whole, tiny_shards, tmp_path)
    assert resumed == pytest.approx(losses(runs / "ddp")[2:], abs=1e-5)


@needs_deepspeed
def test_a_branch_keeps_the_optimiser_of_a_zero_folder_by_way_of_an_ordinary_checkpoint(
    runs: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.ckpt"
    folder = runs / "deepspeed_zero2" / SECOND
    assert main(["export", str(folder), "--checkpoint", str(whole)]) == 0
    monkeypatch.setattr("pretrain.lightning_cli.skipped_windows", lambda folder: (0, 1))
    given = [*options(tiny_shards, tmp_path, "branch", steps=2), "--model.start_from", str(whole)]
    given += ["--model.keep_optimizer", "true", "--model.optimizer.warmup_steps", "0"]
    assert main(["fit", *given]) == 0
    found = series(read_metrics(tmp_path / "branch" / "metrics.jsonl"), "train/loss")[1]
    assert found == pytest.approx(losses(runs / "ddp")[2:], abs=1e-5)


@needs_deepspeed
@pytest.mark.parametrize("name", ["deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero2-bf16"])
def test_the_bundle_of_a_zero_folder_is_the_bundle_of_its_run(
    name: str, runs: Path, tmp_path: Path
) -> None:
    assert main(["export", str(runs / name / LAST), "--output", str(tmp_path / "b")]) == 0
    exported, own = load_bundle(tmp_path / "b"), load_bundle(runs / name / "bundle")
    assert exported.metadata == own.metadata
    assert exported.tokenizer_path is not None and own.tokenizer_path is not None
    assert exported.tokenizer_path.read_bytes() == own.tokenizer_path.read_bytes()
    ours, theirs = exported.model.state_dict(), own.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_bundle_of_an_ordinary_checkpoint_is_the_bundle_of_its_run(
    runs: Path, tmp_path: Path, tiny_shards: Path
) -> None:
    arguments = ["--output", str(tmp_path / "b"), "--folder", str(tiny_shards)]
    assert main(["export", str(runs / "ddp" / LAST), *arguments]) == 0
    exported, own = load_bundle(tmp_path / "b"), load_bundle(runs / "ddp" / "bundle")
    assert exported.metadata == own.metadata
    ours, theirs = exported.model.state_dict(), own.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@needs_deepspeed
def test_another_number_of_devices_is_refused_with_the_ways_out(runs: Path) -> None:
    from pretrain.strategies.zero import check_resumable

    folder = runs / "deepspeed_zero2" / LAST
    check_resumable(folder, world_size=2)
    with pytest.raises(ValueError, match=r"on 2 device\(s\), and this run has 3.*export"):
        check_resumable(folder, world_size=3)


def damaged_copy(folder: Path, target: Path, *, seal: bool, **changes: Any) -> Path:
    """A ZeRO folder with one file replaced or with a flipped bit in its model file."""
    from shutil import copytree

    from pretrain.strategies.zero import MODEL_FILE, TAG

    copy = temporary_path(target)
    copytree(folder, copy)
    path = copy / TAG / MODEL_FILE
    if "content" in changes:
        path.write_bytes(changes["content"])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    seal_folder(target) if seal else copy.rename(target)
    return target


class Foreign:
    """An object that a pickle would build by running code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (subprocess.getoutput, ("true",))


@needs_deepspeed
def test_a_damaged_zero_folder_is_named_and_a_pickle_in_it_is_never_run(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs / "deepspeed_zero2" / LAST
    arguments = ["--output", str(tmp_path / "b")]
    flipped = damaged_copy(folder, tmp_path / "flipped.ckpt", seal=False)
    assert main(["export", str(flipped), *arguments]) == 2
    assert "mp_rank_00_model_states.pt" in capsys.readouterr().err
    pickled = damaged_copy(
        folder, tmp_path / "pickled.ckpt", seal=True, content=pickle.dumps(Foreign(), protocol=2)
    )
    assert main(["export", str(pickled), *arguments]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@needs_deepspeed
def test_master_weights_that_are_not_the_models_are_refused(runs: Path, tmp_path: Path) -> None:
    from shutil import copytree

    from pretrain.strategies.consolidate import consolidate
    from pretrain.strategies.zero import partition_files, read_file

    changed = tmp_path / "changed.ckpt"
    copytree(runs / "deepspeed_zero2" / LAST, temporary_path(changed))
    part = partition_files(temporary_path(changed))[1]
    content = read_file(part)
    content["optimizer_state_dict"]["single_partition_of_fp32_groups"][0].data[3] += 0.5
    torch.save(content, part)
    seal_folder(changed)
    with pytest.raises(CheckpointError, match="not those the model used"):
        consolidate(changed)


def test_export_says_what_is_missing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(runs / "ddp" / LAST)
    assert main(["export", checkpoint]) == 2
    assert "--output" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), "--output", str(tmp_path / "b")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    arguments = ["--output", str(tmp_path / "b"), "--folder", str(tmp_path)]
    assert main(["export", checkpoint, *arguments]) == 2
    assert "--folder" in capsys.readouterr().err
    assert main(["export", checkpoint, "--checkpoint", str(tmp_path / "x.ckpt")]) == 2
    assert "ordinary checkpoint already" in capsys.readouterr().err


def test_muon_is_refused_where_matrices_are_cut_and_not_under_ddp() -> None:
    muon = PretrainOptimizer(matrices="muon")
    with pytest.raises(ValueError, match=r"FsdpStrategy cuts them.*configs/strategy/ddp.yaml"):
        check_strategy(FsdpStrategy(), muon)
    check_strategy(FsdpStrategy(), PretrainOptimizer())
    check_strategy(DDPStrategy(), muon)


LIGHTNINGS = [
    FSDPStrategy,
    ModelParallelStrategy,
    pytest.param(DeepSpeedStrategy, marks=needs_deepspeed),
]


@pytest.mark.parametrize("strategy", LIGHTNINGS)
def test_lightnings_own_sharded_strategies_are_refused(strategy: type) -> None:
    said = rf"Lightning's own {strategy.__name__}.*configs/strategy: fsdp.yaml"
    with pytest.raises(ValueError, match=said):
        check_strategy(strategy(), PretrainOptimizer())
    with pytest.raises(
        ValueError, match="fine-tuning keeps them whole: use --trainer.strategy ddp"
    ):
        check_whole(strategy())


def test_fine_tuning_takes_strategies_that_keep_the_model_whole() -> None:
    check_whole(DDPStrategy())


@needs_deepspeed
def test_zero_of_the_house_is_taken() -> None:
    check_strategy(ZeroStrategy(stage=1), PretrainOptimizer())
