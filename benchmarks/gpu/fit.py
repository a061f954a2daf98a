"""A short real pretraining with its curve, and a run that is killed and resumed beside its twin.

Driven through Python: `pretrain fit` needs jsonargparse, which a lent machine may lack. Module,
data, seeds and optimiser are those of `pretrain fit`.

    python -m benchmarks.gpu.fit FOLDER plain|compiled     (the run that kills itself)
"""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from benchmarks.gpu.cells import DRY, GPU, Cell, Sizes
from benchmarks.report import REPOSITORY, Row
from benchmarks.rivals import PRECISIONS, Rival
from benchmarks.runs import bare_trainer, synthetic_folder
from pretrain.callbacks import dropout_seed
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.sums import LossSums, means
from training.callbacks.steps import StepSeeds
from training.optim import PretrainOptimizer
from training.utilisation import memory_gib, peak_rate, use_tensor_cores

LEARNT_WORDS = 64
"""Different words of a synthetic document: what a model can learn of it."""
CURVE_LEN = 128
FORMS = ("plain", "compiled")


def cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of the stage."""
    curve: list[Cell] = [("curve", lambda: curve_rows(sizes))]
    forms = FORMS[:1] if sizes.is_dry else FORMS
    return curve + [(f"killed and resumed, {f}", lambda f=f: twins(sizes, f)) for f in forms]


@dataclass
class LossCurve(Callback):
    """Keeps the sums of losses on the device, and reads them every so many steps."""

    every: int
    rows: list[Row] = field(default_factory=list)
    _sums: Tensor | None = None
    _start: float = 0.0
    _flops: float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._start = time.perf_counter()

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        sums = outputs["sums"]
        self._sums = sums if self._sums is None else self._sums + sums
        assert isinstance(pl_module, PretrainModule)
        self._flops += pl_module.batch_flops(batch)
        if trainer.global_step % self.every:
            return
        found = means(self._sums)  # waits for the device
        seconds = time.perf_counter() - self._start
        peak = peak_rate(pl_module.device, str(trainer.precision))
        found |= {"tokens_per_s": float(LossSums(*self._sums).tokens) / seconds, "seconds": seconds}
        found |= {"mfu": self._flops / seconds / peak.flops_per_s}
        found |= {"memory_gib": memory_gib(pl_module.device)}
        self.rows.append({"step": trainer.global_step, **found})
        self._sums, self._flops, self._start = None, 0.0, time.perf_counter()


@dataclass
class Kill(Callback):
    """Ends the process as a power cut does, after a step."""

    step: int

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        if trainer.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_shards(folder: Path, sizes: Sizes) -> Path:
    """Return a folder of documents that a model can learn something of."""
    count = sizes.sentences if sizes.is_dry else min(sizes.sentences, 400_000)
    return synthetic_folder(
        folder / "shards", num_sentences=count, vocab_size=sizes.vocab_size,
        validation_sentences=max(100, count // 100), words_per_document=LEARNT_WORDS,
    )  # fmt: skip


def fit(
    folder: Path, sizes: Sizes, num_steps: int, *, compiled: bool = False,
    callbacks: Sequence[Callback] = (), ckpt_path: Path | None = None, max_steps: int = 0,
) -> PretrainModule:  # fmt: skip
    """Train the small PoNet on the shards of a folder; return its module.

    Args:
        folder: Has `shards`.
        sizes: Of everything.
        num_steps: Of the schedule.
        compiled: Whether blocks are compiled.
        callbacks: Beside those that every run has.
        ckpt_path: Where to go on.
        max_steps: Where to stop; 0: at the end of the schedule.
    """
    max_len = min(CURVE_LEN, sizes.lengths[0])
    config = Rival(kind="ponet").config(
        sizes.small, vocab_size=sizes.vocab_size, max_positions=max_len
    )
    torch.manual_seed(1)
    optimizer = dataclasses.replace(PretrainOptimizer(), lr=1e-3)
    module = PretrainModule(config, optimizer=optimizer, compile=compiled)
    size = max(1, min(256, sizes.tokens // max_len))
    data = PretrainDataModule(
        folder=str(folder / "shards"), max_len=max_len, global_batch_size=size,
        micro_batch_size=size, num_workers=0 if sizes.is_dry else 4, verify_shards=False,
        join_texts=not compiled,  # compiled, each length of a row would be a shape
    )  # fmt: skip
    precision: Any = PRECISIONS["bf16"]
    use_tensor_cores(precision)
    trainer = bare_trainer(
        sizes.device, precision=precision, max_steps=max_steps or num_steps, gradient_clip_val=1.0,
        callbacks=[StepSeeds(dropout_seed), *callbacks], limit_val_batches=0,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
    return module


def curve_rows(sizes: Sizes) -> list[Row]:
    """Return the training loss of a compiled run over its steps, with its rates."""
    curve = LossCurve(max(1, sizes.curve_steps // 30))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shards(folder, sizes)
        fit(folder, sizes, sizes.curve_steps, compiled=not sizes.is_dry, callbacks=[curve])
    return curve.rows


def checkpoints(folder: Path, num_steps: int) -> ModelCheckpoint:
    """Return what keeps one checkpoint, of half the steps."""
    half = max(1, num_steps // 2)
    return ModelCheckpoint(
        folder / "kept", filename="half", every_n_train_steps=half, save_top_k=1,
        enable_version_counter=False,
    )  # fmt: skip


def until_killed(folder: Path, sizes: Sizes, form: str) -> None:
    """Train to the checkpoint of half the steps and beyond, and end by SIGKILL."""
    steps = sizes.twin_steps
    kept = checkpoints(folder, steps)
    if sizes.is_dry:  # not this process, please
        fit(folder, sizes, steps, callbacks=[kept], max_steps=max(1, steps // 2))
        return
    command = [sys.executable, "-m", "benchmarks.gpu.fit", str(folder), form]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-200:]}")


def twins(sizes: Sizes, form: str) -> list[Row]:
    """Return how many weights of a run that was killed and resumed differ from its twin's."""
    compiled = form == "compiled" and not sizes.is_dry
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_shards(folder, sizes)
        ends = [fit(folder, sizes, sizes.twin_steps, compiled=compiled).state_dict()]
        until_killed(folder, sizes, form)
        kept = folder / "kept" / "half.ckpt"
        resumed = fit(folder, sizes, sizes.twin_steps, compiled=compiled, ckpt_path=kept)
        ends.append(resumed.state_dict())
    pairs = [(value, ends[1][name]) for name, value in ends[0].items()]
    differing = sum(not torch.equal(own, other) for own, other in pairs)
    largest = max(float((own.float() - other.float()).abs().max()) for own, other in pairs)
    return [{"name": form, "weights": len(pairs), "differing": differing, "largest": largest}]


def main(arguments: Sequence[str]) -> None:
    """Be the run that kills itself."""
    folder, form = Path(arguments[0]), arguments[1]
    sizes = GPU if torch.cuda.is_available() else dataclasses.replace(DRY, twin_steps=4)
    steps = sizes.twin_steps
    callbacks = [checkpoints(folder, steps), Kill(max(1, steps * 3 // 4))]
    fit(folder, sizes, steps, compiled=form == "compiled", callbacks=callbacks)


if __name__ == "__main__":
    main(sys.argv[1:])
