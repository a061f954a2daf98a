"""LightningCLI for pretraining: options, callbacks, where a run goes on from, and how it ends.

Invariant: command line and YAML files alone decide a run; a checkpoint never overrides them.
"""

import math
import os
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser

from data_prep.command import EXIT_INTERRUPT, counted
from ponet import EncoderConfig
from pretrain.callbacks import (
    EvaluationRecord,
    EvaluationReport,
    TrainingLog,
    dropout_seed,
    step_loss,
)
from pretrain.datamodule import PretrainDataModule
from pretrain.export import BundleExport
from pretrain.loader import fitting_micro_batch
from pretrain.module import PretrainModule
from pretrain.records import NeedlesFile, PredictionsFile, WandbRecords
from pretrain.run_config import (
    RunConfig,
    check_callbacks,
    check_evaluation,
    check_trainer_options,
    metric_names,
    remarks,
)
from pretrain.start import (
    StartValidation,
    begin,
    evaluated_weights,
    given_weights,
    settle_encoder,
)
from pretrain.takeover import GivenWeights
from training.callbacks.history import RunHistory, rewind_metrics
from training.callbacks.steps import EvaluationInterval, RunProgressBar, StepSeeds
from training.callbacks.watchdog import Watchdog
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.resume import chosen_checkpoint, roll_back, skipped_windows
from training.checkpoints.schedule import RunCheckpoints
from training.checkpoints.storage import newest_valid
from training.cli import RunAgain, RunCLI, RunParser, callback_of, run_cli, tell
from training.command_line import listed
from training.guards import BadState, GuardConfig, Guards
from training.interruption import say
from training.metrics_file import read_metrics, series
from training.ranks import SameBeginning
from training.run_config import (
    BUNDLE_FOLDER,
    CHECKPOINT_FOLDER,
    METRICS_FILE,
    CheckpointConfig,
    PreemptionConfig,
)
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
DOES = {
    "fit": "Pretrain an encoder, or go on where the run was stopped.",
    "validate": "Score masked words and pairs on fixed validation examples.",
    "test": "Score masked words and pairs on the whole validation split.",
    "predict": "Write what a model says at every masked position to the folder of --run.name.",
}
EVALUATIONS = ("validate", "test", "predict")
OF_A_RUN = ("max_time", "resume", "checkpoints", "preemption", "guards")
OF_A_FIT = (
    *(*OF_A_RUN, "model.optimizer"),
    *("weights_only", "verbose", "return_predictions"),  # Lightning's, without effect here
)


class Parser(RunParser):
    """The parser of a pretraining run."""

    program, command = "ponet-pretrain", "ponet-pretrain COMMAND"
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
    does = DOES
    unused = {"fit": ("ckpt_path", "weights_only"), **dict.fromkeys(EVALUATIONS, OF_A_FIT)}
    means = {
        "ckpt_path": "What is evaluated: a bundle, a run that has one, or a checkpoint; left out: "
        "the newest valid checkpoint of --run.name."
    }
    noise = (
        ".*is smaller than the logging interval.*",  # of a short epoch; steps are counted
        "Be aware that when using `ckpt_path`",  # an evaluation has no use for a fit's callbacks
    )
    config_classes = (EncoderConfig,)
    resumed_from: Path | None = None
    weights: GivenWeights | None = None
    """What it begins with, where it goes on from no checkpoint."""

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
        if self.subcommand != "fit":
            check_evaluation(str(self.subcommand), vars(config.trainer))
            path = Path(config.ckpt_path or checkpoint_to_evaluate(self.run))
            self.weights = evaluated_weights(path)
            config.ckpt_path = str(path) if self.weights is None else None
            settle_encoder(config, weights=self.weights, checkpoint=path)
            return
        if config.ckpt_path is not None:
            raise ValueError("--ckpt_path is for evaluation; a fit goes on with --resume PATH")
        check_trainer_options(vars(config.trainer))
        for line in remarks(vars(config.trainer)):
            tell(line)
        if self.writes:
            self._choose_checkpoint(config)
        self._settle_start(config)

    def _settle_start(self, config: Any) -> None:
        """Read the weights that a fit begins with, and find out which encoder it trains."""
        if self.resumed_from is None and config.model.start_from:
            keeps = config.model.keep_optimizer
            self.weights = given_weights(config.model.start_from, keep_optimizer=keeps)
        settle_encoder(config, weights=self.weights, checkpoint=self.resumed_from)

    def instantiate_classes(self) -> None:
        """Build everything, and put given weights into the model."""
        super().instantiate_classes()
        if self.weights is not None:
            trains = self.subcommand == "fit"
            begin(self.model, self.weights, self.datamodule.tokenizer_path, trains=trains, say=tell)
            self.weights = None  # as large as the model, with an optimiser three times that

    def _choose_checkpoint(self, config: Any) -> None:
        again = "the same command" + " without --run.overwrite" * self.run.overwrite
        self.stop = self.stop_request(signals=self.preemption.signals, again=again)
        self.hold_folder()
        if self.run.overwrite and self.preemption.requeue:
            raise ValueError(
                "preemption.requeue starts the same command again, and run.overwrite would then "
                "delete what was trained; leave out one of them"
            )
        if self.again:  # from its own checkpoints, or, if it has none yet, from the one it began at
            self.run = replace(self.run, overwrite=False)
            config.resume = "auto" if config.resume == "never" else config.resume
        self.resumed_from = chosen_checkpoint(self.run, config.resume, warn=tell)
        if self.resumed_from is not None:
            tell(f"going on from {self.resumed_from}")
            config.ckpt_path = str(self.resumed_from)

    def own_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """Return those of a fit, a rehearsal or an evaluation; adds plugins, refuses others'."""
        own: list[Any] = [VerifiedCheckpointIO(asynchronous=self.checkpoints.asynchronous)]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            own.append(SLURMEnvironment(auto_requeue=False))  # ours handles the signals
        config["plugins"] = [*listed(config.get("plugins")), *own]
        begun_with = self.weights.checkpoint if self.weights is not None else None
        same = SameBeginning(self.config[self.subcommand].ckpt_path or begun_with)
        callbacks = [same, *self._callbacks(config)]
        show = config.get("enable_progress_bar") is not False
        return [*callbacks, RunProgressBar("pretrain")] if show else callbacks

    def _callbacks(self, config: dict[str, Any]) -> list[Callback]:
        folder = self.run.folder
        if self.subcommand != "fit":
            return [EvaluationRecord(folder), PredictionsFile(folder), NeedlesFile(folder)]
        model = self.config[self.subcommand].model
        given = listed(config.get("callbacks"))
        check_callbacks(given, metric_names(model.objective))
        # First: callbacks such as EarlyStopping decide in their set-up when they look.
        config["callbacks"] = [EvaluationInterval(self.run.eval_every_n_steps), *given]
        loss_of = partial(step_loss, pair_loss_weight=model.pair_loss_weight)
        guard, log = Guards(self.guards, loss_of), TrainingLog(self.run.peak_tflops)
        if self.rehearses:
            return [StepSeeds(dropout_seed), EvaluationReport(folder, draws=False), log, guard]
        return self._fit_callbacks(guard, log)

    def _fit_callbacks(self, guard: Guards, log: TrainingLog) -> list[Callback]:
        """The callbacks of `fit`, in the order in which they are called."""
        folder = self.run.folder
        watchdog = Watchdog(self.guards.watchdog_minutes)
        tracker = partial(self.tracker, continues=self.resumed_from is not None)

        def before_stop(trainer: Trainer, pl_module: LightningModule) -> None:
            is_asked = self.preemption.requeue and self.stop.exit_code != EXIT_INTERRUPT
            if is_asked and trainer.is_global_zero:
                requeue()

        callbacks: list[Callback] = [
            RunHistory(self.run, resumed_from=self.resumed_from, tracker=tracker),
            StepSeeds(dropout_seed),
            watchdog,
            EvaluationReport(folder),
            log,
            guard,
            BundleExport(folder / BUNDLE_FOLDER),
        ]
        if self.run.wandb != "off":  # after what draws the curves and writes the bundle
            callbacks.append(WandbRecords(folder, artifacts=self.run.wandb_artifacts))
        saves = RunCheckpoints(
            folder / CHECKPOINT_FOLDER,
            config=self.checkpoints,
            stop=self.stop,
            poll_every_n_steps=self.preemption.poll_every_n_steps,
            eval_every_n_steps=self.run.eval_every_n_steps,
            before_save=guard.check_before_save,
            before_stop=before_stop,
            around_save=watchdog.saving,
        )
        if self.config[self.subcommand].model.start_from:  # also where it goes on from step 0
            callbacks.append(StartValidation())
        return [*callbacks, saves]

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; at a bad step roll back if that is wanted."""
        try:
            super()._run_subcommand(subcommand)
        except BadState as stopped:
            begun_at = callback_of(self.trainer, RunHistory).begun_at
            if self.guards.action != "rollback" or self.trainer.global_step == begun_at:
                raise
            times = roll_back(
                self.run.folder,
                skipped=self.datamodule.skipped_windows,
                begun_at=begun_at,
                first_step=stopped.first_data_step,
                last_step=stopped.last_data_step,
                first_rank=self.trainer.is_global_zero,
                warn=say,
            )
            if times > self.guards.max_rollbacks:
                raise
            tell(f"{stopped.reason}: rolling back ({times})")
            raise RunAgain from stopped

    def before_fit(self) -> None:
        """Give module and data what the command line and the run's folder say."""
        self.model.resolved_config = self.plain_config()
        if not self.run.overwrite:
            self.datamodule.skipped_windows = skipped_windows(self.run.folder)
        sizes = self.datamodule.global_batch_size, self.datamodule.micro_batch_size
        fitting = fitting_micro_batch(*sizes, self.trainer.world_size)
        if fitting != sizes[1]:
            tell(
                f"data.micro_batch_size {sizes[1]} is {fitting} here: {self.trainer.world_size} "
                f"devices share steps of {sizes[0]} examples"
            )
            self.datamodule.micro_batch_size = fitting

    def finish_fit(self) -> None:
        """Finish what a run that was already complete lacks; print its table on the first rank."""
        if not callback_of(self.trainer, RunHistory).started:
            self._complete()
        if self.trainer.is_global_zero:
            print_summary([self.run.folder])

    def _complete(self) -> None:
        """Every step was done by an earlier start: make up for what it did not come to."""
        step, trainer = self.trainer.global_step, self.trainer
        history, saves = callback_of(trainer, RunHistory), callback_of(trainer, RunCheckpoints)
        limits = {"max_steps": (trainer.max_steps, step)}
        limits["max_epochs"] = (trainer.max_epochs or -1, trainer.current_epoch)
        reached = [name for name, (most, done) in limits.items() if 0 < most <= done]
        early = trainer.should_stop and not reached
        advice = "change its options" if early else f"raise --trainer.{(*reached, 'max_steps')[0]}"
        tell(
            f"{self.run.folder} is complete: {counted(step, 'step(s)')} done"
            + (", then a callback ended it" if early else "")
            + f". To train longer {advice}"
            ", to train anew give another --run.name or --run.overwrite true"
        )
        metrics = self.run.folder / METRICS_FILE
        if metrics.exists() and step not in series(read_metrics(metrics), "val/loss")[0]:
            if trainer.is_global_zero:
                rewind_metrics(trainer)
            history.track(trainer)
            trainer.validate(self.model, datamodule=self.datamodule)
        saves.attempt(trainer, lambda: self._take_late_validation(saves))
        export = callback_of(trainer, BundleExport)
        if not export.done():
            export.write(trainer, self.model)
        if trainer.is_global_zero:
            history.note_late_end(trainer, self.model)

    def _take_late_validation(self, saves: RunCheckpoints) -> None:
        """Let the checkpoints know what the last validation found, whichever start it was of."""
        metrics, step = self.run.folder / METRICS_FILE, self.trainer.global_step
        if self.trainer.is_global_zero and metrics.exists():
            losses = dict(zip(*series(read_metrics(metrics), "val/loss"), strict=True))
            saves.take_late(losses.get(step, math.inf), step)


def checkpoint_to_evaluate(run: RunConfig) -> Path:
    """The run's newest valid checkpoint; an untrained model is never evaluated by mistake."""
    folder = run.folder / CHECKPOINT_FOLDER
    found = newest_valid(folder, warn=say)
    if found is None:
        raise ValueError(
            f"no checkpoint in {folder}: give the run with --run.name, or a file with --ckpt_path"
        )
    return found.path


def requeue() -> None:
    """Put the current job back into SLURM's queue; a failure is said, never raised."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    if job is None:
        say("preemption.requeue is on, but this is no SLURM job (no SLURM_JOB_ID); nothing done")
    elif shutil.which("scontrol") is None:
        say(f"job {job} cannot be requeued from here: scontrol is not on the PATH")
    else:
        command = ["scontrol", "requeue", job]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
            say(f"job {job} goes back into the queue")
        except (subprocess.SubprocessError, OSError) as error:
            detail = getattr(error, "stderr", "") or str(error)
            say(f"job {job} could not be requeued: {detail.strip()}")


run_command = partial(run_cli, PretrainCLI)
"""Parse and run one Lightning subcommand."""
