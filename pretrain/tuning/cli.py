"""The options of `fit` around a finder instead of a run.

Invariant: no run folder is read, written or removed.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from data_prep.files import write_atomic
from pretrain.lightning_cli import PretrainCLI, automatic_precision
from pretrain.run_config import RunConfig
from pretrain.tuning.batch_size import GIB, BatchSizeSearch, SizeTrials, chosen_size, plot_sizes
from pretrain.tuning.lr import LrSearch, LrSweep, plot_lr
from training.cli import take_over_signals
from training.interruption import say
from training.run_config import CONFIG_FILE, METRICS_FILE

FOUND_BY = "# Found by `python -m pretrain tune"

# Options of `fit` that a finder replaces, and by what; the user hears of those that were given.
TRAINER_VALUES: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "callbacks": None,
    "logger": False,
    "enable_checkpointing": False,
    "max_steps": 1,  # each search gives its own number
    "min_steps": None,
    "min_epochs": None,
    "max_epochs": -1,
    "limit_train_batches": None,
    "limit_val_batches": 0,
    "enable_progress_bar": False,
}
_WORTH_SAYING = ("devices", "num_nodes", "strategy", "callbacks", "logger")


class TuneCLI(PretrainCLI):
    """`tune`: parses what `fit` parses, then searches."""

    search_class: ClassVar[type[LrSearch] | type[BatchSizeSearch]]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the finder's options to those of `fit`."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(self.search_class)

    def before_instantiate_classes(self) -> None:
        """Turn the configuration of a run into that of a search."""
        config = self.config[self.subcommand]
        self.run = RunConfig(**vars(config.run))
        names = [field.name for field in fields(self.search_class)]
        self.search = self.search_class(**{name: config[name] for name in names})
        check_output(self.search.output)
        _refuse_what_contradicts(config)
        trainer = config.trainer
        self.world_size = device_count(trainer.devices) * int(trainer.num_nodes)
        _say_what_is_replaced(trainer)
        if self.run.auto_precision and trainer.precision is None:
            trainer.precision = automatic_precision()
        for name, value in TRAINER_VALUES.items():
            trainer[name] = value
        self.save_config_callback = None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """A plain trainer: none of a run's callbacks, plugins and loggers."""
        trainer = LightningCLI._instantiate_trainer(self, config, callbacks)
        take_over_signals(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Search, and write what was found."""
        self.find()

    def make_trainer(self, callback: Callback, steps: int) -> Trainer:
        """A trainer with one callback that ends after some optimiser steps."""
        return self.instantiate_trainer(callbacks=[callback], max_steps=steps)

    def find(self) -> None:
        """Search and write; one per kind."""
        raise NotImplementedError

    def _write(self, comment: str, content: dict[str, Any]) -> None:
        text = f"{comment}\n{yaml.safe_dump(content, sort_keys=False)}"
        write_atomic(self.search.output, text.encode())
        print(
            f"{comment.removeprefix('# ')}\nwritten: {self.search.output} and {self.plot_path}\n"
            f"use it:  python -m pretrain fit ... --config {self.search.output}"
        )

    @property
    def plot_path(self) -> Path:
        """The PNG beside the YAML file."""
        return self.search.output.with_suffix(".png")


class LrCLI(TuneCLI):
    """`tune lr`."""

    search_class = LrSearch
    search: LrSearch

    def find(self) -> None:
        """Sweep, plot, write `model.optimizer.lr`."""
        sweep = LrSweep(self.search)
        trainer = self.make_trainer(sweep, self.search.num_steps)
        trainer.fit(self.model, datamodule=self.datamodule)
        curve = sweep.curve()
        if curve.still_falling:
            say(f"the loss still falls at {curve.lrs[-1]:.1e}: raise --max_lr to see where it ends")
        plot_lr(curve, self.plot_path)
        self._write(
            f"{FOUND_BY} lr`: the loss fell most steeply at {curve.suggestion:.1e} in "
            f"{len(curve.lrs)} steps of {self.datamodule.global_batch_size} examples from "
            f"{curve.lrs[0]:.1e} to {curve.lrs[-1]:.1e}; it was lowest at "
            f"{curve.lrs[curve.lowest]:.1e}.",
            {"model": {"optimizer": {"lr": curve.suggestion}}},
        )


class BatchSizeCLI(TuneCLI):
    """`tune batch_size`."""

    search_class = BatchSizeSearch
    search: BatchSizeSearch

    def find(self) -> None:
        """Measure the sizes, print them, plot, write `data.micro_batch_size`."""
        global_batch_size = self.datamodule.global_batch_size

        search = SizeTrials(
            self.make_trainer, self.model, self.datamodule, self.search, world_size=self.world_size
        )
        trials = search.run()
        print(f"{'micro-batch':>11}{'examples/s':>12}{'peak GiB':>10}", *trials, sep="\n")
        if search.device == "cpu" and not trials[-1].problem:
            say(
                "a CPU has no out-of-memory error to find: the sizes ended at the global batch or "
                "--max_batch_size; memory is this process's peak, loader processes excluded"
            )
        chosen = chosen_size(trials, self.search.choose)
        plot_sizes(trials, chosen, search.limit, self.plot_path)
        self._write(
            f"{FOUND_BY} batch_size`: {chosen.size} is the {self.search.choose} of the sizes that "
            f"fit the {search.device} ({chosen.examples_per_s:.1f} examples/s, "
            f"{chosen.memory / GIB:.2f} GiB; tried {trials[0].size} to {trials[-1].size}, global "
            f"batch {global_batch_size} on {self.world_size} device(s)).",
            {"data": {"micro_batch_size": chosen.size}},
        )


def device_count(devices: Any) -> int:
    """Devices per node that `trainer.devices` asks for: a number, a list, or `auto`."""
    text = str(devices).strip("[] ")
    if isinstance(devices, list) or "," in text:
        return len([part for part in text.split(",") if part.strip()])
    if text.isdigit():
        return int(text)
    return max(1, torch.cuda.device_count())


def check_output(path: Path) -> None:
    """Refuse a place where a finder must not write.

    Raises:
        ValueError: It is no YAML name, lies in a run's folder, or is a file of another origin.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {path}: give a name that ends in .yaml")
    run = next((f for f in path.absolute().parents if _is_run(f)), None)
    if run is not None:
        raise ValueError(f"--output {path} lies in the folder of a run; give another folder")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(FOUND_BY):
        raise ValueError(f"--output {path} exists and was not written by tune; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)


def _is_run(folder: Path) -> bool:
    return (folder / METRICS_FILE).exists() or (folder / CONFIG_FILE).exists()


def _refuse_what_contradicts(config: Any) -> None:
    if config.trainer.fast_dev_run:
        raise ValueError("tune needs real steps: leave out trainer.fast_dev_run")
    if config.trainer.overfit_batches:
        raise ValueError("tune needs the real data: leave out trainer.overfit_batches")
    if config.ckpt_path is not None or config.resume not in ("auto", "never"):
        raise ValueError(
            "tune trains fresh weights and reads no checkpoint: leave out --ckpt_path, and give "
            "--resume never"
        )


def _say_what_is_replaced(trainer: Any) -> None:
    defaults: dict[str, tuple[Any, ...]] = {
        "devices": ("auto", 1, "1"),
        "num_nodes": (1,),
        "strategy": ("auto",),
        "callbacks": (None, []),
        "logger": (None, True, False, []),
    }
    given = [f"trainer.{name}" for name in _WORTH_SAYING if trainer[name] not in defaults[name]]
    if given:
        say(f"tune runs on one device without callbacks and loggers; not used: {', '.join(given)}")
