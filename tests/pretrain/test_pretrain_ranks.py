"""Several ranks are one run: who is the first, and what all of them must begin with."""

import pytest
from pytorch_lightning.cli import LightningCLI

from pretrain.cli import main
from pretrain.lightning_cli import PretrainCLI
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
