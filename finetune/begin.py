"""How a fit begins in its folder: last, when every check has been passed.

Invariant: an earlier run is lost with the first optimiser step of the new one and not before; until
then every error brings it back as it was.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from finetune.artifact import restore_classifier
from finetune.callbacks.resume import ResumePoint, highest_of_ranks
from finetune.data.overview import overview_lines
from finetune.metrics_file import MetricsFileLogger
from finetune.module import FinetuneModule, log_prefix
from finetune.run_config import CONFIG_FILE, RUN_FILES, RunConfig
from training.inputs import digests, write_inputs
from training.interruption import say
from training.run_folder import replacing
from training.wandb_run import tracked_run


class RunFolder(SaveConfigCallback):
    """Replace, begin or rewind the run's folder, and print what is known about the data.

    It gets the resolved configuration (`--config` with that file repeats the run) and the digests
    of what the run reads. Comes before all other callbacks.
    """

    decided: tuple[str, ...] = ()
    """Options that follow from others, and are not kept."""
    resumes = False
    """Whether an unfinished run goes on."""
    tracker: Callable[[], Any]
    """Makes the logger of W&B, if any."""
    _replacement: ExitStack
    _is_replacing = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing: data and encoder may yet turn out to be wrong."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin on the first rank; if that fails, all ranks end."""
        assert isinstance(pl_module, FinetuneModule)
        check_monitors(trainer.callbacks, pl_module)  # type: ignore[attr-defined]
        failed = 1
        try:
            if trainer.is_global_zero:
                self._begin(trainer, pl_module)
            failed = 0
        finally:
            any_failed = highest_of_ranks(trainer, failed)
        if any_failed:
            raise ValueError("the first rank could not begin the run; its own message says why")
        if not trainer.is_global_zero:
            self._track(trainer)

    def _begin(self, trainer: Trainer, module: FinetuneModule) -> None:
        folder = RunConfig(**vars(self.config.run)).folder
        self._replacement = ExitStack()
        if not self.resumes:
            self._replacement.enter_context(replacing(folder, own=RUN_FILES))
            self._is_replacing = True
        self._track(trainer)
        if not self.resumes:
            self.save_config(trainer, module, "fit")
            write_inputs(folder, digests(input_paths(module)))
        else:
            say(f"going on after step {trainer.global_step} of {folder}")
            restore_classifier(folder / "classifier")
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        spent_s = next(c.spent_s for c in callbacks if isinstance(c, ResumePoint))
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFileLogger):
                logger.rewind(trainer.global_step, spent_s=spent_s)
        print("\n".join(overview_lines(module.datamodule.inspection)))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """With the first step done, what is in the folder is this run's."""
        if self._is_replacing and trainer.global_step:
            self._is_replacing = False
            self._replacement.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Bring back an earlier run if this one made no step."""
        if self._is_replacing:
            self._is_replacing = False
            if tracked := tracked_run(trainer):
                tracked.finish(exit_code=1)  # its files are among those that go
            self._replacement.__exit__(type(exception), exception, exception.__traceback__)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration."""
        config = self.config.clone()
        for key in self.decided:
            config.pop(key, None)
        path = RunConfig(**vars(self.config.run)).folder / CONFIG_FILE
        self.parser.save(config, path, skip_unset=False, overwrite=True, multifile=False)

    def _track(self, trainer: Trainer) -> None:
        logger = self.tracker()
        if logger is not None:
            _ = logger.experiment  # begins the run there
            trainer.loggers = [*trainer.loggers, logger]


def input_paths(module: FinetuneModule) -> dict[str, Path]:
    """Return what a fit reads: encoder, tokenizer and the files of the splits."""
    assert module.source is not None
    paths = {f"the encoder's {file.name}": file for file in module.source.files}
    for name, split in module.datamodule.task.splits.items():
        paths[f"the {name} file"] = Path(split.source)
    return paths


def check_monitors(callbacks: Iterable[Callback], module: FinetuneModule) -> None:
    """Refuse a callback that waits for a metric which this task does not have.

    Raises:
        ValueError: Names the callback, what it monitors, and the metrics there are.
    """
    majority = module.datamodule.inspection.majority
    known = [
        f"{log_prefix(split)}/{name}"
        for split in module.datamodule.task.validation_splits
        for name in (*(name for name in majority[split] if name != "num_rows"), "loss")
    ]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in known:
            raise ValueError(
                f"{type(callback).__name__} monitors {monitor!r}, which is not logged here; the "
                f"metrics of this task are {', '.join(dict.fromkeys(known))}"
            )
