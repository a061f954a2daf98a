"""Training runs that are killed, signalled and preempted, as real processes.

Every test compares with a twin that was left alone: all metrics and the final state, to the bit.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "pretrain"))

from pretrain_corpora import tiny_corpus, tiny_options  # noqa: E402
from pretrain_faults import assert_same_story  # noqa: E402

from pretrain.run_config import RUN_FILES  # noqa: E402
from training.checkpoints.storage import newest_valid  # noqa: E402
from training.run_folder import LOCK_FILE, MOVED, sole_writer  # noqa: E402

pytestmark = pytest.mark.faults
STEPS = 40
BOUND_S = 90.0
"""How long any of these processes may take, start-up included; a hang fails the test."""


class Runs:
    """Starts runs of one corpus as processes of their own."""

    def __init__(self, shards: Path, root: Path) -> None:
        self.shards, self.root = shards, root

    def options(self, name: str, *more: str, devices: int = 1) -> list[str]:
        given = [*tiny_options(self.shards, self.root), "--run.name", name]
        given += ["--trainer.max_steps", str(STEPS), "--run.eval_every_n_steps", "8"]
        given += ["--data.micro_batch_size", "2", "--checkpoints.every_n_steps", "3"]
        given += ["--data.num_workers", "1", "--preemption.poll_every_n_steps", "2"]
        if devices > 1:
            given += ["--trainer.devices", str(devices), "--trainer.strategy", "ddp"]
        return [*given, *more]

    def start(self, options: list[str]) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(TESTS / "pretrain"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "pretrain", "fit", *options],
            cwd=TESTS.parent,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, options: list[str]) -> int:
        """Exit code of a run that is left alone."""
        process = self.start(options)
        _, said = process.communicate(timeout=BOUND_S)
        assert process.returncode is not None, said
        return process.returncode

    def steps_done(self, name: str) -> int:
        path = self.root / name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line)["step"] or 0 for line in lines[:-1]), default=0)

    def when(self, name: str, step: int, process: subprocess.Popen[str]) -> None:
        """Wait until a run has logged a step."""
        end = time.monotonic() + BOUND_S
        while self.steps_done(name) < step:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, f"{name} does not reach step {step}"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    made = Runs(tiny_corpus(root / "corpus"), root)
    assert made.finish(made.options("alone")) == 0
    assert made.finish(made.options("alone2", devices=2)) == 0
    return made


def processes_of(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                state, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(own) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


def assert_nothing_left(group: int) -> None:
    """No process of a run outlives it by more than its workers need to notice."""
    end = time.monotonic() + 20
    while processes_of(group) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_of(group)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize("devices", [1, 2])
def test_kill_9_of_all_processes_at_random_moments_leaves_no_trace(
    devices: int, asynchronous: str, runs: Runs
) -> None:
    name, luck = f"killed{devices}{asynchronous}", random.Random(devices)
    options = runs.options(name, "--checkpoints.asynchronous", asynchronous, devices=devices)
    for target in sorted(luck.sample(range(1, STEPS), 3 if devices == 1 else 2)):
        process = runs.start(options)
        runs.when(name, target, process)
        time.sleep(luck.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert runs.finish(options) == 0
    assert_same_story(runs.root / name, runs.root / ("alone" if devices == 1 else "alone2"))


@pytest.mark.parametrize("whom", ["first rank", "second rank"])
def test_kill_9_of_one_rank_ends_the_others_and_leaves_no_trace(whom: str, runs: Runs) -> None:
    name = "lost-" + whom.replace(" ", "-")
    options = runs.options(name, devices=2)
    process = runs.start(options)
    runs.when(name, 10, process)
    ranks = [pid for pid in processes_of(process.pid) if _is_rank(pid)]
    os.kill(process.pid if whom == "first rank" else max(ranks), signal.SIGKILL)
    process.communicate(timeout=BOUND_S)
    assert process.returncode != 0
    assert_nothing_left(process.pid)
    assert runs.finish(options) == 0
    assert_same_story(runs.root / name, runs.root / "alone2")


def _is_rank(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    workers = b"pt_data_worker" in Path(f"/proc/{pid}/comm").read_bytes()
    return b"pretrain" in command and not workers and parent > 1


@pytest.mark.parametrize(
    "devices, kind", [(1, "SIGTERM"), (2, "SIGTERM"), (2, "SIGUSR1"), (2, "SIGINT")]
)
def test_a_signal_to_the_whole_process_group_also_reaches_the_data_workers(
    devices: int, kind: str, runs: Runs
) -> None:
    name = f"group-{kind}-{devices}"
    options = runs.options(name, devices=devices)
    process = runs.start(options)
    runs.when(name, 7, process)
    os.killpg(process.pid, getattr(signal, kind))
    _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == (130 if kind == "SIGINT" else 75), said
    assert_nothing_left(process.pid)
    assert newest_valid(runs.root / name / "checkpoints", warn=pytest.fail) is not None
    assert runs.finish(options) == 0
    assert_same_story(runs.root / name, runs.root / ("alone" if devices == 1 else "alone2"))


@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_twice_stops_at_once_and_leaves_nothing_running(devices: int, runs: Runs) -> None:
    name = f"twice-{devices}"
    options = runs.options(name, devices=devices)
    process = runs.start(options)
    runs.when(name, 7, process)
    os.kill(process.pid, signal.SIGSTOP)  # both signals then arrive before the next step
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    for _ in range(200):
        try:
            os.kill(process.pid, signal.SIGINT)
        except ProcessLookupError:
            break
        time.sleep(0.002)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert_nothing_left(process.pid)
    assert runs.finish(options) == 0
    assert_same_story(runs.root / name, runs.root / ("alone" if devices == 1 else "alone2"))


def test_a_time_budget_in_pieces_makes_the_same_run(runs: Runs) -> None:
    codes = []
    for _ in range(12):
        codes.append(runs.finish(runs.options("budget", "--max_time", "14s")))
        if codes[-1] == 0:
            break
    assert set(codes[:-1]) <= {75} and codes[-1] == 0
    assert_same_story(runs.root / "budget", runs.root / "alone")


def test_of_two_fits_of_one_name_started_together_one_trains_and_the_other_is_told(
    runs: Runs,
) -> None:
    options = runs.options("two")
    both = [runs.start(options), runs.start(options)]
    said = [process.communicate(timeout=BOUND_S)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    trained = both[codes.index(0)].pid
    assert f"two is in use: fit (process {trained} on " in said[codes.index(2)]
    assert_same_story(runs.root / "two", runs.root / "alone")


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("moment", ["begins", "has begun"])
def test_kill_9_while_an_earlier_run_is_replaced_leaves_that_one_or_the_new_one(
    moment: str, devices: int, runs: Runs
) -> None:
    name = f"replaced-{devices}-{moment.replace(' ', '-')}"
    folder = shutil.copytree(runs.root / "alone", runs.root / name, symlinks=True)
    before = _content(folder)
    process = runs.start(runs.options(name, "--run.overwrite", "true", devices=devices))
    end = time.monotonic() + BOUND_S
    while not (folder / MOVED).exists() if moment == "begins" else _content(folder) == before:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    if moment == "has begun":
        runs.when(name, 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    had_begun = not (folder / MOVED).exists()
    with sole_writer(folder, own=RUN_FILES, doing="test"):
        assert had_begun or _content(folder) == before
    assert had_begun or moment == "begins"
    assert runs.finish(runs.options(name, devices=devices)) == 0
    twin = "alone2" if had_begun and devices == 2 else "alone"
    assert_same_story(folder, runs.root / twin)


def _content(folder: Path) -> dict[str, bytes]:
    """What every file of a run holds, without the lock."""
    found = {}
    for place, _, names in os.walk(folder):  # passes over a folder that is moved meanwhile
        for path in (Path(place) / name for name in names if name != LOCK_FILE):
            with contextlib.suppress(OSError):  # so was a file
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found
