"""What the resume tests inject into a run, and how they compare two runs."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from training.checkpoints.storage import load_checkpoint, saved_checkpoints

CLOCK = (
    "elapsed_s",
    "train/tokens_per_s",
    "train/mfu",
    "train/memory_gib",
    "train/data_wait_share",
)


class Killed(BaseException):
    """Ends a run in the middle of whatever it does, as a kill would."""


class FaultAt(Callback):
    """Kill the run, or send it a signal, at the given places.

    Args:
        hook: `train_batch_end`, `validation_batch_end`, `train_start`, ...
        steps: Optimiser steps done when it happens; each once.
        kind: `kill`, or the name of a signal.
        times: How often the signal is sent at once.
        rank: Only on this rank; -1: on all.
    """

    def __init__(
        self,
        hook: str,
        steps: tuple[int, ...],
        kind: str = "kill",
        times: int = 1,
        rank: int = -1,
    ) -> None:
        self.hook, self.steps, self.kind, self.times, self.rank = hook, steps, kind, times, rank

    def _strike(self, hook: str, trainer: Trainer) -> None:
        if hook != self.hook or trainer.global_step not in self.steps:
            return
        if self.rank not in (-1, trainer.global_rank):
            return
        marker = Path(trainer.default_root_dir) / f".struck-{trainer.global_rank}.json"
        done = json.loads(marker.read_text()) if marker.exists() else []
        place = [hook, trainer.global_step, self.kind]
        if place in done:
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps([*done, place]))
        for _ in range(self.times):
            if self.kind == "kill":
                raise Killed
            os.kill(os.getpid(), getattr(signal, self.kind))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strike("train_start", trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._strike("train_batch_start", trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._strike("train_batch_end", trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._strike("validation_batch_end", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._strike("validation_end", trainer)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        self._strike("save", trainer)


def fault_options(hook: str, *steps: int, **more: Any) -> list[str]:
    """Command-line options that inject a `FaultAt`."""
    return injected(("FaultAt", {"hook": hook, "steps": list(steps), **more}))


def story(folder: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics without what a clock decides."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def final_state(folder: Path) -> dict[str, Any]:
    """Weights and optimiser state of a run's last checkpoint, flat."""
    content = load_checkpoint(saved_checkpoints(folder / "checkpoints")[-1].path)
    found = dict(content["state_dict"])
    for key, state in content["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{key}.{name}": torch.as_tensor(v) for name, v in state.items()}
    return {**found, "step": torch.tensor(content["global_step"])}


def assert_same_story(folder: Path, twin: Path) -> None:
    """Two runs logged the same numbers and ended with the same state, to the bit."""
    assert story(folder) == story(twin)
    first, second = final_state(folder), final_state(twin)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


class Poison(Callback):
    """Spoil what a micro-batch with certain samples leads to, whenever they are read.

    Args:
        first: First sample that is poison.
        last: Last one.
        kind: `gradient` (NaN), `weights` (NaN after the step) or `jump` (weights scaled up).
    """

    def __init__(self, first: int, last: int, kind: str) -> None:
        self.first, self.last, self.kind = first, last, kind
        self._hit = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        ids = batch["example_ids"]
        self._hit = bool(((ids >= self.first) & (ids <= self.last)).any())
        record = Path(trainer.default_root_dir) / "samples.txt"
        with record.open("a") as file:
            file.write(" ".join(map(str, ids.tolist())) + "\n")
        if self._hit and self.kind == "jump":
            self._fill(pl_module, lambda weight: weight.mul_(100))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hit and self.kind == "gradient":
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._hit and self.kind == "weights":
            self._fill(pl_module, lambda weight: weight.fill_(torch.nan))

    @staticmethod
    def _fill(pl_module: LightningModule, change: Any) -> None:
        with torch.no_grad():
            change(next(pl_module.parameters()))


def injected(*callbacks: tuple[str, dict[str, Any]]) -> list[str]:
    """Command-line options that add callbacks of this file."""
    value = [
        {"class_path": f"pretrain_faults.{name}", "init_args": given} for name, given in callbacks
    ]
    return ["--allow_modules", "pretrain_faults", "--trainer.callbacks", json.dumps(value)]
