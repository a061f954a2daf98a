"""LightningCLI for pretraining: options, which checkpoint a run goes on from, and how it ends.

Invariant: command line and YAML files alone decide a run; a checkpoint never overrides them.
"""

import contextlib
import logging
import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import set_parsing_settings
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ponet import EncoderConfig
from pretrain.callbacks import BundleExport, EvaluationInterval, RunHistory
from pretrain.callbacks.guards import BadState
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.run_setup import (
    automatic_precision,
    checkpoint_to_evaluate,
    evaluation_callbacks,
    fit_callbacks,
    metrics_logger,
    rehearsal_callbacks,
    run_plugins,
    take_over_signals,
    wandb_logger,
)
from pretrain.trainer_options import check_callbacks, check_trainer_options, metric_names, remarks
from training.allowed_modules import (
    modules_from_arguments,
    only_allowed_modules,
    without_modules,
)
from training.callbacks.history import rewind_metrics
from training.checkpoints.resume import chosen_checkpoint
from training.checkpoints.rollback import roll_back, skipped_windows
from training.command_line import listed, reject_decided_values, seed_number
from training.guards import GuardConfig
from training.interruption import RunInterrupted, StopRequest, parse_duration, say
from training.metrics_file import read_metrics, series
from training.parsing import ShortErrors, readable_arguments, use_strict_yaml
from training.run_config import (
    CONFIG_FILE,
    METRICS_FILE,
    RUN_FILES,
    CheckpointConfig,
    PreemptionConfig,
    RunConfig,
)
from training.run_folder import is_first_process, sole_writer
from training.summary import print_summary
from training.wandb_run import OwnTracking, check_tracking

Kind = TypeVar("Kind")

# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.objective": "model.objective",
    "data.seed": "seed_everything",
    "trainer.accumulate_grad_batches": "data.global_batch_size",
    "trainer.val_check_interval": "run.eval_every_n_steps",
    "trainer.check_val_every_n_epoch": "run.eval_every_n_steps",
    "trainer.default_root_dir": "run.root",
    "trainer.max_time": "max_time",
}


class RolledBack(Exception):
    """The run is to be started again from its newest checkpoint."""


class Parser(ShortErrors, LightningArgumentParser):
    """Lightning's parser with short errors."""

    command = "ponet-pretrain"
    decided = tuple(DECIDED_BY)


class RunConfigFile(SaveConfigCallback):
    """Write the resolved configuration of a `fit`; `--config` with that file repeats the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: the run may yet be refused; RunHistory writes it when the run begins."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it."""
        path = Path(self.config.run.root) / self.config.run.name / CONFIG_FILE
        config = self.config.clone()
        for key in (*DECIDED_BY, "ckpt_path", "run.overwrite"):  # the last would delete this run
            config.pop(key, None)
        self.parser.save(config, path, skip_unset=False, overwrite=True, multifile=False)


class PretrainCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` around PretrainModule and PretrainDataModule."""

    run: RunConfig
    resumed_from: Path | None = None
    rehearses = False
    """Whether `trainer.fast_dev_run` is given: a few steps and a validation that leave nothing."""

    def __init__(
        self,
        *args: Any,
        started: float,
        rolled_back: bool,
        held: contextlib.ExitStack,
        **kwargs: Any,
    ) -> None:
        self.started = started
        self.rolled_back = rolled_back
        self.held = held
        super().__init__(*args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser with short errors."""
        parser = Parser(**{**kwargs, "allow_abbrev": False})
        parser.add_argument("-c", "--config", action="config", help="YAML file; may be repeated.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups of a run, and link what two components share."""
        parser.add_argument(
            "--resume",
            type=str,
            default="auto",
            help="Go on from the run folder's newest valid checkpoint (auto), start from the "
            "beginning (never), or go on from the checkpoint of this path.",
        )
        parser.add_argument(
            "--max_time",
            type=str,
            default="",
            help="Wall-clock budget from the start of the command, [DD:]HH:MM:SS or such as 90m; "
            "then the run saves and ends with exit code 75. Empty: none.",
        )
        parser.add_class_arguments(RunConfig, "run")
        parser.add_class_arguments(CheckpointConfig, "checkpoints")
        parser.add_class_arguments(PreemptionConfig, "preemption")
        parser.add_class_arguments(GuardConfig, "guards")
        parser.link_arguments("model.objective", "data.objective")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_number)

    def _parse_ckpt_path(self) -> None:
        """Keep the command line: hyper-parameters stored in a checkpoint are not read."""

    def before_instantiate_classes(self) -> None:
        """Prepare the run's folder, choose the checkpoint, fill in what depends on them."""
        config = self.config[self.subcommand]
        self.run = RunConfig(**vars(config.run))
        self.checkpoints = CheckpointConfig(**vars(config.checkpoints))
        self.preemption = PreemptionConfig(**vars(config.preemption))
        self.guards = GuardConfig(**vars(config.guards))
        if config.run.auto_precision and config.trainer.precision is None:
            config.trainer.precision = automatic_precision()
        config.trainer.default_root_dir = str(self.run.folder)
        if self.subcommand == "fit":
            self._check_trainer(config)
            if self.rehearses:
                return
            if is_first_process():
                check_tracking(self.run)
            self._choose_checkpoint(config)
        elif config.ckpt_path is None:
            config.ckpt_path = str(checkpoint_to_evaluate(self.run))

    def _check_trainer(self, config: Any) -> None:
        if config.ckpt_path is not None:
            raise ValueError("--ckpt_path is for evaluation; a fit goes on with --resume PATH")
        given = vars(config.trainer)
        check_trainer_options(given)
        for line in remarks(given):
            rank_zero_only(say)(line)
        self.rehearses = bool(given["fast_dev_run"])

    def _choose_checkpoint(self, config: Any) -> None:
        self.stop = StopRequest(
            self.preemption.signals,
            budget_s=parse_duration(config.max_time) if config.max_time else None,
            started=self.started,
            again="the same command" + " without --run.overwrite" * self.run.overwrite,
        )
        if is_first_process() and not self.rolled_back:
            self.held.enter_context(sole_writer(self.run.folder, own=RUN_FILES, doing="fit"))
        if self.run.overwrite and self.preemption.requeue:
            raise ValueError(
                "preemption.requeue starts the same command again, and run.overwrite would then "
                "delete what was trained; leave out one of them"
            )
        if self.rolled_back:  # whatever the run started from, it goes on from its own checkpoints
            self.run, config.resume = replace(self.run, overwrite=False), "auto"
        chosen = chosen_checkpoint(self.run, config.resume, warn=rank_zero_only(say))
        self.resumed_from = chosen
        if chosen is not None:
            rank_zero_only(say)(f"going on from {chosen}")
            config.ckpt_path = str(chosen)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        show = config.get("enable_progress_bar") is not False
        fits = self.subcommand == "fit" and not self.rehearses
        if self.rehearses:
            callbacks = [*callbacks, *rehearsal_callbacks(self.run, self.guards, show=show)]
        elif fits:
            options = {"stop": self.stop, "resumed_from": self.resumed_from, "show": show}
            options["tracker"] = self._tracker
            groups = (self.run, self.checkpoints, self.preemption, self.guards)
            callbacks = [*callbacks, *fit_callbacks(*groups, **options)]
        else:
            callbacks = [*callbacks, *evaluation_callbacks(self.run, show=show)]
        config["plugins"] = [*listed(config.get("plugins")), *run_plugins(self.checkpoints)]
        own = [metrics_logger(self.run)] if fits else []
        config["logger"] = [*own, *listed(config.get("logger"))] or False
        if self.subcommand == "fit":
            given = listed(config.get("callbacks"))
            check_callbacks(given, metric_names(self.config[self.subcommand].model.objective))
            # First: callbacks such as EarlyStopping decide in their set-up when they look.
            config["callbacks"] = [EvaluationInterval(self.run.eval_every_n_steps), *given]
        trainer = super()._instantiate_trainer(config, callbacks)
        if fits:
            take_over_signals(trainer)
        return trainer

    def _tracker(self) -> Any:
        continues = self.resumed_from is not None
        return wandb_logger(self.run, self._plain_config(), continues=continues)

    def _plain_config(self) -> dict[str, Any]:
        parser = self._parser(self.subcommand)
        return yaml.safe_load(parser.dump(self.config[self.subcommand], skip_unset=False))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; at a bad step roll back if that is wanted."""
        try:
            super()._run_subcommand(subcommand)
        except RunInterrupted as stopped:
            environment = getattr(self.trainer.strategy, "cluster_environment", None)
            stopped.launched_by_lightning = isinstance(environment, LightningEnvironment)
            if not isinstance(stopped, BadState) or self.guards.action != "rollback":
                raise
            times = roll_back(
                self.run.folder,
                first_step=stopped.first_data_step,
                last_step=stopped.last_data_step,
                first_rank=self.trainer.is_global_zero,
                warn=say,
            )
            if times > self.guards.max_rollbacks:
                raise
            rank_zero_only(say)(f"{stopped.reason}: rolling back ({times})")
            raise RolledBack from stopped

    def before_fit(self) -> None:
        """Give module and data what the command line and the run's folder say."""
        self.model.resolved_config = self._plain_config()
        self.datamodule.skipped_windows = skipped_windows(self.run.folder)

    def after_fit(self) -> None:
        """Finish what a run that was already complete lacks; print its table on the first rank."""
        if self.rehearses:
            rank_zero_only(print)(
                "this was a rehearsal (trainer.fast_dev_run): training and validation work, and "
                "nothing was written; leave the option out to train"
            )
            return
        if not _callback(self.trainer, RunHistory).started:
            self._complete()
        if self.trainer.is_global_zero:
            print_summary([self.run.folder])

    def _complete(self) -> None:
        """Every step was done by an earlier start: make up for a validation and the bundle."""
        step = self.trainer.global_step
        early = self.trainer.should_stop
        rank_zero_only(say)(
            f"{self.run.folder} is complete: {step} steps are done"
            + (", then a callback ended it" if early else "")
            + f". To train longer {'change its options' if early else 'raise --trainer.max_steps'}"
            ", to train anew give another --run.name or --run.overwrite true"
        )
        if self._owes_validation(step):
            if self.trainer.is_global_zero:
                rewind_metrics(self.trainer)
            _callback(self.trainer, RunHistory).track(self.trainer)
            self.trainer.validate(self.model, datamodule=self.datamodule)
        export = _callback(self.trainer, BundleExport)
        if not export.done():
            export.write(self.trainer, self.model)

    def _owes_validation(self, step: int) -> bool:
        metrics = self.run.folder / METRICS_FILE
        if not metrics.exists():
            return False
        return step not in series(read_metrics(metrics), "val/loss")[0]


def _callback(trainer: Trainer, kind: type[Kind]) -> Kind:
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def run_command(
    arguments: list[str],
    *,
    started: float | None = None,
    cli_class: type[PretrainCLI] = PretrainCLI,
) -> PretrainCLI:
    """Parse and run one Lightning subcommand; go on after a guard's rollback.

    Args:
        arguments: Subcommand and options. They must be those of the process where several ranks
            are started by Lightning, which runs the same command line again.
        started: `time.monotonic()` of the start of the command; now, if not given.
        cli_class: What parses the options and does the work.

    Raises:
        ValueError: A mistake in the options.
        RunInterrupted: The run ended early, with the exit code it names.
    """
    started = time.monotonic() if started is None else started
    allowed = modules_from_arguments(arguments)
    arguments = without_modules(readable_arguments(arguments))
    reject_decided_values(arguments[1:], DECIDED_BY)
    _quiet_libraries()
    rolled_back = False
    with contextlib.ExitStack() as held, OwnTracking():
        while True:
            try:
                with only_allowed_modules(allowed):
                    options = {"started": started, "rolled_back": rolled_back, "held": held}
                    return _start_cli(arguments, cli_class, **options)
            except (MisconfigurationException, ModuleNotFoundError) as error:  # Lightning's names
                raise ValueError(str(error)) from error
            except RolledBack:
                rolled_back = True


def _quiet_libraries() -> None:
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _start_cli(arguments: list[str], cli_class: type[PretrainCLI], **options: Any) -> PretrainCLI:
    use_strict_yaml()
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True, subclasses_enabled=[EncoderConfig]
    )
    return cli_class(
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
        **options,
    )
