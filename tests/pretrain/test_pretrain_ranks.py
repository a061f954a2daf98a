"""Several ranks are one run: who is the first, and what all of them must begin with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningCLI

from pretrain.cli import main
from pretrain.datamodule import PretrainDataModule
from pretrain.lightning_cli import PretrainCLI
from training import ranks
from training.run_folder import is_first_process

SLURM = {"JOB_ID": "4711", "JOB_NAME": "train", "NTASKS": "1", "NNODES": "1", "LOCALID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "RANK": "0"}


def in_slurm(monkeypatch: pytest.MonkeyPatch, *, task: int) -> None:
    for name, value in {**SLURM, "PROCID": str(task), "NODEID": str(task)}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def by_torchrun(monkeypatch: pytest.MonkeyPatch, *, rank: int) -> None:
    for name, value in {**TORCHRUN, "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_in_a_slurm_job_the_ranks_are_those_of_whoever_started_them(
    launcher: str, tiny_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def look(cli: PretrainCLI, subcommand: str) -> None:
        environment = cli.trainer._accelerator_connector.cluster_environment
        found.append(type(environment).__name__)

    monkeypatch.setattr(LightningCLI, "_run_subcommand", look)
    in_slurm(monkeypatch, task=0)
    if launcher == "torchrun":
        by_torchrun(monkeypatch, rank=0)
    assert main(["fit", *tiny_run]) == 0
    assert found == [{"srun": "SLURMEnvironment", "torchrun": "TorchElasticEnvironment"}[launcher]]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_alone_says_which_process_is_the_first(
    rank: int, task: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_slurm(monkeypatch, task=task)
    assert is_first_process() == (task == 0)
    by_torchrun(monkeypatch, rank=rank)
    assert is_first_process() == (rank == 0)


@pytest.mark.parametrize("node", [0, 1])
def test_shards_that_all_nodes_see_are_prepared_on_the_first(
    node: int, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[int] = []
    monkeypatch.setattr(PretrainDataModule, "prepare_data", lambda _: prepared.append(node))
    monkeypatch.setattr(Trainer, "node_rank", node)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    trainer.datamodule = PretrainDataModule(folder=str(tiny_shards))
    trainer._data_connector.prepare_data()
    assert prepared == [0] * (node == 0)


def test_ranks_that_chose_different_precisions_all_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = SimpleNamespace(precision="32-true")
    others = {"32-true": "bf16-mixed"}
    monkeypatch.setattr(ranks, "of_all_ranks", lambda _, value: [value, others.get(value, value)])
    found = r"\(rank 0: 32-true; rank 1: bf16-mixed\).*give --trainer.precision"
    with pytest.raises(ValueError, match=found):
        ranks.SameBeginning(None).setup(trainer, LightningModule(), "fit")
    others.clear()
    ranks.SameBeginning(None).setup(trainer, LightningModule(), "fit")


@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_first_rank_cannot_prepare_ends_all_ranks(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PretrainDataModule(folder=str(tmp_path / "nowhere"))
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    monkeypatch.setattr(Trainer, "world_size", 2)
    monkeypatch.setattr(ranks, "ranks_agree", lambda trainer, value: 1)
    if rank == 0:
        data.prepare_data()
    said = ["holds no token shards", "the first rank could not prepare the data"][rank]
    with pytest.raises(ValueError, match=said):
        data.setup("fit")
