"""LightningCLI for fine-tuning: options, the run's folder, and what is kept of a run.

Invariant: command line and YAML files alone decide a run; the test split is looked at once, after
the best epoch was chosen on validation.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only

from finetune.artifact import load_weights, read_info
from finetune.begin import RunFolder
from finetune.callbacks import BestClassifier, ResumePoint, record_result
from finetune.data.datamodule import TaskDataModule
from finetune.earlier import State, earlier_run
from finetune.metrics_file import MetricsFileLogger
from finetune.module import FinetuneModule
from finetune.outcome import (
    add_evaluation,
    evaluation_lines,
    fit_lines,
    fit_result,
    trained_constants,
)
from finetune.resume_file import remove_resume_files, resume_file
from finetune.run_config import (
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    RUN_FILES,
    RunConfig,
)
from finetune.run_setup import (
    check_trainer,
    fit_callbacks,
    leave_signals_alone,
    progress_callbacks,
    quiet_libraries,
    wandb_logger,
)
from training.allowed_modules import (
    modules_from_arguments,
    only_allowed_modules,
    without_modules,
)
from training.command_line import listed, reject_decided_values, seed_number
from training.interruption import RunInterrupted, StopRequest, say
from training.parsing import ShortErrors, readable_arguments, use_strict_yaml
from training.result import read_result, write_result
from training.run_folder import is_first_process, sole_writer
from training.wandb_run import OwnTracking, check_tracking

# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.encoder": "model.encoder",
    "data.seed": "seed_everything",
    "trainer.accumulate_grad_batches": "data.global_batch_size",
    "trainer.default_root_dir": "run.root",
}
EVALUATIONS = ("validate", "test")


class Parser(ShortErrors, LightningArgumentParser):
    """Lightning's parser with short errors."""

    command = "ponet-finetune"
    decided = tuple(DECIDED_BY)


class FinetuneCLI(LightningCLI):
    """`fit`, `validate` and `test` around FinetuneModule and TaskDataModule."""

    run: RunConfig
    model: FinetuneModule
    datamodule: TaskDataModule
    result: dict[str, Any]

    def __init__(self, *args: Any, started: float, held: ExitStack, **kwargs: Any) -> None:
        self.started = started
        self.held = held
        self.result = {}
        self.earlier: State = "nothing"
        self.going_on_from: Path | None = None
        super().__init__(*args, **kwargs)

    @property
    def diverged(self) -> str:
        """Why the run was stopped early; empty: it was not."""
        return str(self.result.get("reason", ""))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Lightning commands; `predict` reads files and is a command of its own."""
        skipped = {"model", "dataloaders", "datamodule", "ckpt_path", "weights_only"}
        return {
            "fit": {*skipped, "train_dataloaders", "val_dataloaders"},
            "validate": skipped,
            "test": skipped,
        }

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser with short errors."""
        parser = Parser(**{**kwargs, "allow_abbrev": False})
        parser.add_argument("-c", "--config", action="config", help="YAML file; may be repeated.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and link what two components share."""
        parser.add_class_arguments(RunConfig, "run")
        parser.link_arguments("model.encoder", "data.encoder")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_number)

    def _parse_ckpt_path(self) -> None:
        """Keep the command line: nothing is read from a checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Look at the run's folder, and fill in what depends on it."""
        config = self.config[self.subcommand]
        self.run = RunConfig(**vars(config.run))
        config.trainer.default_root_dir = str(self.run.folder)
        if self.subcommand == "fit":
            self._look_at_folder(bool(config.trainer.fast_dev_run))
        else:
            config.model.encoder = config.data.encoder = str(self.run.classifier)
            config.verbose = False

    def _look_at_folder(self, is_rehearsal: bool) -> None:
        """Hold the folder, and see what an earlier start left in it; a rehearsal writes nothing."""
        self.run.check_kind()
        self.stop = StopRequest()
        if is_rehearsal:
            return
        if is_first_process():
            check_tracking(self.run)
            self.held.enter_context(sole_writer(self.run.folder, own=RUN_FILES, doing="fit"))
        kept = self._plain_config(without=tuple(DECIDED_BY))
        self.earlier = earlier_run(self.run, kept)
        self.going_on_from = resume_file(self.run.folder) if self.earlier == "unfinished" else None
        if self.earlier == "unfinished" and self.going_on_from is None:
            rank_zero_only(say)(
                f"{self.run.folder} was stopped before its first checkpoint: it starts again"
            )

    def instantiate_classes(self) -> None:
        """Build everything, unless the run is over already."""
        if self.earlier != "finished":
            super().instantiate_classes()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        show = config.get("enable_progress_bar") is not False
        given = listed(config.get("logger"))
        if self.subcommand == "fit":
            seed = self.config[self.subcommand].seed_everything
            every = config.get("log_every_n_steps") or 10
            own = fit_callbacks(self.run, seed=seed, log_every_n_steps=every)
            best = BestClassifier(self.run.classifier)
            point = ResumePoint(
                self.run.folder,
                every_n_minutes=self.run.save_every_n_minutes,
                stop=self.stop,
                started=self.started,
            )
            callbacks = [*callbacks, *own, *([] if config.get("fast_dev_run") else [best, point])]
            config["logger"] = [MetricsFileLogger(self.run.folder / METRICS_FILE), *given]
        else:
            config["logger"] = given or False
        config["enable_progress_bar"] = show and sys.stderr.isatty()
        callbacks = [*callbacks, *progress_callbacks(show, fits=self.subcommand == "fit")]
        trainer = super()._instantiate_trainer(config, callbacks)
        if self.subcommand == "fit":
            leave_signals_alone(trainer)
        trainer.accumulate_grad_batches = self.datamodule.accumulation(trainer.world_size)
        return trainer

    def _plain_config(self, *, without: Sequence[str] = ()) -> dict[str, Any]:
        config = self.config[self.subcommand].clone()
        for key in without:
            config.pop(key, None)
        text = self._parser(self.subcommand).dump(config, skip_unset=False)
        return dict(yaml.safe_load(text))

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a fit that is over already is shown once more."""
        if self.earlier == "finished":
            self.result = read_result(self.run.folder / RESULT_FILE)
            print("\n".join(fit_lines(self.result, self.run.folder)))
            say(
                f"{self.run.folder} is complete: nothing was trained. To train anew give another "
                "--run.name, or --run.overwrite true"
            )
            return
        try:
            super()._run_subcommand(subcommand)
        except RunInterrupted as stopped:
            environment = getattr(self.trainer.strategy, "cluster_environment", None)
            stopped.launched_by_lightning = isinstance(environment, LightningEnvironment)
            raise

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        options = super()._prepare_subcommand_kwargs(subcommand)
        if self.going_on_from is not None:
            options |= {"ckpt_path": str(self.going_on_from), "weights_only": True}
        return options

    def before_fit(self) -> None:
        """Refuse what cannot give a result, and tell the folder's callback how the run begins."""
        check_trainer(self.trainer)
        callbacks = _callbacks(self.trainer)
        for begin in (c for c in callbacks if isinstance(c, RunFolder)):
            begin.decided, begin.resumes = tuple(DECIDED_BY), self.going_on_from is not None
            begin.tracker = partial(
                wandb_logger, self.run, self._plain_config(), continues=begin.resumes
            )
        callbacks.sort(key=lambda callback: not isinstance(callback, RunFolder))

    def before_validate(self) -> None:
        """Take the trained classifier instead of the encoder it started from."""
        self._follow_classifier()

    def before_test(self) -> None:
        """Take the trained classifier instead of the encoder it started from."""
        self._follow_classifier()

    def _follow_classifier(self) -> None:
        info = read_info(self.run.classifier)
        self.model.trained = self.run.classifier
        self.datamodule.follow_classifier(info.labels, info.segments)

    def after_fit(self) -> None:
        """Validate what was trained last; test the best classifier once; write what was found."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("a rehearsal: training and validation work; nothing was written")
            return
        callbacks = _callbacks(self.trainer)
        best = next(c for c in callbacks if isinstance(c, BestClassifier))
        point = next(c for c in callbacks if isinstance(c, ResumePoint))
        if best.validated_step < self.trainer.global_step and not self.model.diverged:
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        self.model.evaluation = {}
        if self.run.test and self.datamodule.task.test_splits and best.epoch:
            load_weights(self.model.classifier, self.run.classifier)
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        self.result = fit_result(
            self.trainer,
            self.model,
            best,
            seed=self.config[self.subcommand].seed_everything,
            elapsed_s=point.elapsed_s,
        )
        if self.trainer.is_global_zero:
            write_result(self.run.folder / RESULT_FILE, self.result)
            record_result(self.trainer, self.run, self.result)
            remove_resume_files(self.run.folder)
            print("\n".join(fit_lines(self.result, self.run.folder)))

    def after_validate(self) -> None:
        """Print the scores."""
        self._print_evaluation()

    def after_test(self) -> None:
        """Print the scores."""
        self._print_evaluation()

    def _print_evaluation(self) -> None:
        if self.trainer.is_global_zero:
            constants = trained_constants(self.run.folder / RESULT_FILE, self.datamodule.task)
            lines = evaluation_lines(self.model.spec, self.model.evaluation, constants)
            path = add_evaluation(self.run.folder, self.model, str(self.subcommand))
            print("\n".join([*lines, f"written: {path}"]))


def _callbacks(trainer: Trainer) -> list[Callback]:
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def with_run_config(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `validate` or `test` behind the configuration of the run they name.

    Raises:
        ValueError: No run is named, or it has no configuration.
    """
    command, *options = arguments
    if {"-h", "--help"} & set(options):
        return list(arguments)
    name, root = _value(options, "--run.name"), _value(options, "--run.root")
    if not name:
        raise ValueError(f"{command} needs --run.name, the run whose classifier is scored")
    path = RunConfig(name=name, root=root or RunConfig.root).folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give a finished run with --run.name and --run.root"
        )
    return [command, "--config", str(path), *options]


def _value(options: Sequence[str], name: str) -> str:
    found = ""
    for number, option in enumerate(options):
        key, _, value = option.partition("=")
        if key == name:
            found = value or [*options[number + 1 :], ""][0]
    return found


def run_command(arguments: list[str], *, started: float | None = None) -> FinetuneCLI:
    """Parse and run `fit`, `validate` or `test`; may be called again and again in one process.

    Args:
        arguments: Command and options. They must be those of the process where several ranks are
            started by Lightning, which runs the same command line again.
        started: `time.monotonic()` of the start of the command; now, if not given.

    Returns:
        The finished run; `result` is what stands in result.json, `diverged` why a run was stopped.

    Raises:
        ValueError: A mistake in the options or the data.
    """
    started = time.monotonic() if started is None else started
    allowed = modules_from_arguments(arguments)
    arguments = without_modules(readable_arguments(arguments))
    if arguments[0] in EVALUATIONS:
        arguments = with_run_config(arguments)
    reject_decided_values(arguments[1:], DECIDED_BY)
    quiet_libraries()
    try:
        with only_allowed_modules(allowed), OwnTracking(), ExitStack() as held:
            return _start_cli(arguments, started=started, held=held)
    except (MisconfigurationException, ModuleNotFoundError) as error:  # Lightning's names
        raise ValueError(str(error)) from error
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning's answer to a Ctrl-C
            raise KeyboardInterrupt from ended
        raise


def _start_cli(arguments: list[str], *, started: float, held: ExitStack) -> FinetuneCLI:
    use_strict_yaml()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return FinetuneCLI(
        FinetuneModule,
        TaskDataModule,
        save_config_callback=RunFolder,
        save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
        seed_everything_default=42,
        trainer_defaults={
            "max_epochs": 4,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 10,
            "use_distributed_sampler": False,  # the samplers of the data module know ranks
            "num_sanity_val_steps": 0,  # it would log a validation of step 0
            "enable_checkpointing": False,  # the best classifier is kept instead
            "enable_model_summary": False,
        },
        parser_kwargs={"description": "Fine-tune a text encoder.", "prog": "ponet-finetune"},
        args=None if arguments == sys.argv[1:] else arguments,
        auto_configure_optimizers=False,
        started=started,
        held=held,
    )
