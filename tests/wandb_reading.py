"""Offline W&B runs, read back with W&B's own reader: `wandb leet inspect --json`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class OfflineRun(NamedTuple):
    """What stands in the transaction log of one run."""

    run: dict[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]
    kinds: set[str]
    exit_code: int


def keep_wandb_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Keep W&B quiet, and its own files in a folder."""
    patch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        patch.setenv(name, str(folder))


def offline_logs(folder: Path) -> list[Path]:
    """The logs of the offline runs below a run's folder, oldest first."""
    logs = (folder / "wandb").glob("offline-run-*/*.wandb")
    return sorted(logs, key=lambda path: path.stat().st_mtime_ns)


def read_offline_run(log: Path) -> OfflineRun:
    """Records of a log, put together."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and "No such" in done.stderr:
        pytest.skip("wandb before 0.31 has no `leet inspect --json` to read offline runs with")
    assert not done.returncode, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]

    def contents(kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in records if record["type"] == kind]

    run = contents("run")[0]
    config, summary = dict(run["config"]["update"]), {}
    for record in contents("config"):
        config |= record.get("update", {})
    for record in contents("summary"):
        summary |= record.get("update", {})
    artifacts = {artifact["name"]: artifact for artifact in contents("artifact")}
    history = [record["item"] for record in contents("history")]
    kinds = {record["type"] for record in records}
    exit_code = contents("exit")[-1].get("exit_code", 0)
    return OfflineRun(run, config, history, summary, artifacts, kinds, exit_code)


def files_of(artifact: dict[str, Any]) -> set[str]:
    """Names of an artifact's files."""
    return {entry["path"] for entry in artifact["manifest"]["contents"]}
