"""Runs several `fit`s one after the other on two ranks: `torchrun` starts this file for each rank.

Start-up costs most of a short run, so all runs of a test share it. Results go to
`<jobs file>.rank<r>.json`: for each job its exit code and what it printed on stderr.
"""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs" / "strategy"


def job(
    strategy: str, *options: str, disk_full_on: int = -1, unreadable_on: int = -1
) -> dict[str, Any]:
    """One `fit` under a config of `configs/strategy`, on two CPU processes.

    Args:
        strategy: Name of the config.
        options: What else is on the command line.
        disk_full_on: This rank finds the disk full when it writes its optimiser state.
        unreadable_on: This rank cannot read the newest checkpoint when it looks for one.
    """
    config = str(CONFIGS / f"{strategy}.yaml")
    arguments = ["fit", "--config", config, "--trainer.devices", "2", *options]
    faults = {"disk_full_on": disk_full_on, "unreadable_on": unreadable_on}
    return {"arguments": arguments, **faults}


def run_jobs(folder: Path, jobs: list[dict[str, Any]], *, timeout_s: float = 600) -> list[dict]:
    """Run the jobs on two ranks; returns the results of rank 0 and 1 for each of them."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, str(Path(__file__).resolve()), str(path)],
        cwd=CONFIGS.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    files = [path.with_suffix(f".json.rank{rank}.json") for rank in range(2)]
    assert done.returncode == 0 and all(f.exists() for f in files), done.stderr[:8000]
    ranks = [json.loads(file.read_text()) for file in files]
    return [{"ranks": list(pair)} for pair in zip(*ranks, strict=True)]


@contextlib.contextmanager
def full_disk(active: bool) -> Iterator[None]:
    """Let torch.save fail for this rank's optimiser state."""
    import torch

    save = torch.save

    def failing(content: Any, target: Any, **options: Any) -> None:
        if "optim_states" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        save(content, target, **options)

    torch.save = failing if active else save
    try:
        yield
    finally:
        torch.save = save


@contextlib.contextmanager
def unreadable_newest(active: bool) -> Iterator[None]:
    """Let the first look at a checkpoint fail on this rank."""
    from training.checkpoints import storage

    verify, looks = storage.verify_checkpoint, []

    def failing(path: Path) -> None:
        looks.append(path)
        if len(looks) == 1:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        verify(path)

    storage.verify_checkpoint = failing if active else verify
    try:
        yield
    finally:
        storage.verify_checkpoint = verify


def main(jobs_file: str) -> None:
    """Run every job in this process, one rank of two."""
    from pretrain.cli import main as command

    rank, results = int(os.environ["RANK"]), []
    for entry in json.loads(Path(jobs_file).read_text()):
        errors = io.StringIO()
        disk, unreadable = entry["disk_full_on"] == rank, entry["unreadable_on"] == rank
        with contextlib.redirect_stderr(errors), full_disk(disk), unreadable_newest(unreadable):
            code = command(entry["arguments"])
        results.append({"code": code, "stderr": errors.getvalue()[-4000:]})
    Path(f"{jobs_file}.rank{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.path.insert(0, str(CONFIGS.parent.parent))
    main(sys.argv[1])
