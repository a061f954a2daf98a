"""Runs several commands one after the other on two ranks: `torchrun` starts this file for each.

Start-up costs most of a short run, so all runs of a test share it. The exit codes and errors of a
rank go to `<jobs file>.rank<r>.json`.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run_on_two_ranks(folder: Path, jobs: list[list[str]]) -> list[list[dict[str, Any]]]:
    """Run the commands; returns, for each of them, exit code and stderr of rank 0 and 1."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(Path(__file__).resolve()), str(path)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    files = [Path(f"{path}.rank{rank}.json") for rank in range(2)]
    assert done.returncode == 0 and all(f.exists() for f in files), done.stderr[-8000:]
    ranks = [json.loads(file.read_text()) for file in files]
    return [list(pair) for pair in zip(*ranks, strict=True)]


def main(jobs_file: str) -> None:
    """Run every job in this process, one rank of two."""
    from finetune.cli import main as command

    results = []
    for arguments in json.loads(Path(jobs_file).read_text()):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = command(arguments)
        results.append({"code": code, "stderr": errors.getvalue()[-4000:]})
    Path(f"{jobs_file}.rank{os.environ['RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main(sys.argv[1])
