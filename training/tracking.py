"""Weights & Biases: how a run begins and ends there, what it is given, what its folder records.

Invariant: wandb is imported by the functions that log, and only the first rank calls them.
"""

import json
import math
import netrc
import os
import secrets
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_prep.files import write_json
from training.configuration import configuration_name, flatten
from training.interruption import EXIT_STOPPED
from training.run_config import RECORD_FILE, RunConfig

STEP_KEY = "trainer/global_step"
"""Optimiser steps: the x axis of every metric, so that steps may come again after a rollback."""
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrackedStart:
    """One W&B run that a run folder was tracked with: W&B's id, offline or online, and where."""

    id: str
    mode: str
    project: str
    group: str


@dataclass(kw_only=True)
class TrackingRecord:
    """What a run's folder knows about its W&B runs: `wandb_runs.json`."""

    runs: list[TrackedStart] = field(default_factory=list)
    """Every W&B run of the folder, oldest first; offline, each start is a run of its own."""
    bundle: dict[str, str] = field(default_factory=dict)
    """The bundle's artifact: `artifact` (project/name:alias), `run` (id), `sha256` of its weights;
    empty: none was logged."""

    def save(self, folder: Path) -> None:
        """Write it at once."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD_FILE, {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> "TrackingRecord":
        """Return the record of a run's folder; an empty one where there is none.

        Raises:
            ValueError: The file is damaged or of another version.
        """
        path = folder / RECORD_FILE
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version is {content['format_version']}")
            runs = [TrackedStart(**run) for run in content["runs"]]
            return cls(runs=runs, bundle=dict(content["bundle"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: is damaged or of another version ({error}); remove it, and the run is "
                "tracked as a new W&B run"
            ) from error

    def next_start(
        self, run: RunConfig, *, group: str, continues: bool, run_id: str = ""
    ) -> TrackedStart:
        """Return the W&B run that a start of a run is tracked with.

        A run that goes on stays in its group, also where its configuration has changed. Online it
        goes on in its W&B run; offline runs cannot be continued, so there it is a new run.

        Args:
            run: The options.
            group: The configuration's group, for where none is given.
            continues: Whether the run goes on from a checkpoint.
            run_id: The id that `wandb agent` gives; empty: none.
        """
        before = self.runs[-1] if continues and self.runs else None
        mode, project = run.wandb, run.wandb_project
        online = [r.id for r in self.runs if (r.mode, r.project) == ("online", project)]
        if not run_id and continues and mode == "online" and online:
            run_id = online[-1]
        return TrackedStart(
            id=run_id or secrets.token_hex(4),
            mode=mode,
            project=project,
            group=run.wandb_group or (before.group if before else group),
        )


def active_run() -> Any:
    """Return the W&B run of this process, or None; imports nothing."""
    return getattr(sys.modules.get("wandb"), "run", None)


def tracked_run(trainer: Any) -> Any:
    """Return the W&B run that a Lightning trainer logs to; None: no W&B, or not the first rank."""
    return active_run() if trainer.is_global_zero else None


@contextmanager
def own_tracking() -> Iterator[None]:
    """End the W&B run that the block began; the next run of the process would write into it.

    A block that ends with an exception ends the run as failed, with the exception's `exit_code`; a
    preempted one (75) as preempting, so that `wandb agent` queues a sweep's run again.

    Raises:
        ValueError: The block ended with an error of W&B's: of an entity, a project, a key.
    """
    before, code = active_run(), 0
    try:
        yield
    except BaseException as error:
        code = int(getattr(error, "exit_code", 1))
        if "wandb" in sys.modules and isinstance(error, sys.modules["wandb"].Error):
            reason = " ".join(str(error).split())
            raise ValueError(f"W&B: {reason}; --run.wandb offline needs no server") from error
        raise
    finally:
        run = active_run()
        if run is not None and run is not before:
            if code == EXIT_STOPPED:
                run.mark_preempting()
            sys.modules["wandb"].finish(exit_code=code)


def check_tracking(run: RunConfig) -> None:
    """See that W&B can be used as the options say, before a run begins; called on one rank.

    Raises:
        ValueError: It is not installed, and online: nobody is logged in, or no server answers.
    """
    if run.wandb == "off":
        return
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"--run.wandb {run.wandb} needs wandb, which is not installed; run `pip install "
            "-c constraints.txt wandb`, or leave the option out"
        ) from error
    mode = os.environ.get("WANDB_MODE", "")
    if run.wandb == "offline" or mode not in ("", "online", "run", "shared"):
        return
    settings = wandb.setup().settings
    url = urllib.parse.urlsplit(settings.base_url)
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    if not _is_logged_in(settings, host):
        raise ValueError(
            "--run.wandb online: nobody is logged in to W&B here; run `wandb login`, or set "
            "WANDB_API_KEY, or give --run.wandb offline and upload the run later with `wandb sync`"
        )
    if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), timeout=10.0).close()
    except OSError as error:
        raise ValueError(
            f"--run.wandb online: W&B's server {settings.base_url} cannot be reached ({error}); "
            "give --run.wandb offline and upload the run later with `wandb sync`"
        ) from error


def _is_logged_in(settings: Any, host: str) -> bool:
    """Whether there is a key: in the environment, in settings, or in the netrc file."""
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return True
    names = (os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc")
    files = [Path(name).expanduser() for name in names if name]
    path = next((file for file in files if file.is_file()), None)
    try:
        return path is not None and netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


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

    settings = flatten(config)
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
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        options |= _recorded_start(run, group, continues)
    return WandbLogger(**options)


def _recorded_start(run: RunConfig, group: str, continues: bool) -> dict[str, Any]:
    """Note the W&B run in the folder; return what of the logger's options it decides."""
    record = TrackingRecord.load(run.folder)
    running = active_run()
    if running is not None and record.runs and running.id == record.runs[-1].id:
        return {"group": record.runs[-1].group, "experiment": running}  # a rollback
    agents_id = os.environ.get("WANDB_RUN_ID", "")
    start = record.next_start(run, group=group, continues=continues, run_id=agents_id)
    if start not in record.runs:
        record.runs.append(start)
    record.save(run.folder)
    # What `wandb agent` has decided is left to it.
    return {"group": start.group, "id": None if agents_id else start.id}


def best_values(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return `best/<metric>` and `best/<metric>_step` of every metric of validations.

    Losses and perplexities are best when lowest, everything else when highest; the earliest of
    equals counts, and a NaN never does.
    """
    best: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if not name.startswith("val/") or math.isnan(value):
                continue
            key, sign = f"best/{name}", -1 if name.endswith(("loss", "perplexity")) else 1
            if key not in best or sign * value > sign * best[key]:
                best |= {key: value, f"{key}_step": row["step"]}
    return best


def add_config(run: Any, values: Mapping[str, Any]) -> None:
    """Add settings to a run's configuration."""
    run.config.update(dict(values), allow_val_change=True)


def log_table(
    run: Any, key: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, step: int
) -> None:
    """Log a table at an optimiser step."""
    import wandb

    table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
    run.log({key: table, STEP_KEY: step})


def log_files(
    run: Any,
    files: Iterable[Path],
    *,
    name: str,
    type: str,
    metadata: Mapping[str, Any],
    alias: str,
    copied: bool = True,
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
