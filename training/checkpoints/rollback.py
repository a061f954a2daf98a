"""Going back to the newest checkpoint after a bad step, without the data that led there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

from data_prep.files import write_atomic
from training.checkpoints.storage import newest_valid
from training.guards import window_of
from training.run_config import CHECKPOINT_FOLDER, SKIPPED_FILE
from training.run_folder import add_event


def skipped_windows(folder: Path) -> tuple[int, ...]:
    """Windows of the sample stream that rollbacks made a run skip, ascending."""
    return tuple(_read(folder)["windows"])


def num_rollbacks(folder: Path) -> int:
    """How often a run was rolled back."""
    return int(_read(folder)["rollbacks"])


def roll_back(
    folder: Path,
    *,
    first_step: int,
    last_step: int,
    first_rank: bool,
    warn: Callable[[str], None],
) -> int:
    """Note what the run skips from now on; the next start of the run does the rest.

    Steps before the newest checkpoint stay as they are: they are not trained again.

    Args:
        folder: The run's folder.
        first_step: First optimiser step (from 0) whose data is to be skipped.
        last_step: Last one, the bad step itself.
        first_rank: Whether this process writes; the others wait for it.
        warn: Called with one line for every broken checkpoint.

    Returns:
        How often the run was rolled back, this time included.
    """
    if first_rank:
        newest = newest_valid(folder / CHECKPOINT_FOLDER, warn=warn)
        kept = newest.step if newest else 0
        before = skipped_windows(folder)
        steps = range(max(kept, first_step), last_step + 1)
        windows = [window_of(step, before) for step in steps]
        content = {
            "windows": sorted({*before, *windows}),
            "rollbacks": num_rollbacks(folder) + 1,
        }
        write_atomic(folder / SKIPPED_FILE, (json.dumps(content) + "\n").encode())
        add_event(folder, "rolled_back", to_step=kept, skipped_windows=windows)
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
    return num_rollbacks(folder)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SKIPPED_FILE
    if not path.exists():
        return {"windows": [], "rollbacks": 0}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
