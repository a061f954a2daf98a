"""The options of `fit` around a finder instead of a run.

Invariant: no run folder is read, written or removed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from data_prep.files import write_atomic
from pretrain.lightning_cli import OF_A_RUN, PretrainCLI
from pretrain.run_config import RunConfig
from pretrain.tuning.batch_size import BatchSizeSearch, find_batch_size
from pretrain.tuning.lr import LrSearch, find_lr
from training.cli import take_over_signals
from training.interruption import say
from training.reports.figures import tidy
from training.run_config import CONFIG_FILE, METRICS_FILE

FOUND_BY = "# Found by `python -m pretrain tune"
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
"""Options of `fit` that a finder replaces; the user hears of the first five if they were given."""
_SAY_NOTHING: tuple[Any, ...] = ("auto", 1, "1", None, True, False, [])


class TuneCLI(PretrainCLI):
    """`tune lr`: parses what `fit` parses, then searches."""

    kind = "lr"
    does = {"fit": "Find a learning rate, or a micro-batch size, for a fit with these options."}
    unused = {"fit": (*OF_A_RUN, "ckpt_path", "weights_only")}
    search_class: ClassVar[type] = LrSearch
    """The finder's own options; `output` is one of them."""
    find: ClassVar[Callable[[Any], None]] = find_lr
    search: Any
    """The options of this command."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the finder's options to those of `fit`."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(self.search_class)

    def before_instantiate_classes(self) -> None:
        """Turn the configuration of a run into that of a search."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        self.run = RunConfig(**vars(config.run))
        self.search = self.search_class(
            **{field.name: config[field.name] for field in fields(self.search_class)}
        )
        check_output(self.search.output)
        for name in ("fast_dev_run", "overfit_batches"):
            if trainer[name]:
                raise ValueError(f"tune needs real steps on the data: leave out trainer.{name}")
        if config.ckpt_path is not None or config.resume not in ("auto", "never"):
            raise ValueError(
                "tune trains fresh weights and reads no checkpoint: leave out --ckpt_path, and "
                "give --resume never"
            )
        self.world_size = device_count(trainer.devices) * int(trainer.num_nodes)
        named = [name for name in list(TRAINER_VALUES)[:5] if trainer[name] not in _SAY_NOTHING]
        if named:
            given = ", ".join(f"trainer.{name}" for name in named)
            say(f"tune runs on one device without callbacks and loggers; not used: {given}")
        self.settle_precision(trainer)
        for name, value in TRAINER_VALUES.items():
            trainer[name] = value
        self.save_config_callback = None
        self._settle_start(config)

    def recorded_precision(self) -> None:
        """None: no run folder is read."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """A plain trainer: none of a run's callbacks, plugins and loggers."""
        trainer = LightningCLI._instantiate_trainer(self, config, callbacks)
        take_over_signals(trainer)
        return trainer

    def make_trainer(self, callback: Callback, steps: int) -> Trainer:
        """A trainer with one callback that ends after some optimiser steps."""
        return self.instantiate_trainer(callbacks=[callback], max_steps=steps)

    def _run_subcommand(self, subcommand: str) -> None:
        """Search, and write what was found."""
        self.find()

    def write(self, found: str, content: dict[str, Any]) -> None:
        """Write what was found as a configuration of `fit`, and say so."""
        path, comment = self.search.output, f"{FOUND_BY} {self.kind}`: {found}."
        write_atomic(path, f"{comment}\n{yaml.safe_dump(content, sort_keys=False)}".encode())
        print(
            f"{comment.removeprefix('# ')}\nwritten: {path} and {path.with_suffix('.png')}\n"
            f"use it:  python -m pretrain fit ... --config {path}"
        )

    @contextmanager
    def drawn(self, num_axes: int = 1) -> Iterator[list[Any]]:
        """Give axes side by side; what is drawn there is written as the PNG beside the YAML."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.6 + 4.5 * num_axes, 3.8), layout="constrained")
        axes = list(figure.subplots(1, num_axes, squeeze=False)[0])
        yield axes
        for axis in axes:
            tidy(axis, grid="both")
            axis.legend(fontsize=8, frameon=False)
        figure.savefig(self.search.output.with_suffix(".png"), dpi=110)


class BatchSizeCLI(TuneCLI):
    """`tune batch_size`."""

    kind = "batch_size"
    search_class = BatchSizeSearch
    find = find_batch_size


def device_count(devices: Any) -> int:
    """Devices per node that `trainer.devices` asks for: a number, a list, or `auto`."""
    text = str(devices).strip("[] ")
    if isinstance(devices, list) or "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdigit() else max(1, torch.cuda.device_count())


def check_output(path: Path) -> None:
    """Refuse a place where a finder must not write.

    Raises:
        ValueError: It is no YAML name, lies in a run's folder, or is a file of another origin.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output {path}: give a name that ends in .yaml")
    for folder in path.absolute().parents:
        if (folder / METRICS_FILE).exists() or (folder / CONFIG_FILE).exists():
            raise ValueError(f"--output {path} lies in the folder of a run; give another folder")
    if path.exists() and not path.read_text(encoding="utf-8").startswith(FOUND_BY):
        raise ValueError(f"--output {path} exists and was not written by tune; give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
