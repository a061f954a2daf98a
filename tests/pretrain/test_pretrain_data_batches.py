"""Batches: the input format, segments, and independence from everything around an example."""

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_corpora import CLS, MASK, PAD, SEP, Documents, make_shards, random_documents

from data_prep.shards import TokenShards
from pretrain.batches import Batch, PretrainDataset, SegmentConfig
from pretrain.loader import BatchLoader, pack_batch, read_ahead, unpack_batch
from pretrain.objectives import OBJECTIVES
from pretrain.packing import PackingConfig


def dataset(
    shards: TokenShards,
    *,
    max_len: int = 48,
    name: str = "mlm_sso",
    segments: SegmentConfig | None = None,
) -> PretrainDataset:
    return PretrainDataset(
        shards,
        OBJECTIVES[name],
        PackingConfig(max_len=max_len),
        segments=segments or SegmentConfig(),
        seed=1,
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    documents: Documents = random_documents(60, seed=6)
    documents += [[list(range(5, 150))], [[7], [8], [9]]]
    return make_shards(tmp_path_factory.mktemp("batches"), documents, num_continuations=50)


def original_ids(batch: Batch) -> torch.Tensor:
    """The input with the hidden tokens put back."""
    ids = batch["input_ids"].clone()
    row, slot = torch.nonzero(batch["masked_labels"] != -100, as_tuple=True)
    ids[row, batch["masked_positions"][row, slot]] = batch["masked_labels"][row, slot]
    return ids


def slow_segments(texts: list[list[list[int]]], max_len: int) -> list[int]:
    """Segment ids of one row from its two texts, each a list of pieces."""
    ids, current = [0], 0
    for text in texts:
        for piece in text:
            current += 1
            ids += [current] * len(piece)
        current += 1
        ids.append(current)
    return ids + [current + 1] * (max_len - len(ids))


def pieces(shards: TokenShards, start: int, end: int, rule: str, size: int) -> list[list[int]]:
    """A text cut into its segments, one token at a time."""
    borders = set(np.asarray(shards.sentence_offsets).tolist())
    found: list[list[int]] = []
    for place in range(start, end):
        new = place == start
        new |= rule == "sentence" and place in borders
        new |= rule == "fixed" and (place - start) % size == 0
        if new:
            found.append([])
        found[-1].append(int(shards.tokens[place]))
    return found


@pytest.mark.parametrize("rule", ["sentence", "text", "fixed"])
def test_rows_equal_a_token_by_token_reference(shards: TokenShards, rule: str) -> None:
    config = SegmentConfig(rule=rule, tokens_per_segment=5)
    data = dataset(shards, segments=config)
    plan = data.plan(0)
    samples = list(range(len(plan)))
    batch = data.__getitems__(samples)
    ids = original_ids(batch)
    for row in samples:
        a_end = plan.a_start[row] + plan.a_len[row]
        b_end = plan.b_start[row] + plan.b_len[row]
        texts = [
            pieces(shards, plan.a_start[row], a_end, rule, 5),
            pieces(shards, plan.b_start[row], b_end, rule, 5),
        ]
        one, two = (sum(text, []) for text in texts)
        tokens = [CLS, *one, SEP, *two, SEP]
        padding = 48 - len(tokens)
        assert ids[row].tolist() == tokens + [PAD] * padding
        assert batch["mask"][row].tolist() == [True] * len(tokens) + [False] * padding
        types = [0] * (len(one) + 2) + [1] * (len(two) + 1) + [0] * padding
        assert batch["token_type_ids"][row].tolist() == types
        special = [place in (0, len(one) + 1, len(tokens) - 1) for place in range(48)]
        assert batch["special_mask"][row].tolist() == special
        assert batch["segment_ids"][row].tolist() == slow_segments(texts, 48)
        assert batch["pair_labels"][row] == plan.label[row]
    assert batch["segment_ids"].max() < 48
    assert batch["example_ids"].tolist() == samples


def test_segment_ids_stay_below_the_length_with_one_token_sentences(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[[5]] * 300, [[6]] * 200])
    batch = dataset(shards, max_len=16).__getitems__(range(20))
    assert int(batch["segment_ids"].max()) == 15


def test_special_tokens_and_padding_are_never_masked(shards: TokenShards) -> None:
    data = dataset(shards)
    batch = data.__getitems__(range(len(data)))
    used = batch["masked_labels"] != -100
    for name, expected in (("special_mask", False), ("mask", True)):
        at = torch.gather(batch[name], 1, batch["masked_positions"])[used]
        assert (at == expected).all()
    assert (used.sum(1) >= 1).all()
    assert (batch["input_ids"] == MASK).sum() > 0.7 * used.sum()


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_example_is_the_same_in_any_batch_and_in_a_fresh_process(shards: TokenShards) -> None:
    data = dataset(shards)
    size = len(data)
    samples = [0, 5, size - 1, size, size + 3, 3 * size]
    together = data.__getitems__(samples)
    backwards = dataset(shards).__getitems__(samples[::-1])
    assert same(together, {name: value.flip(0) for name, value in backwards.items()})
    copy = pickle.loads(pickle.dumps(data))
    for row, sample in enumerate(samples):
        alone = copy.__getitems__([sample])
        assert same(alone, {name: value[row : row + 1] for name, value in together.items()})


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(shards: TokenShards, workers: int) -> None:
    chosen = [list(range(first, first + 7)) for first in range(0, 70, 7)]
    plain = [dataset(shards).__getitems__(samples) for samples in chosen]
    loader = BatchLoader(
        dataset(shards), batch_sampler=chosen, collate_fn=pack_batch, num_workers=workers
    )
    for expected, got in zip(plain, loader, strict=True):
        assert same(expected, got)


def test_packing_a_batch_for_transport_keeps_every_tensor(shards: TokenShards) -> None:
    batch = dataset(shards).__getitems__(range(5))
    received = unpack_batch(pack_batch(batch))
    assert received.keys() == batch.keys() and same(batch, received)
    assert all(value.dtype == received[name].dtype for name, value in batch.items())


def test_the_same_text_gets_new_masks_in_every_epoch(tmp_path: Path) -> None:
    shards = make_shards(tmp_path, [[[5 + n] * 6] for n in range(30)])
    data = dataset(shards, max_len=24, name="mlm")
    size = len(data)
    epochs = [data.__getitems__(range(e * size, (e + 1) * size)) for e in (0, 1)]
    texts = [sorted(original_ids(batch).tolist()) for batch in epochs]
    shown = [sorted(batch["input_ids"].tolist()) for batch in epochs]
    assert texts[0] == texts[1] and shown[0] != shown[1]


def test_samples_fall_into_consecutive_epochs(shards: TokenShards) -> None:
    stream = dataset(shards)
    sizes = [len(stream.plan(epoch)) for epoch in range(4)]
    samples = np.arange(sum(sizes))
    epoch, row = stream.locate(samples)
    assert epoch.tolist() == np.repeat(range(4), sizes).tolist()
    assert row.tolist() == [place for size in sizes for place in range(size)]
    assert stream.known_sizes[:4] == sizes


def test_known_sizes_save_planning_and_must_agree(shards: TokenShards) -> None:
    stream, later = dataset(shards), dataset(shards)
    stream.locate(np.array([0]))
    size = stream.known_sizes[0]
    later.remember_sizes([size, 10_000_000])
    assert later.locate(np.array([size + 5]))[0].tolist() == [1]
    assert not later._plans
    with pytest.raises(ValueError, match="other data"):
        stream.remember_sizes([size + 1])


def test_segment_length_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SegmentConfig(rule="fixed", tokens_per_segment=0)


def test_reading_ahead_changes_neither_items_nor_order_nor_errors() -> None:
    def source() -> Iterator[int]:
        yield from range(50)
        raise OSError("the disk is gone")

    items = read_ahead(source())
    assert [next(items) for _ in range(50)] == list(range(50))
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert list(read_ahead(iter([]))) == []


def test_what_is_read_ahead_is_one_item_and_the_one_in_work() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    items = read_ahead(source())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert "read-ahead" not in [thread.name for thread in threading.enumerate()]
    assert len(taken) <= 3 + 2


def test_an_iteration_that_is_left_early_disturbs_no_later_one(shards: TokenShards) -> None:
    data = dataset(shards)
    chosen = [list(range(first, first + 4)) for first in range(0, 40, 4)]
    loader = BatchLoader(
        data, batch_sampler=chosen, collate_fn=pack_batch, num_workers=2, persistent_workers=True
    )
    expected = [data.__getitems__(samples) for samples in chosen]
    left = iter(loader)
    assert [same(wanted, next(left)) for wanted in expected[:3]] == [True] * 3
    for _ in range(2):
        for wanted, batch in zip(expected, loader, strict=True):
            assert same(wanted, batch)
    assert list(left) == []
