"""LightningCLI for pretraining: options, the run's folder, loggers, callbacks and precision.

Invariant: command line and YAML files alone decide a run; a checkpoint never overrides them.
"""

import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import set_parsing_settings
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ponet import EncoderConfig
from pretrain.callbacks import (
    BundleExport,
    EvaluationInterval,
    EvaluationReport,
    PredictionsFile,
    RunProgressBar,
    TrainingLog,
)
from pretrain.datamodule import PretrainDataModule
from pretrain.metrics_file import MetricsFileLogger
from pretrain.module import PretrainModule
from pretrain.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    RunConfig,
)
from pretrain.summary import print_summary

# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.objective": "model.objective",
    "data.seed": "seed_everything",
    "trainer.accumulate_grad_batches": "data.global_batch_size",
    "trainer.val_check_interval": "run.eval_every_n_steps",
    "trainer.check_val_every_n_epoch": "run.eval_every_n_steps",
    "trainer.default_root_dir": "run.root",
}


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one message, without the usage of 200 options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Raise what is wrong as a ValueError."""
        hint = "(ponet-pretrain COMMAND --help lists the options)"
        raise ValueError(message if hint in message else f"{message}\n{hint}") from ex


class RunConfigFile(SaveConfigCallback):
    """Write the resolved configuration of a `fit`; `--config` with that file repeats the run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it on the first rank."""
        if stage == "fit":
            folder = Path(self.config.run.root) / self.config.run.name
            folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            for key in DECIDED_BY:
                config.pop(key, None)
            self.parser.save(
                config, folder / CONFIG_FILE, skip_unset=False, overwrite=True, multifile=False
            )


class PretrainCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` around PretrainModule and PretrainDataModule."""

    run: RunConfig

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser with short errors."""
        parser = OneLineParser(**{**kwargs, "allow_abbrev": False})
        parser.add_argument("-c", "--config", action="config", help="YAML file; may be repeated.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `run.*`, and link what two components share."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("model.objective", "data.objective")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=_seed_number)

    def _parse_ckpt_path(self) -> None:
        """Keep the command line: hyper-parameters stored in a checkpoint are not read."""

    def before_instantiate_classes(self) -> None:
        """Prepare the run's folder and fill in what depends on it."""
        config = self.config[self.subcommand]
        self.run = RunConfig(**vars(config.run))
        if config.run.auto_precision and config.trainer.precision is None:
            config.trainer.precision = automatic_precision()
        config.trainer.default_root_dir = str(self.run.folder)
        if self.subcommand == "fit":
            _prepare_run_folder(self.run, resumed=config.ckpt_path is not None)
        elif config.ckpt_path is None:
            config.ckpt_path = str(newest_checkpoint(self.run))

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        show = config.get("enable_progress_bar") is not False
        callbacks = [*callbacks, *run_callbacks(self.run, subcommand=self.subcommand, show=show)]
        given = config.get("logger")
        extra = given if isinstance(given, list) else [given]
        own = run_loggers(self.run, self._plain_config())
        config["logger"] = [
            *own,
            *(logger for logger in extra if not isinstance(logger, bool | None)),
        ]
        return super()._instantiate_trainer(config, callbacks)

    def _plain_config(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        return yaml.safe_load(parser.dump(self.config[self.subcommand], skip_unset=False))

    def before_fit(self) -> None:
        """Give the module the resolved configuration, for its checkpoints."""
        self.model.resolved_config = self._plain_config()

    def after_fit(self) -> None:
        """Print the run's table on the first rank."""
        if self.trainer.is_global_zero:
            print_summary([self.run.folder])


def _seed_number(seed: bool | int) -> int:
    if isinstance(seed, bool):
        raise ValueError(
            f"seed_everything is {seed}: give a whole number, so that the run can be repeated"
        )
    return seed


def automatic_precision() -> str:
    """`bf16-mixed` where the device multiplies bfloat16 in hardware, else `32-true`.

    On a CPU that means AMX: without it bfloat16 matrix products are no faster than float32.
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if torch.cpu._is_amx_tile_supported() else "32-true"


@rank_zero_only
def _prepare_run_folder(run: RunConfig, *, resumed: bool) -> None:
    if resumed or not (run.folder / METRICS_FILE).exists():
        return
    if not run.overwrite:
        raise ValueError(
            f"{run.folder} holds an earlier run. Give another --run.name, continue it with "
            f"--ckpt_path {run.folder / CHECKPOINT_FOLDER / 'last.ckpt'}, or delete it with "
            "--run.overwrite true"
        )
    shutil.rmtree(run.folder)


def newest_checkpoint(run: RunConfig) -> Path:
    """The run's last checkpoint; an untrained model is never evaluated by mistake."""
    path = run.folder / CHECKPOINT_FOLDER / "last.ckpt"
    if not path.exists():
        raise ValueError(
            f"no checkpoint at {path}: give the run with --run.name, or a file with --ckpt_path"
        )
    return path


def run_callbacks(run: RunConfig, *, subcommand: str | None, show: bool) -> list[Callback]:
    """The callbacks every run has."""
    folder = run.folder / CHECKPOINT_FOLDER
    options = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[Callback] = [
        EvaluationInterval(run.eval_every_n_steps),
        TrainingLog(),
        ModelCheckpoint(filename="best", monitor="val/loss", **options),
        ModelCheckpoint(filename="last", **options),
        EvaluationReport(run.folder),
        BundleExport(run.folder / BUNDLE_FOLDER),
    ]
    if subcommand == "predict":
        callbacks.append(PredictionsFile(run.folder))
    if show:
        callbacks.append(RunProgressBar())
    return callbacks


def run_loggers(run: RunConfig, config: dict[str, Any]) -> list[Any]:
    """The run's metrics file, and Weights & Biases where it is asked for."""
    loggers: list[Any] = [MetricsFileLogger(run.folder / METRICS_FILE)]
    if run.wandb != "off":
        from pytorch_lightning.loggers import WandbLogger

        run.folder.mkdir(parents=True, exist_ok=True)
        loggers.append(
            WandbLogger(
                project=run.wandb_project,
                name=run.name,
                group=run.wandb_group or None,
                offline=run.wandb == "offline",
                save_dir=run.folder,
                log_model=False,
                config=config,
            )
        )
    return loggers


def reject_decided_values(arguments: list[str]) -> None:
    """Refuse values for keys that follow another key.

    Raises:
        ValueError: An option or a YAML sets such a key; names the key to set instead.
    """
    for number, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        target = name.removeprefix("--")
        if target in DECIDED_BY:
            decisive = DECIDED_BY[target]
            raise ValueError(f"{name} follows {decisive}: set --{decisive} instead")
        if name in ("-c", "--config"):
            path = Path(value or (arguments[number + 1 :] or [""])[0])
            _reject_decided_values_in(path)


def _reject_decided_values_in(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"--config {path}: no such file")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for target, decisive in DECIDED_BY.items():
        group, key = target.split(".")
        if isinstance(content, dict) and key in (content.get(group) or {}):
            raise ValueError(f"{path}: {target} follows {decisive}: set {decisive} instead")


def run_command(arguments: list[str]) -> PretrainCLI:
    """Parse and run one Lightning subcommand.

    Args:
        arguments: Subcommand and options. They must be those of the process where several ranks
            are started by Lightning, which runs the same command line again.
    """
    reject_decided_values(arguments[1:])
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True, subclasses_enabled=[EncoderConfig]
    )
    try:
        return _start_cli(arguments)
    except MisconfigurationException as error:  # Lightning's name for a mistake in the options
        raise ValueError(str(error)) from error


def _start_cli(arguments: list[str]) -> PretrainCLI:
    return PretrainCLI(
        PretrainModule,
        PretrainDataModule,
        save_config_callback=RunConfigFile,
        save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
        seed_everything_default=42,
        trainer_defaults={
            "use_distributed_sampler": False,  # the samplers of the data module know ranks
            "num_sanity_val_steps": 0,  # it would log a validation of step 0
            "enable_model_summary": False,  # the first line of a run says what matters
        },
        parser_kwargs={"description": "Pretrain a text encoder.", "prog": "ponet-pretrain"},
        args=None if arguments == sys.argv[1:] else arguments,
        auto_configure_optimizers=False,
    )
