"""The run folder tells one story: a resumed run first removes what its checkpoint does not know."""

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from data_prep.shared.interruption import say
from pretrain.checkpoints.resume import changed_options, set_aside
from pretrain.checkpoints.storage import remove_temporaries, saved_checkpoints
from pretrain.events import add_event
from pretrain.metrics_file import MetricsFileLogger
from pretrain.provenance import provenance


def rewind_metrics(trainer: Trainer) -> int:
    """Let the metrics go on behind the trainer's step; returns the number of lines cut off."""
    loggers = (logger for logger in trainer.loggers if isinstance(logger, MetricsFileLogger))
    return sum(logger.rewind(trainer.global_step) for logger in loggers)


class RunHistory(Callback):
    """Rewind metrics and checkpoints to the step a run starts from; keep a list of events.

    Comes before all other callbacks: nothing may be logged before the metrics are rewound.

    Args:
        folder: The run's folder.
        checkpoints: The folder of its checkpoints.
        resumed_from: The checkpoint it goes on from, or None.
    """

    def __init__(self, folder: Path, checkpoints: Path, *, resumed_from: Path | None) -> None:
        self.folder = folder
        self.checkpoints = checkpoints
        self.resumed_from = resumed_from
        self.started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut off what came after this step, on the first rank."""
        self.started = True
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        remove_temporaries(self.checkpoints)
        for saved in saved_checkpoints(self.checkpoints):
            if saved.step > step:
                say(f"{saved.path.name} is not part of this run any more: {set_aside(saved.path)}")
        cut = rewind_metrics(trainer)
        if cut:
            say(f"{cut} lines after step {step} were cut off the metrics; these steps come again")
        if self.resumed_from is None:
            add_event(self.folder, "started", **provenance())
            return
        changes = changed_options(pl_module.stored_config, pl_module.resolved_config)
        if changes:
            say("options that differ from the checkpoint's; those of now count:")
        for change in changes:
            say(f"  {change}")
        details = {"checkpoint": self.resumed_from.name, "changed": changes}
        add_event(self.folder, "resumed", step=step, **details, **provenance())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the end."""
        if trainer.is_global_zero:
            add_event(self.folder, "finished", step=trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Note why a run ended early."""
        if trainer.is_global_zero:
            reason = str(exception) or type(exception).__name__
            add_event(self.folder, "stopped", step=trainer.global_step, reason=reason)
