"""events.jsonl: when a run was started, resumed, stopped, rolled back or finished, one per line."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from training.run_config import EVENTS_FILE


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
