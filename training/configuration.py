"""What makes two runs the same: their settings, and the digests of what they have read.

Invariant: two runs with equal `relevant` settings differ at most in their seed and in where and how
often they write. `inputs.json` is written when a run begins; whoever goes on from the run, or shows
its result, can see whether a file has changed under the same path since.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.files import write_json
from data_prep.manifest import file_sha256
from training.run_config import BUNDLE_FOLDER, CLASSIFIER_FOLDER

INPUTS_FILE = "inputs.json"
RUN_PARTS = (BUNDLE_FOLDER, CLASSIFIER_FOLDER)
"""Folders of a run that a fit can start from."""

_CLASS, _INIT = "class_path", "init_args"
IRRELEVANT = (
    *("seed_everything", "run", "checkpoints", "preemption", "resume", "config", "ckpt_path"),
    *("max_time", "verbose", "weights_only"),
    *("data.seed", "data.num_workers", "data.verify_shards", "data.build_config"),
    *("trainer.max_time", "trainer.default_root_dir", "trainer.logger"),
    *("trainer.log_every_n_steps", "trainer.val_check_interval"),
    *("trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary"),
    "trainer.enable_checkpointing",
)
"""Settings, and groups of them, that change where and how often a run writes, and no weight."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; the keys are the names of the flags that set them.

    A class stands under the key of its flag, its arguments below it.

    Args:
        config: Nested mapping, as read from run_config.yaml.
        prefix: What the keys begin with.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = prefix if name in (_CLASS, _INIT) and prefix else f"{prefix}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, key)
        elif value or key != prefix:  # a class without arguments stays under its key
            flat[key] = value
    return flat


def relevant(settings: Mapping[str, Any], *, also_without: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings that can change a result, the seed aside.

    Args:
        settings: As `flatten` returns them.
        also_without: Further keys or groups to leave out, for instance the fold.
    """
    groups = (*IRRELEVANT, *also_without)
    return {key: value for key, value in settings.items() if not _is_below(key, groups)}


def _is_below(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith(group + ".") for group in groups)


def configuration_name(
    settings: Mapping[str, Any], *, label_keys: Sequence[str], also_without: Iterable[str] = ()
) -> str:
    """Return a name that the runs of one configuration share, whatever their seeds and folders.

    Args:
        settings: As `flatten` returns them.
        label_keys: Settings that the name shows; those that are not there are passed over.
        also_without: See `relevant`.

    Returns:
        Such as `ponet-mlm_sso-1f3a09c2`: the shown values, and 8 hex digits over all settings.
    """
    kept = relevant(settings, also_without=also_without)
    text = json.dumps(kept, sort_keys=True, default=str)
    words = [_short(settings[key]) for key in label_keys if settings.get(key)]
    return "-".join([*words, hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]])


def _short(value: Any) -> str:
    """Return the last part of a path or class path, in a few characters."""
    text = str(value).rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    if text.endswith("Config"):
        text = text.removesuffix("Config").lower()
    return text[:32]


def write_inputs(folder: Path, paths: Mapping[str, Path]) -> None:
    """Keep the digests of what a run reads in its folder.

    Args:
        folder: The run's.
        paths: What each file or folder is -> where it lies; a path that is not there (a data set of
            the Hub) is left out.
    """
    write_json(folder / INPUTS_FILE, _digests(paths))


def changed_inputs(
    folder: Path, *, moved: Mapping[str, Path] = {}, of: str | None = None
) -> list[str]:
    """Return what has changed since the run of a folder began, in words.

    What is not there any more counts as unchanged, and all of a result that came without its run.

    Args:
        folder: The run's.
        moved: What a file or folder is, as for `write_inputs` -> where it lies now, if not there.
        of: What the one file or folder is that counts, as for `write_inputs`; None: all do.
    """
    path = folder / INPUTS_FILE
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stored = {name: entry for name, entry in stored.items() if of in (None, name)}
    places = {name: Path(entry["path"]) for name, entry in stored.items()}
    places |= {name: path for name, path in moved.items() if name in stored}
    now = _digests(places)
    return [
        f"{name} {places[name]} has changed"
        for name, entry in stored.items()
        if name in now and now[name]["sha256"] != entry["sha256"]
    ]


def _digests(paths: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    found = {name: path for name, path in paths.items() if path.exists()}
    return {name: {"path": str(path), "sha256": _digest(path)} for name, path in found.items()}


def _digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of all files below a folder."""
    if path.is_file():
        state = path.stat()
        return _digest_of_state(path, state.st_size, state.st_mtime_ns, state.st_ino)
    listing = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        listing.update(f"{file.relative_to(path)} {_digest(file)}\n".encode())
    return listing.hexdigest()


@cache  # a grid asks for the same files in every trial
def _digest_of_state(path: Path, size: int, modified_ns: int, inode: int) -> str:
    return file_sha256(path)
