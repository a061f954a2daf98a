"""LightningCLI for fine-tuning: options, the run's folder, and what is kept of a run.

Invariant: command line and YAML files alone decide a run; the test split is looked at once, after
the best epoch was chosen on validation.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_only

from finetune.artifact import read_info
from finetune.begin import TaskBegin
from finetune.callbacks import BestClassifier, ResumePoint, record_result
from finetune.data.datamodule import TaskDataModule
from finetune.module import FinetuneModule
from finetune.outcome import (
    add_evaluation,
    evaluation_lines,
    fit_lines,
    fit_result,
    trained_constants,
)
from finetune.resume_file import remove_resume_files, resume_file
from finetune.run_config import RESULT_FILE, RunConfig, State, earlier_run
from finetune.run_setup import check_trainer, fit_callbacks, progress_callbacks
from ponet.bundle import load_weights
from training.cli import RunCLI, RunParser, callback_of, run_cli
from training.interruption import EXIT_GUARD, StopRequest, say
from training.result import read_result, write_result
from training.run_config import CONFIG_FILE

# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.encoder": "model.encoder",
    "data.seed": "seed_everything",
    "trainer.accumulate_grad_batches": "data.global_batch_size",
    "trainer.default_root_dir": "run.root",
}
EVALUATIONS = ("validate", "test")


class Parser(RunParser):
    """The parser of a fit on a task."""

    command = "ponet-finetune"
    decided = tuple(DECIDED_BY)


class FinetuneCLI(RunCLI):
    """`fit`, `validate` and `test` around FinetuneModule and TaskDataModule."""

    run: RunConfig
    model: FinetuneModule
    datamodule: TaskDataModule
    module_class = FinetuneModule
    data_class = TaskDataModule
    run_class = RunConfig
    run_parser = Parser
    description = "Fine-tune a text encoder."
    decided_by = DECIDED_BY
    own_defaults = {
        "max_epochs": 4,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 10,
        "enable_checkpointing": False,  # the best classifier is kept instead
    }
    noise = (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*was not expecting any.*batch_size.*",
        "You're resuming from a checkpoint that ended before the epoch",  # the sampler goes on
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.result: dict[str, Any] = {}
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

    @classmethod
    def prepared(cls, arguments: list[str]) -> list[str]:
        """Put the run's own configuration before the options of an evaluation."""
        return with_run_config(arguments) if arguments[0] in EVALUATIONS else arguments

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and link what two components share."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("model.encoder", "data.encoder")

    def before_instantiate_classes(self) -> None:
        """Look at the run's folder, and fill in what depends on it."""
        super().before_instantiate_classes()
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            self._look_at_folder()
        else:
            config.model.encoder = config.data.encoder = str(self.run.classifier)
            config.verbose = False

    def _look_at_folder(self) -> None:
        """Hold the folder, and see what an earlier start left in it; a rehearsal writes nothing."""
        self.run.check_kind()
        self.stop = StopRequest()
        if self.rehearses:
            return
        self.hold_folder()
        self.earlier = earlier_run(self.run, self.plain_config(without=tuple(DECIDED_BY)))
        self.going_on_from = resume_file(self.run.folder) if self.earlier == "unfinished" else None
        if self.earlier == "unfinished" and self.going_on_from is None:
            rank_zero_only(say)(
                f"{self.run.folder} was stopped before its first checkpoint: it starts again"
            )

    def instantiate_classes(self) -> None:
        """Build everything, unless the run is over already."""
        if self.earlier != "finished":
            super().instantiate_classes()

    def own_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """Return those of a fit or an evaluation; a progress bar only where there is a terminal."""
        show = config.get("enable_progress_bar") is not False
        config["enable_progress_bar"] = show and sys.stderr.isatty()
        bars = progress_callbacks(show, fits=self.subcommand == "fit")
        if self.subcommand != "fit":
            return bars
        seed = self.config[self.subcommand].seed_everything
        every = config.get("log_every_n_steps") or 10
        own = fit_callbacks(self.run, seed=seed, log_every_n_steps=every)
        return [*own, *(self._writers() if self.writes else []), *bars]

    def _writers(self) -> list[Callback]:
        """Return the callbacks that write the run's folder."""
        resumes = self.going_on_from is not None
        tracker = partial(self.tracker, continues=resumes)
        point = ResumePoint(
            self.run.folder,
            every_n_minutes=self.run.save_every_n_minutes,
            stop=self.stop,
            started=self.started,
        )
        best = BestClassifier(self.run.classifier)
        return [TaskBegin(self.run, resumes=resumes, tracker=tracker), best, point]

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        trainer = super()._instantiate_trainer(config, callbacks)
        trainer.accumulate_grad_batches = self.datamodule.accumulation(trainer.world_size)
        return trainer

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
        super()._run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        options = super()._prepare_subcommand_kwargs(subcommand)
        if self.going_on_from is not None:
            options |= {"ckpt_path": str(self.going_on_from), "weights_only": True}
        return options

    def before_fit(self) -> None:
        """Refuse what cannot give a result."""
        check_trainer(self.trainer)

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
        if self.rehearses:
            print("a rehearsal: training and validation work; nothing was written")
            return
        best = callback_of(self.trainer, BestClassifier)
        point = callback_of(self.trainer, ResumePoint)
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
    """Parse and run `fit`, `validate` or `test`; see `training.cli.run_cli`.

    Returns:
        The finished run; `result` is what stands in result.json, `diverged` why a run was stopped.
    """
    return run_cli(FinetuneCLI, arguments, started=started)


def run_and_judge(arguments: list[str], *, started: float) -> int:
    """Run a command; returns the exit code, which says whether training has diverged."""
    cli = run_command(arguments, started=started)
    if not cli.diverged or os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    print(
        f"error: training has diverged: {cli.diverged}; give a smaller --model.optimizer.lr, some "
        "--model.optimizer.warmup_share, or another --seed_everything",
        file=sys.stderr,
    )
    return EXIT_GUARD
