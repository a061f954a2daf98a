"""`python -m finetune lra fit`: a run on Long Range Arena, with all that a fit on a task has.

Invariant: the test split is looked at once, after the best step was chosen on validation; only in
mode published is the validation split of Text the test split, and the result says so.
"""

from functools import partial
from math import ceil
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser
from safetensors.torch import load_file, save

from data_prep.files import write_atomic
from finetune.callbacks import BestClassifier
from finetune.data.overview import overview_lines
from finetune.fit_module import FitModule
from finetune.lightning_cli import FinetuneCLI, judged
from finetune.lra.datamodule import LraDataModule
from finetune.lra.module import LraModule
from finetune.lra.outcome import data_notes, lra_result
from finetune.lra.tasks import TASKS
from training.callbacks.history import RunBegin, rewind_metrics
from training.callbacks.steps import EvaluationInterval
from training.cli import RunCLI, RunParser, run_cli
from training.configuration import write_inputs
from training.interruption import say

WEIGHTS = "model.safetensors"
# What decides these keys; a value given to one of them would be ignored without a word.
DECIDED_BY = {
    "data.seed": "seed_everything",
    "trainer.accumulate_grad_batches": "data.micro_batch_size",
    "trainer.default_root_dir": "run.root",
    "trainer.max_time": "max_time",
    "trainer.val_check_interval": "data.evaluations",
    "trainer.check_val_every_n_epoch": "data.evaluations",
}


class LraParser(RunParser):
    """The parser of a fit on Long Range Arena."""

    program, command = "ponet-finetune lra", "ponet-finetune lra COMMAND"
    decided = tuple(DECIDED_BY)


class LraBegin(RunBegin):
    """Keep the configuration and the digests of what is read; print what is known of the data."""

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both, or go on where the run was stopped."""
        assert isinstance(pl_module, LraModule)
        data = pl_module.datamodule
        if self.resumes:
            say(f"going on after step {trainer.global_step} of {self.run.folder}")
        else:
            self.write_config(trainer, pl_module)
            read = {"the encoder file": pl_module.file.path, **data.found.inputs}
            write_inputs(self.run.folder, read)
        rewind_metrics(trainer)
        print("\n".join([*data_notes(pl_module), *overview_lines(data.inspection)]))


class BestLra(BestClassifier):
    """Writes the weights at every new best score."""

    def _write(self, module: FitModule) -> None:
        assert isinstance(module, LraModule)
        weights = {name: w.detach().cpu() for name, w in module.classifier.state_dict().items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / WEIGHTS, save(weights))


class LraCLI(FinetuneCLI):
    """`fit` around LraModule and LraDataModule."""

    model: LraModule  # type: ignore[assignment]
    datamodule: LraDataModule  # type: ignore[assignment]
    module_class = LraModule  # type: ignore[assignment]
    data_class = LraDataModule  # type: ignore[assignment]
    run_parser = LraParser  # type: ignore[assignment]
    begin_class = LraBegin
    description = "Train a text encoder on a task of Long Range Arena."
    decided_by = DECIDED_BY
    own_defaults = {
        "max_epochs": -1,
        "log_every_n_steps": 50,
        "enable_checkpointing": False,
        "devices": 1,
    }

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit alone; it tests as well."""
        return {"fit": FinetuneCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of a run."""
        RunCLI.add_arguments_to_parser(self, parser)

    def before_instantiate_classes(self) -> None:
        """Take the task's number of steps where none is given."""
        trainer = self.config[self.subcommand].trainer
        task = self.config[self.subcommand].data.task
        if trainer.max_epochs not in (None, -1):
            raise ValueError(
                f"trainer.max_epochs is {trainer.max_epochs}: a run here is so many steps, and so "
                "is its schedule; give --trainer.max_steps"
            )
        for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
            value = getattr(trainer, name)
            if value is not None and not (isinstance(value, float) and value == 1):
                raise ValueError(
                    f"trainer.{name} is {value}: batches go from long samples to short ones, so a "
                    "part of them would be the long ones; give --data.max_train_rows, "
                    "--data.max_eval_rows or --trainer.max_steps"
                )
        if trainer.max_steps < 0 and task in TASKS:
            trainer.max_steps = TASKS[task].steps
        super().before_instantiate_classes()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        every = ceil(config["max_steps"] / self.datamodule.num_evaluations)
        data, model = self.datamodule, self.model
        if self.rehearses and model.self_pretrain_steps:  # a step of each
            model.self_pretrain_steps = 1
            config["fast_dev_run"] = 2 * data.spec.batch_size // data.micro_batch_size
        config["max_steps"] += model.self_pretrain_steps
        trainer = super()._instantiate_trainer(config, [EvaluationInterval(every), *callbacks])
        is_given = bool(self.config[self.subcommand].data.micro_batch_size)
        if trainer.strategy.root_device.type != "cpu" and not is_given:
            data.micro_batch_size, trainer.accumulate_grad_batches = data.spec.batch_size, 1
        return trainer

    @staticmethod
    def best_class() -> type[BestClassifier]:
        """Return what keeps the best weights."""
        return BestLra

    def has_test_rows(self) -> bool:
        """Whether there is a test split: always."""
        return True

    def load_best(self) -> None:
        """Take the best weights."""
        weights = load_file(self.run.classifier / WEIGHTS)
        self.model.classifier.load_state_dict(weights)

    def found(self, best: BestClassifier, *, seed: int, elapsed_s: float) -> dict[str, Any]:
        """Return the content of result.json."""
        return lra_result(self.trainer, self.model, best, seed=seed, elapsed_s=elapsed_s)


run_command = partial(run_cli, LraCLI)
"""Parse and run one fit; `result` is what stands in result.json."""


def run_lra_fit(arguments: list[str], *, started: float) -> int:
    """Run `fit`; returns the exit code."""
    return judged(run_command(arguments, started=started))
