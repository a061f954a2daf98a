"""Weights & Biases: how a run begins and ends there, and what it is given.

Invariant: wandb is imported by the functions that log, and only the first rank calls them.
"""

import netrc
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from training.configuration import configuration_name, flatten
from training.run_config import RunConfig
from training.tracking import TrackingConfig, TrackingRecord, next_start

STEP_KEY = "trainer/global_step"
"""Optimiser steps: the x axis of every metric, so that steps may come again after a rollback."""
EXIT_STOPPED = 75
SERVER_TIMEOUT_S = 10.0
"""How long W&B's server may take to answer before a run begins."""


def active_run() -> Any:
    """Return the W&B run of this process, or None; imports nothing."""
    return getattr(sys.modules.get("wandb"), "run", None)


def tracked_run(trainer: Any) -> Any:
    """Return the W&B run that a Lightning trainer logs to; None: no W&B, or not the first rank."""
    return active_run() if trainer.is_global_zero else None


class OwnTracking:
    """End the W&B run that the block began; the next run of the process would write into it.

    A block that ends with an exception ends the run as failed, with the exception's `exit_code`; a
    preempted one (75) as preempting, so that `wandb agent` queues a sweep's run again.
    """

    def __enter__(self) -> "OwnTracking":
        """Remember the run that is already there."""
        self._before = active_run()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the run, if it is not the one that was there.

        Raises:
            ValueError: The block ended with an error of W&B's: of an entity, a project, a key.
        """
        run = active_run()
        if run is not None and run is not self._before:
            code = 0 if error is None else int(getattr(error, "exit_code", 1))
            if code == EXIT_STOPPED:
                run.mark_preempting()
            sys.modules["wandb"].finish(exit_code=code)
        if "wandb" in sys.modules and isinstance(error, sys.modules["wandb"].Error):
            reason = " ".join(str(error).split())
            raise ValueError(f"W&B: {reason}; --run.wandb offline needs no server") from error


def check_tracking(tracking: TrackingConfig) -> None:
    """See that W&B can be used as the options say, before a run begins; called on one rank.

    Raises:
        ValueError: It is not installed, and online: nobody is logged in, or no server answers.
    """
    if tracking.wandb == "off":
        return
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"--run.wandb {tracking.wandb} needs wandb, which is not installed; run `pip install "
            "-c constraints.txt wandb`, or leave the option out"
        ) from error
    mode = os.environ.get("WANDB_MODE", "")
    if tracking.wandb == "offline" or mode not in ("", "online", "run", "shared"):
        return
    settings = wandb.setup().settings
    url = urllib.parse.urlsplit(settings.base_url)
    port = url.port or (80 if url.scheme == "http" else 443)
    if not _is_logged_in(settings):
        raise ValueError(
            "--run.wandb online: nobody is logged in to W&B here; run `wandb login`, or set "
            "WANDB_API_KEY, or give --run.wandb offline and upload the run later with `wandb sync`"
        )
    if _goes_through_proxy(url):
        return
    try:
        socket.create_connection((url.hostname or "", port), timeout=SERVER_TIMEOUT_S).close()
    except OSError as error:
        raise ValueError(
            f"--run.wandb online: W&B's server {settings.base_url} cannot be reached ({error}); "
            "give --run.wandb offline and upload the run later with `wandb sync`"
        ) from error


def _is_logged_in(settings: Any) -> bool:
    """Whether there is a key: in the environment, in settings, or in the netrc file."""
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return True
    host = urllib.parse.urlsplit(settings.base_url).hostname or ""
    names = (os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc")
    files = [Path(name).expanduser() for name in names if name]
    path = next((file for file in files if file.is_file()), None)
    try:
        return path is not None and netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _goes_through_proxy(url: urllib.parse.SplitResult) -> bool:
    bypassed = urllib.request.proxy_bypass(url.hostname or "")
    return url.scheme in urllib.request.getproxies() and not bypassed


def wandb_logger(run: RunConfig, config: Mapping[str, Any], *, continues: bool) -> Any:
    """Return Lightning's logger for Weights & Biases, or None where it is not asked for.

    On the first rank the folder records the W&B run; others get no id and never speak to W&B.

    Args:
        run: The run's options; W&B writes into its folder.
        config: The resolved configuration.
        continues: Whether the run goes on from a checkpoint.
    """
    if run.wandb == "off":
        return None
    from pytorch_lightning.loggers import WandbLogger
    from pytorch_lightning.utilities import rank_zero_only

    first_rank = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    return WandbLogger(**_options(run, flatten(config), continues, first_rank))


def _options(
    run: RunConfig, settings: dict[str, Any], continues: bool, first_rank: bool
) -> dict[str, Any]:
    """Return the logger's options; on the first rank note the W&B run in the folder."""
    group = configuration_name(settings, label_keys=run.label_keys, also_without=run.not_in_group)
    options: dict[str, Any] = {
        "project": run.wandb_project,
        "name": run.name,
        "group": run.wandb_group or group,
        "tags": list(run.wandb_tags),
        "job_type": run.job_type,
        "save_dir": run.folder,
        "log_model": False,
        "config": settings,
    }
    if run.wandb == "offline":  # Lightning's `offline` would set an environment variable
        options |= {"mode": "offline", "resume": None}
    if not first_rank:
        return options
    record = TrackingRecord.load(run.folder)
    running = active_run()
    if running is not None and record.runs and running.id == record.runs[-1].id:
        return {**options, "group": record.runs[-1].group, "experiment": running}  # a rollback
    agents_id = os.environ.get("WANDB_RUN_ID", "")
    start = next_start(record, run, group=group, continues=continues, run_id=agents_id)
    if start not in record.runs:
        record.runs.append(start)
    record.save(run.folder)
    # What `wandb agent` has decided is left to it.
    return {**options, "group": start.group, "id": None if agents_id else start.id}


def add_config(run: Any, values: Mapping[str, Any]) -> None:
    """Add settings to a run's configuration."""
    run.config.update(dict(values), allow_val_change=True)


def log_table(
    run: Any, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int
) -> None:
    """Log a table at an optimiser step."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
    run.log({key: table, STEP_KEY: step})


def log_image(run: Any, key: str, path: Path, *, step: int) -> None:
    """Log a PNG at an optimiser step; nothing where there is none."""
    import wandb

    if path.is_file():
        run.log({key: wandb.Image(str(path)), STEP_KEY: step})


def log_files(
    run: Any,
    files: Iterable[Path],
    *,
    name: str,
    type: str,
    metadata: Mapping[str, Any],
    alias: str,
    copied: bool,
    is_input: bool = False,
) -> str:
    """Log files as an artifact and return its name, `[entity/]project/name:alias`.

    Args:
        run: The W&B run.
        files: Each becomes a file of its name in the artifact.
        name: Of the artifact.
        type: W&B's type: model, dataset or result.
        metadata: Plain values.
        alias: Beside `latest`; says which content it is.
        copied: Whether W&B keeps a copy of its own until they are uploaded.
        is_input: Whether the run has read it rather than made it. Offline W&B knows no inputs: it
            is logged like an output.
    """
    import wandb

    artifact = wandb.Artifact(name, type=type, metadata=dict(metadata))
    policy: Literal["mutable", "immutable"] = "mutable" if copied else "immutable"
    for path in files:
        artifact.add_file(str(path.resolve()), name=path.name, policy=policy, skip_cache=True)
    add = run.use_artifact if is_input and not run.offline else run.log_artifact
    add(artifact, aliases=["latest", alias])
    return "/".join(part for part in (run.entity, run.project, f"{name}:{alias}") if part)


def use_artifact(run: Any, name: str) -> str:
    """Note that a run has used an artifact; returns what prevented it, or nothing.

    Offline W&B keeps no such note: the name stands in the run's configuration alone.
    """
    import wandb

    if run.offline:
        return "W&B records no used artifacts offline"
    try:
        run.use_artifact(name)
    except (wandb.Error, ValueError) as error:
        return f"W&B does not give it: {error}"
    return ""
