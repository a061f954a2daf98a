"""Blocks of training steps with one set of callbacks after the other, in one fit."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from benchmarks.harness import in_turn, wait
from benchmarks.report import CONFIGS, Options
from data_prep.shards import TokenShards
from ponet import PoNetConfig
from pretrain.callbacks import Guards, StepSeeds, Watchdog
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.optim import OptimizerConfig
from pretrain.run_setup import take_over_signals
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.schedule import RunCheckpoints
from training.guards import GuardConfig
from training.interruption import StopRequest
from training.run_config import CheckpointConfig

BARE, NOTHING, ALL = "bare", "nothing (a second bare)", "poll, guards, watchdog, seeds"
SYNC, ASYNC = "checkpoint", "checkpoint, asynchronous"
QUIET = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")


@dataclass
class Protection:
    """What is switched on during a block, and what was measured."""

    callbacks: list[Callback] = field(default_factory=list)
    saver: RunCheckpoints | None = None
    """Saves once, at the start of each block."""
    io: VerifiedCheckpointIO = field(default_factory=VerifiedCheckpointIO)
    steps_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """CPU time of this process with all its threads, per step."""
    own_ms: list[float] = field(default_factory=list)
    """Wall time inside the hooks of `callbacks`, per step."""
    saves_s: list[float] = field(default_factory=list)
    hooks_s: float = 0.0

    def __post_init__(self) -> None:
        for callback in self.callbacks:
            for name in ("on_train_batch_start", "on_train_batch_end"):
                setattr(callback, name, self._timed(getattr(callback, name)))

    def _timed(self, hook: Any) -> Any:
        def timed(*args: Any) -> None:
            start = time.perf_counter()
            hook(*args)
            self.hooks_s += time.perf_counter() - start

        return timed

    @property
    def parts(self) -> list[Callback]:
        """All that is set up and torn down with a block."""
        return [*self.callbacks, *([self.saver] if self.saver else [])]


class Blocks(Callback):
    """Switches to the next after every block; the last callback, so that it times all."""

    def __init__(self, protections: Mapping[str, Protection], *, size: int, rounds: int) -> None:
        self.size = size
        orders = [in_turn(list(protections), number) for number in range(rounds + 1)]
        self.queue = [protections[name] for order in orders for name in order]
        self.max_steps = size * len(self.queue)
        self.now = self.queue[0]
        self.start = self.cpu_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._begin(trainer, pl_module)

    def on_train_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if trainer.global_step % self.size:
            return
        trainer.strategy.checkpoint_io.wait()  # type: ignore[attr-defined]
        wait(pl_module.device.type)
        now = self.now
        now.steps_ms.append((time.perf_counter() - self.start) * 1e3 / self.size)
        now.cpu_ms.append((time.process_time() - self.cpu_start) * 1e3 / self.size)
        now.own_ms.append(now.hooks_s * 1e3 / self.size)
        for callback in now.parts:
            callback.teardown(trainer, pl_module, "fit")
        trainer.callbacks = [self]
        if self.queue:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        now = self.now = self.queue.pop(0)
        trainer.callbacks = [*now.callbacks, self]
        trainer.strategy.checkpoint_io = now.io
        for callback in now.parts:
            callback.setup(trainer, module, "fit")
            callback.on_train_start(trainer, module)
        wait(module.device.type)
        now.hooks_s, self.cpu_start, self.start = 0.0, time.process_time(), time.perf_counter()
        if now.saver is not None:
            now.saver.save(trainer, module)
            now.saves_s.append(time.perf_counter() - self.start)


def make_protections(folder: Path, poll_every_n_steps: int) -> dict[str, Protection]:
    """Everything off, each part alone, and everything on; guards as by default, with spikes."""
    guards = GuardConfig(spike_factor=3.0)

    def checkpoints(name: str) -> RunCheckpoints:
        return RunCheckpoints(
            folder / name,
            config=CheckpointConfig(every_n_minutes=0, at_validation=False),
            stop=StopRequest(budget_s=1e6),
            poll_every_n_steps=poll_every_n_steps,
            eval_every_n_steps=10**9,
            before_save=Guards(guards).check_before_save,
            before_stop=lambda trainer, pl_module: None,
        )

    def watchdog() -> Watchdog:
        return Watchdog(guards.watchdog_minutes)

    everything = [StepSeeds(), watchdog(), Guards(guards), checkpoints("poll")]
    in_background = VerifiedCheckpointIO(asynchronous=True)
    return {
        BARE: Protection(),
        NOTHING: Protection(),
        "preemption poll": Protection([checkpoints("poll")]),
        "guards": Protection([Guards(guards)]),
        "watchdog": Protection([watchdog()]),
        "step seeds": Protection([StepSeeds()]),
        ALL: Protection(everything),
        SYNC: Protection(saver=checkpoints("sync")),
        ASYNC: Protection(saver=checkpoints("async"), io=in_background),
    }


def train_blocks(
    shards: Path, folder: Path, encoder: str, options: Options
) -> dict[str, Protection]:
    """Train one encoder through all blocks; return what was measured with each protection."""
    content = yaml.safe_load((CONFIGS / "encoder" / f"ponet_{encoder}.yaml").read_text())
    sizes = content["model"]["encoder"].get("init_args", {})
    sizes["vocab_size"] = TokenShards.open(shards).manifest.tokenizer.vocab_size
    torch.manual_seed(1)
    module = PretrainModule(PoNetConfig(**sizes), optimizer=OptimizerConfig(lr=6e-4))
    batch = {"global_batch_size": options.batch_size * options.devices}
    batch |= {"micro_batch_size": options.batch_size, "num_workers": options.num_workers}
    data = PretrainDataModule(folder=str(shards), max_len=options.max_len, **batch)
    protections = make_protections(folder, options.poll_every_n_steps)
    blocks = Blocks(protections, size=options.block, rounds=options.rounds)
    trainer = Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        precision=options.precision,
        max_steps=blocks.max_steps,
        callbacks=[blocks],
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        **dict.fromkeys(QUIET, False),
    )
    take_over_signals(trainer)  # as in every run of ours
    trainer.fit(module, datamodule=data)
    return protections
