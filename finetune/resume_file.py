"""The file that an unfinished fit goes on from: its name holds its step and its digest.

Invariant: it is written whole, the one before it is removed last, and a damaged one is refused.
"""

import hashlib
from pathlib import Path

from data_prep.files import write_atomic
from data_prep.manifest import file_sha256
from finetune.run_config import RESUME_FILES

_HEX = 16


def write_resume_file(folder: Path, content: bytes | memoryview, *, step: int) -> Path:
    """Replace the file of a run's folder; returns the new one.

    Raises:
        OSError: It could not be written; the one before is intact.
    """
    digest = hashlib.sha256(content).hexdigest()[:_HEX]
    path = folder / f"resume-{step:08d}-{digest}.ckpt"
    before = _files(folder)
    write_atomic(path, content)
    for old in before:
        if old != path:
            old.unlink()
    return path


def resume_file(folder: Path) -> Path | None:
    """Return the file of the latest step, or None where there is none.

    Raises:
        ValueError: It is damaged.
    """
    found = _files(folder)
    if not found:
        return None
    path = found[-1]
    if not path.stem.endswith(file_sha256(path)[:_HEX]):
        raise ValueError(
            f"{path} is damaged: its content is not what was written. Put it back from a copy, "
            "give another --run.name, or --run.overwrite true to train anew"
        )
    return path


def remove_resume_files(folder: Path) -> None:
    """Remove them: the run is over."""
    for path in _files(folder):
        path.unlink()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(RESUME_FILES))
