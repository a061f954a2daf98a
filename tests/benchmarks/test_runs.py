"""Worker processes of the studies."""

import os
import subprocess
import sys
import time

STUDY = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from benchmarks.runs import end_with_parent

def work():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
        pool.submit(work).result()
"""


def is_alive(number: int) -> bool:
    command = ["ps", "-o", "stat=", "-p", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.startswith("Z")


def test_the_workers_of_a_study_that_is_killed_end_with_it(repository, tmp_path):
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, str(script)]
    study = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    worker = int(study.stdout.readline())
    assert is_alive(worker)
    study.kill()
    study.wait()
    until = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(worker)
