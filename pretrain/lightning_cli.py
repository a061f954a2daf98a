"""LightningCLI for pretraining: options, which checkpoint a run goes on from, and how it ends.

Invariant: command line and YAML files alone decide a run; a checkpoint never overrides them.
"""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_only

from ponet import EncoderConfig
from pretrain.datamodule import PretrainDataModule
from pretrain.export import BundleExport
from pretrain.module import PretrainModule
from pretrain.run_config import RunConfig
from pretrain.run_setup import (
    automatic_precision,
    checkpoint_to_evaluate,
    evaluation_callbacks,
    fit_callbacks,
    rehearsal_callbacks,
    run_plugins,
)
from pretrain.trainer_options import check_callbacks, check_trainer_options, metric_names, remarks
from training.callbacks.history import RunHistory, rewind_metrics
from training.callbacks.steps import EvaluationInterval
from training.checkpoints.resume import chosen_checkpoint, roll_back, skipped_windows
from training.cli import RunAgain, RunCLI, RunParser, callback_of, run_cli
from training.command_line import listed
from training.guards import BadState, GuardConfig
from training.interruption import StopRequest, parse_duration, say
from training.metrics_file import read_metrics, series
from training.run_config import METRICS_FILE, CheckpointConfig, PreemptionConfig
from training.summary import print_summary

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


class Parser(RunParser):
    """The parser of a pretraining run."""

    command = "ponet-pretrain"
    decided = tuple(DECIDED_BY)


class PretrainCLI(RunCLI):
    """`fit`, `validate`, `test` and `predict` around PretrainModule and PretrainDataModule."""

    run: RunConfig
    module_class = PretrainModule
    data_class = PretrainDataModule
    run_class = RunConfig
    run_parser = Parser
    description = "Pretrain a text encoder."
    decided_by = DECIDED_BY
    config_classes = (EncoderConfig,)
    resumed_from: Path | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups of a run, and link what two components share."""
        super().add_arguments_to_parser(parser)
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
        parser.add_class_arguments(CheckpointConfig, "checkpoints")
        parser.add_class_arguments(PreemptionConfig, "preemption")
        parser.add_class_arguments(GuardConfig, "guards")
        parser.link_arguments("model.objective", "data.objective")

    def before_instantiate_classes(self) -> None:
        """Prepare the run's folder, choose the checkpoint, fill in what depends on them."""
        super().before_instantiate_classes()
        config = self.config[self.subcommand]
        self.checkpoints = CheckpointConfig(**vars(config.checkpoints))
        self.preemption = PreemptionConfig(**vars(config.preemption))
        self.guards = GuardConfig(**vars(config.guards))
        if config.run.auto_precision and config.trainer.precision is None:
            config.trainer.precision = automatic_precision()
        if self.subcommand == "fit":
            self._check_trainer(config)
            if self.writes:
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

    def _choose_checkpoint(self, config: Any) -> None:
        self.stop = StopRequest(
            self.preemption.signals,
            budget_s=parse_duration(config.max_time) if config.max_time else math.inf,
            started=self.started,
            again="the same command" + " without --run.overwrite" * self.run.overwrite,
        )
        self.hold_folder()
        if self.run.overwrite and self.preemption.requeue:
            raise ValueError(
                "preemption.requeue starts the same command again, and run.overwrite would then "
                "delete what was trained; leave out one of them"
            )
        if self.again:  # whatever the run started from, it goes on from its own checkpoints
            self.run, config.resume = replace(self.run, overwrite=False), "auto"
        chosen = chosen_checkpoint(self.run, config.resume, warn=rank_zero_only(say))
        self.resumed_from = chosen
        if chosen is not None:
            rank_zero_only(say)(f"going on from {chosen}")
            config.ckpt_path = str(chosen)

    def own_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """Return those of a fit, a rehearsal or an evaluation; adds plugins, refuses others'."""
        show = config.get("enable_progress_bar") is not False
        config["plugins"] = [*listed(config.get("plugins")), *run_plugins(self.checkpoints)]
        if self.subcommand != "fit":
            return evaluation_callbacks(self.run, show=show)
        given = listed(config.get("callbacks"))
        check_callbacks(given, metric_names(self.config[self.subcommand].model.objective))
        # First: callbacks such as EarlyStopping decide in their set-up when they look.
        config["callbacks"] = [EvaluationInterval(self.run.eval_every_n_steps), *given]
        if self.rehearses:
            return rehearsal_callbacks(self.run, self.guards, show=show)
        return fit_callbacks(
            self.run,
            self.checkpoints,
            self.preemption,
            self.guards,
            stop=self.stop,
            resumed_from=self.resumed_from,
            tracker=partial(self.tracker, continues=self.resumed_from is not None),
            show=show,
        )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; at a bad step roll back if that is wanted."""
        try:
            super()._run_subcommand(subcommand)
        except BadState as stopped:
            if self.guards.action != "rollback":
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
            raise RunAgain from stopped

    def before_fit(self) -> None:
        """Give module and data what the command line and the run's folder say."""
        self.model.resolved_config = self.plain_config()
        self.datamodule.skipped_windows = skipped_windows(self.run.folder)

    def after_fit(self) -> None:
        """Finish what a run that was already complete lacks; print its table on the first rank."""
        if self.rehearses:
            rank_zero_only(print)(
                "this was a rehearsal (trainer.fast_dev_run): training and validation work, and "
                "nothing was written; leave the option out to train"
            )
            return
        if not callback_of(self.trainer, RunHistory).started:
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
            callback_of(self.trainer, RunHistory).track(self.trainer)
            self.trainer.validate(self.model, datamodule=self.datamodule)
        export = callback_of(self.trainer, BundleExport)
        if not export.done():
            export.write(self.trainer, self.model)

    def _owes_validation(self, step: int) -> bool:
        metrics = self.run.folder / METRICS_FILE
        if not metrics.exists():
            return False
        return step not in series(read_metrics(metrics), "val/loss")[0]


def run_command(
    arguments: list[str],
    *,
    started: float | None = None,
    cli_class: type[PretrainCLI] = PretrainCLI,
) -> PretrainCLI:
    """Parse and run one Lightning subcommand; see `training.cli.run_cli`."""
    return run_cli(cli_class, arguments, started=started)
