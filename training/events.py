"""events.jsonl: when a run was started, resumed, stopped or finished, and with what."""

import json
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training.run_config import EVENTS_FILE

PACKAGES = ("ponet", "torch", "pytorch-lightning")


def add_event(folder: Path, name: str, **details: Any) -> None:
    """Append one event; called on one rank.

    Args:
        folder: The run's folder.
        name: What happened, one word.
        details: Plain values: step, reason, files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": now, "event": name, **details}) + "\n")


def provenance() -> dict[str, object]:
    """The command as it can be typed again, without the interpreter's folder, and versions."""
    words = list(sys.orig_argv)
    words[0] = words[0].replace("\\", "/").rsplit("/", 1)[-1]
    return {"command": shlex.join(words), "versions": versions()}


def versions() -> dict[str, str]:
    """Package -> installed version; Python's too."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
