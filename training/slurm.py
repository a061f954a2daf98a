"""Asking SLURM to run this job again."""

import os
import shutil
import subprocess

from training.interruption import say

_TIMEOUT_S = 30


def requeue() -> None:
    """Put the current job back into the queue; a failure is said, never raised.

    Called on one rank, after the checkpoint is saved.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    if job is None:
        say("preemption.requeue is on, but this is no SLURM job (no SLURM_JOB_ID); nothing done")
        return
    if shutil.which("scontrol") is None:
        say(f"job {job} cannot be requeued from here: scontrol is not on the PATH")
        return
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (subprocess.SubprocessError, OSError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        say(f"job {job} could not be requeued: {detail.strip()}")
    else:
        say(f"job {job} goes back into the queue")
