"""Two ranks: stopped together wherever the signal went, and resumed on any number of devices."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from pretrain_corpora import tiny_options
from pretrain_faults import assert_same_story, fault_options, story
from strategy_ranks import job, run_jobs

from pretrain.cli import main

STEPS = 14
MUON = ("--model.optimizer.matrices", "muon")
FAULTS = {
    "one rank, in a step": ("train_batch_start", 7, {"rank": 1}),
    "all ranks twice, in a validation": ("validation_batch_end", 8, {"times": 2}),
    "the other rank, in a save": ("save", 4, {"rank": 1}),
    "one rank, at the start": ("train_start", 0, {"rank": 1}),
}


def options(shards: Path, root: Path, name: str) -> list[str]:
    return [
        *tiny_options(shards, root),
        *("--run.name", name, "--data.micro_batch_size", "2", "--trainer.max_steps", str(STEPS)),
        *("--run.eval_every_n_steps", "4", "--preemption.poll_every_n_steps", "2"),
        *("--data.eval_examples", "15", "--data.eval_batch_size", "2"),
        *("--trainer.log_every_n_steps", "3"),  # runs are stopped inside of what a line is about
    ]


def stopped(place: str) -> list[str]:
    hook, step, more = FAULTS[place]
    return fault_options(hook, step, kind="SIGTERM", **more)


def damaged_copy(shards: Path, folder: Path) -> Path:
    """A copy of some shards that only their hashes tell from them."""
    copy = Path(shutil.copytree(shards, folder / "damaged_shards"))
    tokens = copy / "train" / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"\x01")
    return copy


@pytest.fixture(scope="module")
def ranks(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every run of two ranks that these tests look at, in one pair of processes."""
    root = tmp_path_factory.mktemp("ranks")
    names = ("alone", "to-one", "one-device", "muon", "muon-one-device")
    given = {name: options(tiny_shards, root, name) for name in names}
    assert main(["fit", *given["one-device"]]) == 0
    assert main(["fit", *given["muon-one-device"], *MUON]) == 0
    given |= {place: options(tiny_shards, root, f"stopped-{i}") for i, place in enumerate(FAULTS)}
    single = options(tiny_shards, root, "one-then-two")
    assert main(["fit", *single, *fault_options("train_batch_start", 7, kind="SIGTERM")]) == 75
    jobs = [job("ddp", *given["alone"]), job("ddp", *single)]
    jobs += [job("ddp", *given["to-one"], *stopped("one rank, in a step"))]
    for place in FAULTS:
        jobs += [job("ddp", *given[place], *stopped(place)), job("ddp", *given[place])]
    jobs += [job("ddp", *options(damaged_copy(tiny_shards, root), root, "damaged"))]
    jobs += [job("ddp", *given["alone"], unreadable_on=1), job("ddp", *given["muon"], *MUON)]
    results = run_jobs(root, jobs)
    assert main(["fit", *given["to-one"]]) == 0
    codes = [[rank["code"] for rank in result["ranks"]] for result in results]
    said = [result["ranks"][0]["stderr"] for result in results]
    return {"root": root, "codes": codes, "said": said}


@pytest.mark.parametrize("place", FAULTS)
def test_a_signal_stops_all_ranks_with_a_checkpoint_and_they_go_on_as_one(
    place: str, ranks: dict[str, Any]
) -> None:
    number = list(FAULTS).index(place)
    first = 3 + 2 * number
    assert ranks["codes"][first : first + 2] == [[75, 75], [0, 0]], ranks["said"][first]
    assert "the same command goes on" in ranks["said"][first]
    assert_same_story(ranks["root"] / f"stopped-{number}", ranks["root"] / "alone")


def test_shards_that_the_first_rank_finds_damaged_end_all_ranks(ranks: dict[str, Any]) -> None:
    assert ranks["codes"][-3] == [2, 2] and "damaged_shards" in ranks["said"][-3]
    assert not (ranks["root"] / "damaged").exists()


def test_ranks_that_found_different_checkpoints_all_end_before_anything_is_trained(
    ranks: dict[str, Any],
) -> None:
    assert ranks["codes"][-2] == [2, 2]
    assert "(rank 0: step-00000014.ckpt; rank 1: step-00000012.ckpt)" in ranks["said"][-2]


@pytest.mark.parametrize("name", ["to-one", "one-then-two"])
def test_another_number_of_devices_goes_on_with_the_same_samples(
    name: str, ranks: dict[str, Any]
) -> None:
    ours, theirs = story(ranks["root"] / name), story(ranks["root"] / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        losses = {key: value for key, value in row.items() if key.endswith("loss")}
        assert losses == pytest.approx({key: other[key] for key in losses}, abs=1e-5)


def test_one_device_and_two_train_alike(ranks: dict[str, Any]) -> None:
    ours, theirs = story(ranks["root"] / "one-device"), story(ranks["root"] / "alone")
    for row, other in zip(ours, theirs, strict=True):
        assert row.get("train/loss") == pytest.approx(other.get("train/loss"), abs=1e-5)


def test_one_device_and_two_train_alike_with_muon(ranks: dict[str, Any]) -> None:
    ours, theirs = story(ranks["root"] / "muon-one-device"), story(ranks["root"] / "muon")
    assert ranks["codes"][-1] == [0, 0] and len(ours) == len(theirs)
    for row, other in zip(ours, theirs, strict=True):  # its products have 8 bits
        assert row.get("train/loss") == pytest.approx(other.get("train/loss"), abs=2e-3)
