"""Seconds from the command `pretrain fit` to its first new step, fresh and resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import interleaved

from data_prep.shards import TokenShards
from pretrain.datamodule import PretrainDataModule
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig
from pretrain.sampler import SampleStream
from training.checkpoints.storage import (
    checkpoint_path,
    load_checkpoint,
    saved_checkpoints,
    write_checkpoint,
)
from training.metrics_file import read_metrics

REPOSITORY = Path(__file__).resolve().parent.parent
Options = Any
"""The command line's."""


def start(command: list[str], root: Path, name: str) -> "subprocess.Popen[bytes]":
    """Start a fit in a process group of its own."""
    with (root / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pretrain", "fit", *command, "--run.name", name],
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=REPOSITORY,
        )


def kill_when(process: "subprocess.Popen[bytes]", log: Path, done: Any) -> float:
    """Wait until `done()`, then end the whole group at once; return the seconds from now on."""
    begin = time.perf_counter()
    while not done():
        if process.poll() is not None:
            raise SystemExit(f"the run ended too early:\n{log.read_text()[-3000:]}")
        time.sleep(0.005)
    seconds = time.perf_counter() - begin
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return seconds


def has_step_after(metrics: Path, step: int) -> bool:
    if not metrics.exists() or not metrics.read_text():
        return False
    return any("train/loss" in row and row["step"] > step for row in read_metrics(metrics))


def in_third_epoch(run: Path, target: Path, shards: Path, options: Options) -> int:
    """Copy a run and give its checkpoint the step it would have in the third epoch; that step."""
    packing = PackingConfig(max_len=options.max_len)
    stream = SampleStream(TokenShards.open(shards), OBJECTIVES["mlm_sso"], packing, seed=42)
    examples = len(stream.plan(0)) + len(stream.plan(1))
    step = examples // options.batch_size // 1000 * 1000 + 1001  # no validation is due there
    stream.locate(np.array([examples]))
    shutil.copytree(run, target, symlinks=True)
    folder = target / "checkpoints"
    content = load_checkpoint(saved_checkpoints(folder)[-1].path)
    content["global_step"] = step
    content["lr_schedulers"][0]["last_epoch"] = step
    content[PretrainDataModule.__name__]["plan_sizes"] = stream.known_sizes
    write_checkpoint(content, checkpoint_path(folder, step))
    return step


def start_up(shards: Path, root: Path, encoder: str, options: Options) -> dict[str, Any]:
    """Seconds from the command to the end of its first new step: fresh and resumed."""
    command = ["--config", str(REPOSITORY / "configs" / "pretrain" / "small.yaml")]
    command += ["--config", str(REPOSITORY / "configs" / "encoder" / f"ponet_{encoder}.yaml")]
    vocab_size = TokenShards.open(shards).manifest.tokenizer.vocab_size
    given = {
        "data.folder": shards,
        "model.encoder.vocab_size": vocab_size,
        "data.max_len": options.max_len,
        "data.global_batch_size": options.batch_size,
        "data.micro_batch_size": options.batch_size,
        "run.root": root,
        "trainer.log_every_n_steps": 1,
        "trainer.max_steps": 10**6,
        "trainer.accelerator": options.accelerator,
        "trainer.precision": options.precision,
        "trainer.devices": 1,
        "checkpoints.every_n_steps": 2,
    }
    command += [text for name, value in given.items() for text in (f"--{name}", str(value))]
    folder = root / "saved" / "checkpoints"
    process = start(command, root, "saved")
    kill_when(process, root / "saved.log", lambda: len(saved_checkpoints(folder)) > 1)
    origins = {"resumed": root / "saved", "resumed in the third epoch": root / "later"}
    later = in_third_epoch(root / "saved", root / "later", shards, options)

    def seconds(kind: str) -> float:
        shutil.rmtree(root / "tried", ignore_errors=True)
        if kind in origins:
            shutil.copytree(origins[kind], root / "tried", symlinks=True)
        kept = saved_checkpoints(root / "tried" / "checkpoints")
        step = kept[-1].step if kept else 0
        process, metrics = start(command, root, "tried"), root / "tried" / "metrics.jsonl"
        return kill_when(process, root / "tried.log", lambda: has_step_after(metrics, step))

    rivals = {kind: lambda kind=kind: seconds(kind) for kind in ("fresh", *origins)}
    found = interleaved(rivals, rounds=options.start_ups)
    for kind, times in found.items():
        times["ratio"] = times["median"] / found["fresh"]["median"]
        print(
            f"start-up, {kind:28s}{times['median']:6.2f} s "
            f"[{times['min']:.2f} .. {times['max']:.2f}]  x {times['ratio']:.3f}"
        )
    tokens = TokenShards.open(shards).num_tokens
    return {"encoder": encoder, "tokens": tokens, "later_step": later, "seconds": found}
