"""LightningCLI for fine-tuning: options, the run's folder, callbacks, and what is kept of a run.

Invariant: command line and YAML files alone decide a run; the test split is looked at once, after
the best epoch was chosen on validation.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser

from finetune.artifact import read_info
from finetune.data.datamodule import TaskDataModule
from finetune.data.overview import overview_lines
from finetune.module import FinetuneModule, log_prefix
from finetune.outcome import (
    add_evaluation,
    evaluation_lines,
    fit_lines,
    fit_result,
    trained_constants,
)
from finetune.run_config import (
    RESUME_FOLDER,
    RunConfig,
    State,
    check_cut,
    check_is_fit,
    check_kind,
    check_trainer,
    earlier_run,
)
from ponet.bundle import load_weights
from ponet.weight_files import restore_folder
from training.callbacks.history import RunBegin, rewind_metrics
from training.callbacks.steps import RunProgressBar, StepSeeds
from training.checkpoints.io import VerifiedCheckpointIO
from training.checkpoints.storage import newest_valid
from training.cli import RunCLI, RunParser, callback_of, run_cli, tell
from training.command_line import check_monitors, listed, option_value
from training.configuration import write_inputs
from training.interruption import EXIT_GUARD, say
from training.ranks import SameBeginning, check_whole
from training.result import read_result, write_result
from training.run_config import CLASSIFIER_FOLDER, CONFIG_FILE, RESULT_FILE

if TYPE_CHECKING:
    from finetune.callbacks import BestClassifier

# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.encoder": "model.encoder",
    "data.seed": "seed_everything",
    "data.tokenizer": "model.tokenizer",
    "trainer.accumulate_grad_batches": "data.global_batch_size",
    "trainer.default_root_dir": "run.root",
    "trainer.max_time": "max_time",
}
EVALUATIONS = ("validate", "test")


class Parser(RunParser):
    """The parser of a fit on a task."""

    program, command = "ponet-finetune", "ponet-finetune COMMAND"
    decided = tuple(DECIDED_BY)


class TaskBegin(RunBegin):
    """Keep the configuration and the digests of what is read; print what is known of the data."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse callbacks that wait for a metric which there is not; then begin."""
        assert isinstance(pl_module, FinetuneModule)
        data = pl_module.datamodule
        names = [
            f"{log_prefix(split)}/{name}"
            for split in data.loaded.validation_splits
            for name in (*data.inspection["majority"][split], "loss")
            if name != "num_rows"
        ]
        check_monitors(trainer.callbacks, list(dict.fromkeys(names)))  # type: ignore[attr-defined]
        super().on_train_start(trainer, pl_module)

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both, or go on where the run was stopped."""
        assert isinstance(pl_module, FinetuneModule)
        folder, data = self.run.folder, pl_module.datamodule
        if self.resumes:
            say(f"going on after step {trainer.global_step} of {folder}")
            restore_folder(folder / CLASSIFIER_FOLDER)
        else:
            self.write_config(trainer, pl_module)
            assert pl_module.source is not None
            paths = {f"the encoder's {file.name}": file for file in pl_module.source.files}
            for name, split in data.loaded.splits.items():
                files = split.files or (Path(split.source),)
                for number, file in enumerate(files, 1):
                    paths[f"the {name} file" + f" {number}" * (len(files) > 1)] = file
            write_inputs(folder, paths)
        rewind_metrics(trainer)
        print("\n".join(overview_lines(data.inspection)))


def fit_callbacks(run: RunConfig, *, log_every_n_steps: int) -> list[Callback]:
    """Return the callbacks of `fit` that write no file, in the order in which they are called."""
    from finetune.callbacks import TrainingLog, WandbLineage, dropout_seed

    callbacks: list[Callback] = [StepSeeds(dropout_seed), TrainingLog(log_every_n_steps)]
    return callbacks if run.wandb == "off" else [*callbacks, WandbLineage()]


class FinetuneCLI(RunCLI):
    """`fit`, `validate` and `test` around FinetuneModule and TaskDataModule."""

    run: RunConfig
    model: FinetuneModule
    datamodule: TaskDataModule
    module_class = FinetuneModule
    data_class = TaskDataModule
    run_class = RunConfig
    run_parser = Parser
    begin_class: ClassVar[type[RunBegin]] = TaskBegin
    """What begins a run in its folder."""
    description = "Fine-tune a text encoder."
    decided_by = DECIDED_BY
    does = {
        "fit": "Train on a task, keep the best epoch, and score the test split once.",
        "validate": "Score a run's classifier on its validation rows.",
        "test": "Score a run's classifier on its test rows, where their labels are public.",
    }
    unused = dict.fromkeys(EVALUATIONS, ("max_time", "model.optimizer", "verbose"))
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
        ".*in eval mode at the start of training.*",  # what model.freeze has frozen
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
        fit = {*skipped, "train_dataloaders", "val_dataloaders"}
        return {"fit": fit, **dict.fromkeys(EVALUATIONS, skipped)}

    @classmethod
    def prepared(cls, arguments: list[str]) -> list[str]:
        """Put the run's own configuration before the options of an evaluation."""
        return with_run_config(arguments) if arguments[0] in EVALUATIONS else arguments

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and link what two components share."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("model.encoder", "data.encoder")
        parser.link_arguments("model.tokenizer", "data.tokenizer")

    def before_instantiate_classes(self) -> None:
        """Hold the run's folder, and see what an earlier start left in it."""
        super().before_instantiate_classes()
        if self.subcommand != "fit":
            config = self.config[self.subcommand]
            check_cut(self.run.folder, config.data)
            config.model.encoder = config.data.encoder = str(self.run.evaluated)
            config.model.tokenizer = config.data.tokenizer = ""
            config.verbose = False
            return
        if self.run.scored:
            raise ValueError("run.scored is for validate and test; leave it out of a fit")
        check_kind(self.run.folder)
        self.stop = self.stop_request()
        if self.rehearses:
            return
        self.hold_folder()
        settings = self.plain_config(without=tuple(self.decided_by))
        self.earlier = earlier_run(self.run, settings, defaults=self.default_config)
        if self.earlier != "unfinished":
            return
        found = newest_valid(self.run.folder / RESUME_FOLDER, warn=tell)
        self.going_on_from = found.path if found else None
        if found is None:
            tell(f"{self.run.folder} was stopped before its first checkpoint: it starts again")

    def instantiate_classes(self) -> None:
        """Build everything, unless the run is over already."""
        if self.earlier != "finished":
            super().instantiate_classes()

    def own_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """Return those of a fit or an evaluation; a progress bar only where there is a terminal."""
        show = config.get("enable_progress_bar") is not False
        if self.subcommand != "fit":
            config["enable_progress_bar"] = show and sys.stderr.isatty()
            return []
        config["plugins"] = [*listed(config.get("plugins")), VerifiedCheckpointIO()]
        own = fit_callbacks(self.run, log_every_n_steps=config.get("log_every_n_steps") or 10)
        bars = [RunProgressBar("finetune")] if show else []
        return [*own, *(self._writers() if self.writes else []), *bars]

    def _writers(self) -> list[Callback]:
        """Return the callbacks that write the run's folder."""
        from finetune.callbacks import ResumePoint

        resumes = self.going_on_from is not None
        tracker = partial(self.tracker, continues=resumes)
        point = ResumePoint(
            self.run.folder / RESUME_FOLDER,
            every_n_minutes=self.run.save_every_n_minutes,
            stop=self.stop,
            started=self.started,
        )
        best = self.best_class()(self.run.classifier)
        begin = self.begin_class(self.run, resumes=resumes, tracker=tracker)
        return [begin, SameBeginning(self.going_on_from), best, point]

    @staticmethod
    def best_class() -> "type[BestClassifier]":
        """Return what keeps the best classifier."""
        from finetune.callbacks import BestClassifier

        return BestClassifier

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        trainer = super()._instantiate_trainer(config, callbacks)
        check_whole(trainer.strategy)
        trainer.accumulate_grad_batches = self.datamodule.accumulation(trainer.world_size)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a fit that is over already is shown once more."""
        if self.earlier != "finished":
            super()._run_subcommand(subcommand)
            return

        self.result = read_result(self.run.folder / RESULT_FILE)
        print("\n".join(fit_lines(self.result, self.run.folder)))
        say(
            f"{self.run.folder} is complete: nothing was trained. To train anew give another "
            "--run.name, or --run.overwrite true"
        )

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
        info = read_info(self.run.evaluated)
        self.model.trained = self.run.evaluated
        self.datamodule.follow_classifier(
            info.labels, info.tags, info.segments, language=info.language
        )

    before_test = before_validate

    def finish_fit(self) -> None:
        """Validate what was trained last; test the best classifier once; write what was found."""
        from finetune.callbacks import BestClassifier, ResumePoint, record_result

        best = callback_of(self.trainer, BestClassifier)
        if best.validated_step < self.trainer.global_step and not self.model.diverged:
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        self.model.evaluation = {}
        if self.run.test and self.has_test_rows() and best.epoch:
            self.load_best()
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        seed = self.config[self.subcommand].seed_everything
        elapsed_s = callback_of(self.trainer, ResumePoint).elapsed_s
        self.result = self.found(best, seed=seed, elapsed_s=elapsed_s)
        if self.trainer.is_global_zero:
            write_result(self.run.folder / RESULT_FILE, self.result)
            record_result(self.trainer, self.run, self.result)
            shutil.rmtree(self.run.folder / RESUME_FOLDER, ignore_errors=True)
            print("\n".join(fit_lines(self.result, self.run.folder)))

    def has_test_rows(self) -> bool:
        """Whether there is a test split with labels."""
        return bool(self.datamodule.loaded.test_splits)

    def load_best(self) -> None:
        """Take the weights of the best classifier."""
        load_weights(self.model.classifier, self.run.classifier)
        self.model.thresholds = read_info(self.run.classifier).thresholds

    def found(self, best: "BestClassifier", *, seed: int, elapsed_s: float) -> dict[str, Any]:
        """Return the content of result.json, see `fit_result`."""
        return fit_result(self.trainer, self.model, best, seed=seed, elapsed_s=elapsed_s)

    def after_validate(self) -> None:
        """Print the scores."""
        if self.trainer.is_global_zero:
            constants = trained_constants(self.run.folder / RESULT_FILE, self.datamodule.loaded)
            spec = self.model.spec
            lines = evaluation_lines(
                spec.title,
                self.model.evaluation,
                constants,
                classes=spec.classes,
                f1_label=spec.f1_label,
            )
            path = add_evaluation(self.run.folder, self.model, str(self.subcommand))
            print("\n".join([*lines, f"written: {path}"]))

    after_test = after_validate


def with_run_config(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of an evaluation behind the configuration of the run they name."""
    command, *options = arguments
    if {"-h", "--help"} & set(options):
        return list(arguments)
    name, root = option_value(options, "--run.name"), option_value(options, "--run.root")
    if not name:
        raise ValueError(f"{command} needs --run.name, the run whose classifier is scored")
    path = RunConfig(name=name, root=root or RunConfig.root).folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give a finished run with --run.name and --run.root"
        )
    check_is_fit(path.parent)
    return [command, "--config", str(path), *options]


run_command = partial(run_cli, FinetuneCLI)
"""Parse and run one Lightning subcommand; `result` is what stands in result.json."""


def run_and_judge(arguments: list[str], *, started: float) -> int:
    """Run a command; returns the exit code."""
    return judged(run_command(arguments, started=started))


def judged(cli: FinetuneCLI) -> int:
    """Return the exit code, which says whether training has diverged."""
    if not cli.diverged or os.environ.get("LOCAL_RANK", "0") != "0":
        return 0
    print(
        f"error: training has diverged: {cli.diverged}; give a smaller --model.optimizer.lr, some "
        "--model.optimizer.warmup_share, or another --seed_everything",
        file=sys.stderr,
    )
    return EXIT_GUARD
