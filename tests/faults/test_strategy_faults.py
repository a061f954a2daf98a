"""Strategies, long form: all launchers, a full disk on one rank, other devices, SLURM."""

import os
import re
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(REPOSITORY / "tests" / "pretrain"))

from pretrain_corpora import make_folder, random_documents, tiny_options  # noqa: E402
from strategy_ranks import CONFIGS, job, run_jobs  # noqa: E402

from pretrain.cli import main  # noqa: E402
from training.checkpoints.storage import load_checkpoint, saved_checkpoints, verify_checkpoint  # noqa: E402
from training.metrics_file import read_metrics, series  # noqa: E402

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install -c constraints.txt deepspeed",
)
pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = random_documents(40, vocab_size=65)
    return make_folder(tmp_path_factory.mktemp("corpus"), documents, vocab_size=65)


def options(shards: Path, root: Path, name: str, *, steps: int = 4) -> list[str]:
    return [
        *tiny_options(shards, root),
        *("--data.micro_batch_size", "2", "--run.name", name, "--trainer.max_steps", str(steps)),
        *("--model.optimizer.schedule", "constant", "--trainer.gradient_clip_val", "0.5"),
    ]


def losses(folder: Path) -> list[float]:
    return series(read_metrics(folder / "metrics.jsonl"), "train/loss")[1]


def environment(**values: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **values}


def command_line(*arguments: str, timeout_s: int = 180) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pretrain", *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="module")
def reference(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of one device without a strategy."""
    root = tmp_path_factory.mktemp("reference")
    assert main(["fit", *options(shards, root, "reference")]) == 0
    return losses(root / "reference")


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [
        ("fsdp", "2"),
        ("fsdp", "1"),
        pytest.param("deepspeed_zero2", "2", marks=needs_deepspeed),
        pytest.param("deepspeed_zero2_offload", "1", marks=needs_deepspeed),
    ],
)
def test_lightning_itself_starts_all_ranks(
    strategy: str, devices: str, shards: Path, tmp_path: Path, reference: list[float]
) -> None:
    config = ["--config", str(CONFIGS / f"{strategy}.yaml"), "--trainer.devices", devices]
    done = command_line("fit", *config, *options(shards, tmp_path, "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "run") == pytest.approx(reference, abs=1e-5)


@needs_deepspeed
def test_a_full_disk_on_one_rank_fails_the_save_on_all_and_keeps_what_was_there(
    shards: Path, tmp_path: Path
) -> None:
    given = options(shards, tmp_path, "full")
    jobs = [
        job("deepspeed_zero2", *options(shards, tmp_path, "full", steps=2)),
        job("deepspeed_zero2", *given, disk_full_on=1),
        job("deepspeed_zero2", *given),
        job("deepspeed_zero2", *options(shards, tmp_path, "whole")),
    ]
    results = run_jobs(tmp_path, jobs)
    assert [rank["code"] for rank in results[1]["ranks"]] == [74, 74]
    assert "rank 1" in results[1]["ranks"][0]["stderr"]
    assert "No space left" in results[1]["ranks"][0]["stderr"]
    for result in (results[0], results[2], results[3]):
        assert [rank["code"] for rank in result["ranks"]] == [0, 0]
    folder = tmp_path / "full" / "checkpoints"
    assert [saved.step for saved in saved_checkpoints(folder)] == [2, 4]
    for saved in saved_checkpoints(folder):
        verify_checkpoint(saved.path)
    assert not list(folder.glob(".*"))
    assert losses(tmp_path / "full")[-2:] == losses(tmp_path / "whole")[-2:]


@needs_deepspeed
def test_a_zero_run_is_refused_on_one_device_and_goes_on_after_export(
    shards: Path, tmp_path: Path, reference: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_jobs(tmp_path, [job("deepspeed_zero1", *options(shards, tmp_path, "run", steps=2))])
    assert first[0]["ranks"][0]["code"] == 0, first[0]["ranks"][0]["stderr"]
    whole = options(shards, tmp_path, "run")
    zero = ["--config", str(CONFIGS / "deepspeed_zero1.yaml")]
    refused = command_line("fit", *zero, "--trainer.devices", "1", *whole)
    assert refused.returncode == 2
    assert "saved by ZeRO on 2 device(s), and this run has 1" in refused.stderr
    assert "export" in refused.stderr and "Traceback" not in refused.stderr
    assert main(["fit", *whole]) == 2
    assert "sharded run" in capsys.readouterr().err
    saved = saved_checkpoints(tmp_path / "run" / "checkpoints")[-1].path
    exported = tmp_path / "whole.ckpt"
    assert main(["export", str(saved), "--checkpoint", str(exported)]) == 0
    content = load_checkpoint(exported)
    assert all(isinstance(v, torch.Tensor) for v in content["state_dict"].values())
    resume = ["--resume", str(exported)]
    jobs = [
        job("fsdp", *options(shards, tmp_path, "second"), *resume),
        job("deepspeed_zero1", *options(shards, tmp_path, "third"), *resume),
    ]
    second, third = (result["ranks"][0] for result in run_jobs(tmp_path, jobs))
    assert second["code"] == 0, second["stderr"]
    assert losses(tmp_path / "second") == pytest.approx(reference[2:], abs=1e-5)
    assert third["code"] == 2 and "ordinary checkpoint" in third["stderr"]


SRUN = """#!{python}
import os, pathlib, signal, subprocess, sys, time
arguments = [a for a in sys.argv[1:] if not a.startswith(("--kill-on-bad-exit", "--wait"))]
count = int(os.environ["SLURM_NTASKS"])
tasks = []
for rank in range(count):
    own = dict(os.environ, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NODEID="0")
    tasks.append(subprocess.Popen(arguments, env=own))
metrics = pathlib.Path(os.environ["METRICS"])
while os.environ["SIGNAL_AFTER"] != "0" and all(task.poll() is None for task in tasks):
    lines = metrics.read_text().count("train/loss") if metrics.exists() else 0
    if lines >= int(os.environ["SIGNAL_AFTER"]):
        for task in tasks:
            task.send_signal(signal.SIGUSR1)
        break
    time.sleep(0.05)
sys.exit(max(task.wait() for task in tasks))
"""


def test_the_sbatch_script_stops_on_the_signal_requeues_when_asked_and_goes_on(
    shards: Path, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    requeued = tmp_path / "requeued"
    scripts = {
        "srun": SRUN.format(python=sys.executable),
        "scontrol": f'#!/bin/sh\necho "$@" >> {requeued}\n',
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755 | stat.S_IXUSR)
    slurm = {"JOB_ID": "4711", "NTASKS": "2", "NTASKS_PER_NODE": "2", "JOB_NUM_NODES": "1"}
    slurm |= {"NODELIST": "127.0.0.1", "JOB_NODELIST": "127.0.0.1", "JOB_NAME": "ponet"}
    values = {f"SLURM_{name}": value for name, value in slurm.items()}
    values |= {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": sys.executable}
    values |= {"METRICS": str(tmp_path / "job" / "metrics.jsonl"), "REQUEUE": "true"}
    given = options(shards, tmp_path, "job", steps=200)
    given += ["--preemption.poll_every_n_steps", "2", "--run.eval_every_n_steps", "100"]
    codes = []
    for signal_after in ("5", "0"):
        done = subprocess.run(
            ["bash", str(REPOSITORY / "docs" / "slurm.sbatch"), *given],
            cwd=REPOSITORY,
            env=environment(**values, SIGNAL_AFTER=signal_after),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        codes.append(done.returncode)
        assert codes[0] == 75, done.stdout + done.stderr[-3000:]
    assert codes == [75, 0], done.stdout + done.stderr[-3000:]
    assert requeued.read_text().splitlines() == ["requeue 4711"]
    steps, _ = series(read_metrics(tmp_path / "job" / "metrics.jsonl"), "train/loss")
    assert steps == list(range(1, 201))


def test_the_sbatch_script_asks_for_nothing_that_the_docs_do_not_say() -> None:
    script = (REPOSITORY / "docs" / "slurm.sbatch").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert re.search(r"^#SBATCH --signal=SIGUSR1@120$", script, flags=re.MULTILINE)
    assert not re.search(r"^#SBATCH --requeue", script, flags=re.MULTILINE)
