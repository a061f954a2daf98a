"""Lightning's way to the checkpoint files: saves that are verified, retried, or done aside.

Invariant: nothing is reported as saved before it stands verified on the disk, and no failure is
swallowed: it is raised by the save itself or, in the background, by the next save or `wait()`.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from training.checkpoints import storage
from training.checkpoints.retries import Result, retried
from training.checkpoints.storage import serialised, write_serialised

_log = logging.getLogger(__name__)


class VerifiedCheckpointIO(CheckpointIO):
    """Saves and loads checkpoints through `training.checkpoints.storage`.

    `on_saved`, if set, is called with the path after each verified save: in the thread that saves
    when saves are synchronous, at the end of the background save otherwise.

    Args:
        asynchronous: Write in a background thread, from the copy in the host's memory that every
            save makes. A second save waits for the first.
        retries: How often a save or load is tried again after an error that may pass.
        retry_wait_s: Seconds before the first retry; doubled for each further one.
    """

    def __init__(
        self, *, asynchronous: bool = False, retries: int = 3, retry_wait_s: float = 1.0
    ) -> None:
        self.on_saved: Callable[[Path], None] | None = None
        self.asynchronous = asynchronous
        self._retries = retries
        self._retry_wait_s = retry_wait_s
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint; in the background it is the state of this moment that is saved.

        Raises:
            CheckpointError: This save, or the one before it in the background, failed.
            ValueError: The checkpoint holds objects that could not be loaded again.
        """
        self.wait()
        data = serialised(checkpoint)
        if not self.asynchronous:
            self._save(data, Path(path))
            return
        self._pending = self._writer.submit(self._save, data, Path(path))
        self._pending.add_done_callback(_log_failure)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return a verified checkpoint, always read with `weights_only=True`.

        Raises:
            CheckpointError: It is missing, damaged, or holds Python objects.
            ValueError: `weights_only=False` was asked for.
        """
        if weights_only is False:
            raise ValueError(
                "weights_only=False would run whatever code the checkpoint holds; leave it out"
            )
        self.wait()
        return self._retried(lambda: storage.load_checkpoint(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; a missing one is fine."""
        storage.remove_checkpoint(path)

    def wait(self) -> None:
        """Return when no save is under way; raise the error of one that failed, once."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    teardown = wait

    def _save(self, data: memoryview, path: Path) -> None:
        self._retried(lambda: write_serialised(data, path))
        if self.on_saved is not None:
            self.on_saved(path)

    def _retried(self, action: Callable[[], Result]) -> Result:
        return retried(action, retries=self._retries, wait_s=self._retry_wait_s)


def _log_failure(save: Future[None]) -> None:
    """Say at once that a background save failed; the error itself is raised later."""
    if error := save.exception():
        _log.error("a checkpoint could not be saved in the background: %s", error)
