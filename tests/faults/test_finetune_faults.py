"""Fine-tuning fits that are killed, signalled and started twice, as real processes.

Every test compares with a twin that was left alone: metrics, result and weights, to the bit.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS / "finetune"))

from finetune_runs import VOCAB, assert_same_story, fit_arguments, write_bundle  # noqa: E402

from data_prep.tokenizer import wordpiece_from_vocab  # noqa: E402
from training.checkpoints.storage import saved_checkpoints  # noqa: E402

pytestmark = pytest.mark.faults
BOUND_S = 180.0
"""How long any of these processes may take, start-up included; a hang fails the test."""
OPTIONS = (
    *("--data.global_batch_size", "4", "--trainer.max_epochs", "3"),
    *("--run.save_every_n_minutes", "0.002"),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    wordpiece_from_vocab(VOCAB, lowercase=True).save(str(folder / "tokenizer.json"))
    return write_bundle(folder / "bundle", folder / "tokenizer.json")


@pytest.fixture(scope="module")
def undisturbed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    assert ended(start(bundle, folder, "whole")) == 0
    return folder / "whole"


def start(bundle: Path, folder: Path, name: str) -> subprocess.Popen[bytes]:
    arguments = fit_arguments(bundle, folder, name, *OPTIONS, num_train=320, test=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "finetune", *arguments],
            env=environment,
            cwd=TESTS.parent,
            stdout=log,
            stderr=log,
        )


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(BOUND_S)


def wait_for_step(run: Path, process: subprocess.Popen[bytes], step: int) -> None:
    """Return when the run has a checkpoint of this step or a later one, or has ended."""
    until = time.monotonic() + BOUND_S
    while process.poll() is None and time.monotonic() < until:
        if any(saved.step >= step for saved in saved_checkpoints(run / "resume")):
            return
        time.sleep(0.01)


def test_a_fit_killed_again_and_again_equals_one_left_alone(
    bundle: Path, undisturbed: Path
) -> None:
    generator = random.Random(1)
    run = undisturbed.parent / "killed"
    for step in (1, 50, 90, 130, 170, 200):
        process = start(bundle, undisturbed.parent, "killed")
        wait_for_step(run, process, step)
        time.sleep(generator.random() / 5)
        process.kill()
        ended(process)
    assert ended(start(bundle, undisturbed.parent, "killed")) == 0
    assert_same_story(run, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signalled_fit_goes_on_when_its_command_is_run_again(
    bundle: Path, undisturbed: Path, number: signal.Signals, code: int
) -> None:
    run = undisturbed.parent / number.name
    process = start(bundle, undisturbed.parent, number.name)
    wait_for_step(run, process, 60)
    process.send_signal(number)
    assert ended(process) == code
    assert ended(start(bundle, undisturbed.parent, number.name)) == 0
    assert_same_story(run, undisturbed)


def test_two_fits_of_one_name_make_one_run(bundle: Path, undisturbed: Path) -> None:
    run = undisturbed.parent / "twice"
    first = start(bundle, undisturbed.parent, "twice")
    wait_for_step(run, first, 1)
    first.send_signal(signal.SIGSTOP)  # still at work when the second has started
    assert ended(start(bundle, undisturbed.parent, "twice")) == 2
    first.send_signal(signal.SIGCONT)
    assert ended(first) == 0
    assert_same_story(run, undisturbed)
