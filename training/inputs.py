"""What a fit has read, as digests: encoder, tokenizer and data files.

Invariant: `inputs.json` is written when a run begins; whoever goes on from the run, or shows its
result, can see whether a file has changed under the same path since.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from data_prep.files import write_atomic
from data_prep.manifest import file_sha256

INPUTS_FILE = "inputs.json"
RUN_PARTS = ("bundle", "classifier")
"""Folders of a run that a fit can start from."""


def digests(paths: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return `{name: {"path", "sha256"}}` of the files and folders that exist.

    Args:
        paths: What each is -> where it lies; a path that is not there (a data set of the Hub) is
            left out.
    """
    return {
        name: {"path": str(path), "sha256": _digest(path)}
        for name, path in paths.items()
        if path.exists()
    }


def write_inputs(folder: Path, found: Mapping[str, Mapping[str, str]]) -> None:
    """Keep the digests of a run's inputs in its folder."""
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder / INPUTS_FILE, text.encode("utf-8"))


def changed_inputs(folder: Path) -> list[str]:
    """Return what has changed since the run of a folder began, in words.

    What is not there any more, and a run of an earlier version, count as unchanged.
    """
    path = folder / INPUTS_FILE
    if not path.is_file():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    now = digests({name: Path(entry["path"]) for name, entry in stored.items()})
    return [
        f"{name} {entry['path']} has changed"
        for name, entry in stored.items()
        if name in now and now[name]["sha256"] != entry["sha256"]
    ]


def _digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of all files below a folder."""
    if path.is_file():
        return _file_digest(path)
    listing = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        listing.update(f"{file.relative_to(path)} {_file_digest(file)}\n".encode())
    return listing.hexdigest()


def _file_digest(path: Path) -> str:
    state = path.stat()
    return _digest_of_state(path, state.st_size, state.st_mtime_ns, state.st_ino)


@cache  # a grid asks for the same files in every trial
def _digest_of_state(path: Path, size: int, modified_ns: int, inode: int) -> str:
    return file_sha256(path)
