"""A run that a callback has ended, as EarlyStopping does, is ended for the same command too."""

import json
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from training.checkpoints.resume import ConfiguredModule, changed_options
from training.run_config import CONFIG_KEY, EVENTS_FILE


class EndedEarly(Callback):
    """Ask for no further step where the run has come to its end and no option has changed since.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the checkpoint with the run's last event; on every rank alike."""
        if last_end(self.folder) != checkpoint["global_step"]:
            return
        stored = checkpoint.get(CONFIG_KEY, {}).get("config", {})
        if not stored or not isinstance(pl_module, ConfiguredModule):
            return
        if not changed_options(stored, pl_module.resolved_config):
            trainer.should_stop = True


def last_end(folder: Path) -> int:
    """Return the step at which a run finished, if nothing came after that; else -1."""
    path = folder / EVENTS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    last = json.loads(lines[-1]) if lines else {}
    return int(last["step"]) if last.get("event") == "finished" else -1
