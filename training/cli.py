"""RunCLI: what every run's command line is on top of LightningCLI.

Invariant: command line and YAML files alone decide a run; a checkpoint never overrides them.
"""

import contextlib
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from jsonargparse import set_parsing_settings
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from data_prep.command import read_yaml
from data_prep.files import write_atomic
from training.callbacks.history import RunBegin
from training.command_line import listed, reject_decided_values, seed_number
from training.interruption import RunInterrupted, StopRequest, parse_duration, say
from training.metrics_file import append_metrics, read_metrics
from training.parsing import (
    OwnHelp,
    ShortErrors,
    only_allowed_modules,
    readable_arguments,
    use_strict_yaml,
    with_allowed_modules,
)
from training.ranks import check_launcher
from training.run_config import CONFIG_FILE, METRICS_FILE, RunConfig
from training.run_folder import is_first_process, sole_writer
from training.tracking import check_tracking, own_tracking, wandb_logger
from training.utilisation import automatic_precision, use_tensor_cores

Kind = TypeVar("Kind")
CLI = TypeVar("CLI", bound="RunCLI")
tell = rank_zero_only(say)
"""One line on stderr, on the first rank."""


class MetricsFileLogger(Logger):
    """Lightning logger that appends `{"step", "elapsed_s", metric: value, ...}` lines.

    Args:
        path: File to append to; its folder is created at the first line.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._started = time.monotonic()

    @property
    def name(self) -> str:
        """Always `metrics`."""
        return "metrics"

    @property
    def version(self) -> str:
        """Unused by this logger."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config is a file of its own beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line. NaN and infinities are kept, in Python's JSON spelling."""
        elapsed_s = time.monotonic() - self._started
        append_metrics(self.path, metrics, step=step, elapsed_s=elapsed_s)

    def rewind(self, step: int, *, validated: bool = True) -> int:
        """Cut off what was logged after a step (at 0: everything) and go on in time from there.

        Args:
            step: The optimiser step the run goes on from.
            validated: Whether a validation of that step stays.

        Returns:
            The number of lines cut off, a broken last one included.
        """
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        pairs = [
            (line, row)
            for line, row in zip(lines, read_metrics(self.path), strict=False)
            if line.endswith(b"\n") and 0 < step >= (row["step"] or 0)
        ]
        if not validated:
            pairs = [p for p in pairs if "val/loss" not in p[1] or p[1]["step"] != step]
        if len(pairs) < len(lines):
            write_atomic(self.path, b"".join(line for line, _ in pairs))
        spent = max((row["elapsed_s"] for _, row in pairs), default=0.0)
        self._started = time.monotonic() - spent
        return len(lines) - len(pairs)


class RunAgain(Exception):
    """The run is to be started again from its newest checkpoint, by the same command."""


class RunParser(ShortErrors, LightningArgumentParser):
    """Lightning's parser with short errors."""

    program = ""


class RunConfigFile(SaveConfigCallback):
    """Write the resolved configuration of a `fit`; `--config` with that file repeats the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: the run may yet be refused; `RunBegin` writes it."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it."""
        assert isinstance(self.parser, RunParser)
        path = Path(self.config.run.root) / self.config.run.name / CONFIG_FILE
        config = self.config.clone()
        for key in (*self.parser.decided, "ckpt_path", "run.overwrite"):
            config.pop(key, None)  # the last would delete this run
        self.parser.save(config, path, skip_unset=False, overwrite=True, multifile=False)


class RunCLI(OwnHelp, LightningCLI):
    """The subcommands of a run around one module and one data module.

    Args:
        command: The subcommand.
        started: `time.monotonic()` of the start of the command.
        again: Whether the command starts the run once more, after `RunAgain`.
        held: What is held until the command ends.
    """

    run: RunConfig
    module_class: ClassVar[type[LightningModule]]
    data_class: ClassVar[type[LightningDataModule]]
    run_class: ClassVar[type[RunConfig]]
    run_parser: ClassVar[type[RunParser]]
    description: ClassVar[str]
    decided_by: ClassVar[Mapping[str, str]]
    """What decides a key; a value given to one of them would be ignored without a word."""
    own_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the trainer, beside those of every run."""
    config_classes: ClassVar[Sequence[type]] = ()
    """Dataclasses that an option may name a subclass of."""
    noise: ClassVar[Sequence[str]] = ()
    """Warnings that concern nobody, beside those of every run."""

    def __init__(
        self,
        *args: Any,
        command: str,
        started: float,
        again: bool,
        held: contextlib.ExitStack,
        **kwargs: Any,
    ) -> None:
        self.started = started
        self.again = again
        self.held = held
        self.rehearses = False
        known = self.subcommands()
        if command in known:  # a parser takes a quarter of a second, and the others are not used
            self.subcommands = lambda: {command: known[command]}  # type: ignore[method-assign]
        super().__init__(*args, **kwargs)

    @classmethod
    def start(cls: type[CLI], arguments: list[str], **options: Any) -> CLI:
        """Parse a command line and do what it says; the options are those of the class."""
        use_strict_yaml()
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        if cls.config_classes:
            set_parsing_settings(subclasses_enabled=list(cls.config_classes))
        return cls(
            cls.module_class,
            cls.data_class,
            save_config_callback=RunConfigFile,
            save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
            seed_everything_default=42,
            trainer_defaults={
                "use_distributed_sampler": False,  # the samplers of the data module know ranks
                "num_sanity_val_steps": 0,  # it would log a validation of step 0
                "enable_model_summary": False,  # the first line of a run says what matters
                **cls.own_defaults,
            },
            parser_kwargs={"description": cls.description, "prog": cls.run_parser.program},
            args=None if arguments == sys.argv[1:] else arguments,
            auto_configure_optimizers=False,
            command=arguments[0],
            **options,
        )

    @classmethod
    def prepared(cls, arguments: list[str]) -> list[str]:
        """Return the command line as the parser gets it."""
        return arguments

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser with short errors."""
        parser = self.run_parser(**{**kwargs, "allow_abbrev": False})
        parser.add_argument("-c", "--config", action="config", help="YAML file; may be repeated.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run, and link the seed."""
        parser.add_class_arguments(self.run_class, "run")
        parser.add_argument(
            "--max_time",
            type=str,
            default="",
            help="Wall-clock budget from the start of the command, [DD:]HH:MM:SS or such as 90m; "
            "then the run saves and ends with exit code 75. Empty: none.",
        )
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_number)

    def _parse_ckpt_path(self) -> None:
        """Keep the command line: hyper-parameters stored in a checkpoint are not read."""

    def before_instantiate_classes(self) -> None:
        """Take the run's options; a rehearsal is a fit that leaves nothing."""
        config = self.config[self.subcommand]
        self.run = self.run_class(**vars(config.run))
        self.settle_precision(config.trainer)
        config.trainer.default_root_dir = str(self.run.folder)
        self.rehearses = self.subcommand == "fit" and bool(config.trainer.fast_dev_run)

    def settle_precision(self, trainer: Any) -> None:
        """Choose the trainer's precision, where that is asked for and none is given."""
        if self.run.auto_precision and trainer.precision is None:
            recorded, device = self.recorded_precision(), str(trainer.accelerator)
            trainer.precision = recorded or automatic_precision(device)

    def recorded_precision(self) -> str | None:
        """Return the precision of the run that is in the folder; None: none is, or it is unset."""
        path = self.run.folder / CONFIG_FILE
        if self.run.overwrite or not path.is_file():
            return None
        trainer = (read_yaml(path) or {}).get("trainer") or {}
        return str(trainer["precision"]) if trainer.get("precision") else None

    @property
    def writes(self) -> bool:
        """Whether this is a fit that writes its folder."""
        return self.subcommand == "fit" and not self.rehearses

    def stop_request(self, **options: Any) -> StopRequest:
        """Return who may ask a fit to stop, its budget of time among them.

        Args:
            options: Of `StopRequest`, beside the budget.
        """
        budget = self.config[self.subcommand].max_time
        budget_s = parse_duration(budget) if budget else math.inf
        return StopRequest(budget_s=budget_s, started=self.started, **options)

    def hold_folder(self) -> None:
        """Be the only writer of the run's folder until the command ends; see that W&B is there."""
        if is_first_process():
            check_tracking(self.run)
            if not self.again:
                writing = sole_writer(self.run.folder, own=self.run.files, doing="fit")
                self.held.enter_context(writing)

    def own_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """Return the callbacks of this command, and set what else the trainer needs.

        Args:
            config: The trainer's options.
        """
        raise NotImplementedError

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        own = [MetricsFileLogger(self.run.folder / METRICS_FILE)] if self.writes else []
        config["logger"] = [*own, *listed(config.get("logger"))] or False
        callbacks = [*callbacks, *self.own_callbacks(config)]
        trainer = super()._instantiate_trainer(config, callbacks)
        check_launcher(trainer)
        use_tensor_cores(str(trainer.precision))
        if self.writes:
            take_over_signals(trainer)
        callbacks_of(trainer).sort(key=lambda callback: not isinstance(callback, RunBegin))
        return trainer

    def tracker(self, *, continues: bool) -> Any:
        """Return the logger of Weights & Biases, if it is asked for."""
        return wandb_logger(self.run, self.plain_config(), continues=continues)

    def plain_config(self, *, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return the resolved configuration in plain values."""
        config = self.config[self.subcommand].clone()
        for key in without:
            config.pop(key, None)
        text = self._parser(self.subcommand).dump(config, skip_unset=False)
        return dict(yaml.safe_load(text))

    def default_config(self) -> dict[str, Any]:
        """Return the configuration without any option given, in plain values."""
        parser = self._parser(self.subcommand)
        text = parser.dump(parser.get_defaults(skip_validation=True), skip_validation=True)
        return dict(yaml.safe_load(text))

    def after_fit(self) -> None:
        """End a fit, or say that it was a rehearsal."""
        if self.rehearses:
            rank_zero_only(print)(
                "this was a rehearsal (trainer.fast_dev_run): training and validation work, and "
                "nothing was written; leave the option out to train"
            )
        else:
            self.finish_fit()

    def finish_fit(self) -> None:
        """Write and print what was found."""
        raise NotImplementedError

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; a run that ends early knows who started its ranks."""
        try:
            super()._run_subcommand(subcommand)
        except RunInterrupted as stopped:
            environment = getattr(self.trainer.strategy, "cluster_environment", None)
            stopped.launched_by_lightning = isinstance(environment, LightningEnvironment)
            raise


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return a trainer's callbacks."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found


def callback_of(trainer: Trainer, kind: type[Kind]) -> Kind:
    """Return a trainer's callback of a class; there is one."""
    return next(found for found in callbacks_of(trainer) if isinstance(found, kind))


def take_over_signals(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: under DDP its handler waits for ranks that never come.

    With it goes a broadcast before every micro-batch, which made a GPU finish its work first.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def run_cli(cli_class: type[CLI], arguments: list[str], *, started: float | None = None) -> CLI:
    """Parse and run one Lightning subcommand; may be called again and again in one process.

    Args:
        cli_class: What parses the options and does the work.
        arguments: Subcommand and options. They must be those of the process where several ranks
            are started by Lightning, which runs the same command line again.
        started: `time.monotonic()` of the start of the command; now, if not given.
    """
    started = time.monotonic() if started is None else started
    allowed, arguments = with_allowed_modules(readable_arguments(arguments))
    arguments = cli_class.prepared(arguments)
    reject_decided_values(arguments[1:], cli_class.decided_by)
    if "--max_time" in (word.partition("=")[0] for word in arguments) and arguments[0] != "fit":
        raise ValueError(f"--max_time ends a fit with a checkpoint; {arguments[0]} saves none")
    _quiet_libraries(cli_class.noise)
    again = False
    with contextlib.ExitStack() as held, own_tracking():
        while True:
            try:
                with only_allowed_modules(allowed):
                    return cli_class.start(arguments, started=started, again=again, held=held)
            except (MisconfigurationException, ModuleNotFoundError) as error:  # Lightning's names
                raise ValueError(str(error)) from error
            except SystemExit as ended:
                if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning's answer to it
                    raise KeyboardInterrupt from ended
                raise
            except RunAgain:
                again = True


def _quiet_libraries(noise: Sequence[str]) -> None:
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's own calls
    own_calls = (r"`isinstance\(treespec, LeafSpec\)` is deprecated", "LightningCLI's args param")
    for message in (*own_calls, *noise):
        warnings.filterwarnings("ignore", message=message)
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
