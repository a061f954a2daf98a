"""Signals to the ranks of a distributed run, and checkpoints damaged between two starts.

The ranks of all runs are one pair of processes, started by torchrun.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pretrain"))

from pretrain_corpora import tiny_corpus, tiny_options  # noqa: E402
from pretrain_faults import assert_same_story, fault_options, injected  # noqa: E402
from strategy_ranks import job, run_jobs  # noqa: E402

from pretrain.cli import main  # noqa: E402
from training.checkpoints.storage import LISTING, STATE_FILE, load_checkpoint, saved_checkpoints  # noqa: E402

pytestmark = pytest.mark.faults
PLACES = {
    "while the loaders start": ("train_start", 0),
    "in a step": ("train_batch_start", 7),
    "in a save": ("save", 6),
    "in a validation": ("validation_batch_end", 8),
    "after a validation": ("validation_end", 8),
}
RANKS = {"first rank": 0, "second rank": 1, "all ranks": -1}
SIGNALS = [("SIGTERM", 1, rank) for rank in RANKS] + [
    ("SIGTERM", 2, "all ranks"),
    ("SIGUSR1", 1, "second rank"),
    ("SIGINT", 1, "first rank"),
]
CASES = list(itertools.product(PLACES, SIGNALS))


def options(shards: Path, root: Path, name: str) -> list[str]:
    return [
        *tiny_options(shards, root),
        *("--run.name", name, "--data.micro_batch_size", "2", "--trainer.max_steps", "12"),
        *("--run.eval_every_n_steps", "4", "--preemption.poll_every_n_steps", "2"),
        *("--checkpoints.every_n_steps", "3", "--trainer.enable_progress_bar", "false"),
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def ranks(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """All stopped runs, each followed by the same command without the signal."""
    root = tmp_path_factory.mktemp("signals")
    jobs = [job("ddp", *options(shards, root, "alone"))]
    for number, (place, (kind, times, rank)) in enumerate(CASES):
        hook, step = PLACES[place]
        given = options(shards, root, f"case-{number}")
        fault = fault_options(hook, step, kind=kind, times=times, rank=RANKS[rank])
        jobs += [job("ddp", *given, *fault), job("ddp", *given)]
    results = run_jobs(root, jobs, timeout_s=900)
    return root, [[rank["code"] for rank in result["ranks"]] for result in results]


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=[f"{s[0]} x{s[1]}, {s[2]}, {p}" for p, s in CASES]
)
def test_a_signal_stops_all_ranks_with_a_checkpoint_and_the_next_start_goes_on_exactly(
    number: int, ranks: tuple[Path, Any]
) -> None:
    root, codes = ranks
    stopped, finished = codes[1 + 2 * number], codes[2 + 2 * number]
    expected = 130 if CASES[number][1][0] == "SIGINT" else 75
    assert stopped == [expected, expected] and finished == [0, 0]
    assert_same_story(root / f"case-{number}", root / "alone")


Damage = Callable[[Path], Any]
DAMAGES: dict[str, Damage] = {
    "truncated": lambda path: os.truncate(path / STATE_FILE, 1000),
    "emptied": lambda path: os.truncate(path / STATE_FILE, 0),
    "a flipped bit": lambda path: _flip_a_bit(path / STATE_FILE),
    "deleted": lambda path: (path / STATE_FILE).unlink(),
    "deleted as a whole": shutil.rmtree,
    "its digest deleted": lambda path: (path / LISTING).unlink(),
    "its digest empty": lambda path: (path / LISTING).write_text(""),
}


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(
    damage: str, shards: Path, tmp_path: Path
) -> None:
    assert main(["fit", *options(shards, tmp_path, "alone")]) == 0
    given = options(shards, tmp_path, "damaged")
    fault = fault_options("train_batch_start", 10, kind="SIGTERM")
    assert main(["fit", *given, *fault]) == 75
    DAMAGES[damage](saved_checkpoints(tmp_path / "damaged" / "checkpoints")[-1].path)
    assert main(["fit", *given]) == 0
    assert_same_story(tmp_path / "damaged", tmp_path / "alone")


@pytest.mark.parametrize("action", ["stop", "rollback"])
@pytest.mark.parametrize("kind", ["gradient", "weights", "jump"])
@pytest.mark.parametrize("every", ["1", "4", "100"])
def test_a_state_that_is_not_finite_is_never_saved(
    every: str, kind: str, action: str, shards: Path, tmp_path: Path
) -> None:
    poison = injected(("Poison", {"first": 70, "last": 70, "kind": kind}))
    given = [*options(shards, tmp_path, "bad"), "--guards.every_n_steps", every]
    given += ["--guards.action", action, "--trainer.max_steps", "16"]
    code = main(["fit", *given, *poison])
    assert code == 0 if action == "rollback" or kind == "jump" else code == 77
    for saved in saved_checkpoints(tmp_path / "bad" / "checkpoints"):
        weights = load_checkpoint(saved.path)["state_dict"].values()
        assert all(weight.isfinite().all() for weight in weights)
