"""Which rows are in which batch: every row once, like lengths together, weights that add up."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.batches import BucketBatchSampler, accumulation_steps, evaluation_shard

sizes = st.tuples(
    st.integers(1, 150), st.integers(1, 24), st.integers(1, 8), st.integers(1, 5)
).filter(lambda drawn: drawn[1] >= drawn[3])
"""Rows, global batch, micro-batch, devices."""


def samplers(lengths, global_batch_size, micro_batch_size, num_devices, *, seed=7, epoch=0):
    made = []
    for rank in range(num_devices):
        sampler = BucketBatchSampler(
            lengths=lengths,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            num_devices=num_devices,
            rank=rank,
            seed=seed,
        )
        sampler.set_epoch(epoch)
        made.append(sampler)
    return made


def lengths_of(num_rows: int) -> np.ndarray:
    return np.random.default_rng(num_rows).integers(3, 200, num_rows)


@settings(max_examples=150, deadline=None)
@given(drawn=sizes)
def test_every_row_counts_once_and_no_micro_batch_is_empty_or_too_large(drawn) -> None:
    num_rows, _, micro_batch_size, _ = drawn
    ranks = samplers(lengths_of(num_rows), *drawn[1:])
    batches = [list(sampler) for sampler in ranks]
    assert {len(mine) for mine in batches} == {len(ranks[0])}
    assert all(1 <= len(batch) <= micro_batch_size for mine in batches for batch in mine)
    seen = [row for mine in batches for batch in mine for row, weight in batch if weight]
    assert sorted(seen) == list(range(num_rows))


@settings(max_examples=150, deadline=None)
@given(drawn=sizes)
def test_weights_give_the_mean_of_the_global_batch_on_any_number_of_devices(drawn) -> None:
    num_rows, global_batch_size, *_ = drawn
    losses = np.random.default_rng(1).normal(size=num_rows)
    ranks = samplers(lengths_of(num_rows), *drawn[1:])
    accumulation = ranks[0].accumulation
    batches = [list(sampler) for sampler in ranks]
    one_device = samplers(lengths_of(num_rows), global_batch_size, global_batch_size, 1)[0]
    for step, rows in enumerate(one_device.global_batches()):
        place = slice(step * accumulation, (step + 1) * accumulation)
        per_rank = [
            sum(sum(weight * losses[row] for row, weight in batch) for batch in mine[place])
            / accumulation
            for mine in batches
        ]
        assert np.mean(per_rank) == pytest.approx(losses[rows].mean())
    assert (step + 1) * accumulation == len(batches[0])


def test_the_same_seed_and_epoch_give_the_same_batches_and_others_do_not() -> None:
    lengths = lengths_of(100)
    first, again, next_epoch, other_seed = (
        list(samplers(lengths, 8, 8, 1, seed=seed, epoch=epoch)[0])
        for seed, epoch in ((7, 0), (7, 0), (7, 1), (8, 0))
    )
    assert first == again
    assert len({str(batches) for batches in (first, next_epoch, other_seed)}) == 3
    groups = [
        {frozenset(row for row, _ in batch) for batch in batches} for batches in (first, next_epoch)
    ]
    assert len(groups[0] & groups[1]) < 3, "other rows meet in the batches of another epoch"


def test_a_batch_smaller_than_the_others_comes_last_and_is_a_random_choice() -> None:
    lengths = np.arange(1000)
    rests = []
    for epoch in range(30):
        batches = samplers(lengths, 32, 32, 1, epoch=epoch)[0].global_batches()
        assert [len(batch) for batch in batches] == [32] * 31 + [8]
        rests.append(lengths[batches[-1]].mean())
    assert 400 < np.mean(rests) < 600


def test_the_order_of_batches_does_not_follow_their_lengths() -> None:
    batches = samplers(np.arange(3200), 32, 32, 1)[0].global_batches()
    means = [batch.mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def padding_share(lengths: np.ndarray, batches) -> float:
    used = sum(lengths[batch].sum() for batch in batches)
    return 1 - used / sum(lengths[batch].max() * len(batch) for batch in batches)


def test_batches_of_real_sst2_lengths_hold_little_padding(shared_dir) -> None:
    path = shared_dir / "data" / "glue" / "SST-2" / "train.tsv"
    with open(path, encoding="utf-8") as stream:
        table = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        lengths = np.array([len(row["sentence"].split()) + 2 for row in table])
    batches = samplers(lengths, 32, 32, 1)[0].global_batches()
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    random_batches = np.array_split(shuffled, len(batches))
    assert padding_share(lengths, batches) < 0.06
    assert padding_share(lengths, random_batches) > 0.5


def test_ranks_get_micro_batches_of_like_length_at_the_same_time() -> None:
    lengths = lengths_of(512)
    first, second = (list(sampler) for sampler in samplers(lengths, 64, 8, 2))
    longest = np.array(
        [[max(lengths[row] for row, _ in batch) for batch in mine] for mine in (first, second)]
    )
    assert np.abs(longest[0] - longest[1]).mean() < 10


@settings(max_examples=150, deadline=None)
@given(
    num_rows=st.integers(0, 120),
    num_ranks=st.integers(1, 7),
    batch_size=st.sampled_from([1, 5, 16]),
    equal=st.booleans(),
)
def test_evaluation_covers_every_row_exactly_once(num_rows, num_ranks, batch_size, equal) -> None:
    lengths = lengths_of(num_rows)
    shards = [
        evaluation_shard(
            lengths, num_ranks=num_ranks, rank=rank, batch_size=batch_size, equal_lengths=equal
        )
        for rank in range(num_ranks)
    ]
    batches = [batch for shard in shards for batch in shard]
    assert sorted(row for batch in batches for row in batch) == list(range(num_rows))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    if equal:
        assert all(len({lengths[row] for row in batch}) == 1 for batch in batches)
    if num_rows >= num_ranks:
        assert all(shards)
    for shard in shards:
        flat = [lengths[row] for batch in shard for row in batch]
        assert flat == sorted(flat, reverse=True)


def test_ranks_evaluate_the_same_number_of_batches_where_there_are_enough_rows() -> None:
    def counts(*, equal: bool) -> set[int]:
        return {
            len(
                evaluation_shard(
                    lengths_of(872), num_ranks=3, rank=rank, batch_size=64, equal_lengths=equal
                )
            )
            for rank in range(3)
        }

    assert counts(equal=False) == {5}
    assert len(counts(equal=True)) == 1


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "expected"),
    [(32, 32, 1, 1), (32, 8, 2, 2), (8, 32, 2, 1), (32, 5, 3, 3)],
)
def test_as_few_forward_passes_as_memory_allows(batch, micro, devices, expected) -> None:
    assert accumulation_steps(batch, micro, devices) == expected
    assert expected == math.ceil(batch / (micro * devices))


def test_more_devices_than_rows_in_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="global_batch_size is 4 but there are 8 devices"):
        accumulation_steps(4, 4, 8)
    with pytest.raises(ValueError, match="micro_batch_size is 0; 1 or more"):
        accumulation_steps(4, 0, 1)
    with pytest.raises(ValueError, match="no training rows"):
        BucketBatchSampler(lengths=np.array([]), global_batch_size=4, micro_batch_size=4)
