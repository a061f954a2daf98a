"""Batches that are sorted and cut, the schedule, and self-pretraining's loss."""

import dataclasses
import math
from itertools import islice

import numpy as np
import pytest
import torch
from lra_runs import write_encoder
from torch.nn.functional import cross_entropy

from finetune.lra.batches import DeviceSplit, EvaluationBatches, Layout, TrainBatches
from finetune.lra.encoders import make_encoder, read_lra_encoder
from finetune.lra.schedule import OneCycle
from finetune.lra.self_pretraining import TokenGuesser
from finetune.lra.splits import LraSplit, padded, token_entropy
from finetune.lra.tasks import IMAGE, LISTOPS, TASKS
from ponet.heads import MeanClassifier
from ponet.segments import segments_from_count

TASK = dataclasses.replace(LISTOPS, length=64)
LAYOUT = Layout(num_segments=4, zeros_are_padding=False, cuts=True)
CPU = torch.device("cpu")


@pytest.fixture
def split():
    generator = np.random.default_rng(3)
    samples = [generator.integers(1, 16, size=n, dtype=np.uint8) for n in range(4, 64, 3)]
    ids, lengths = padded(samples, 64)
    return LraSplit(ids, generator.integers(10, size=len(samples), dtype=np.uint8), lengths)


def train_batches(split, layout, micro, **options):
    found = DeviceSplit(split, layout, CPU)
    return TrainBatches(
        found, batch_size=8, micro_batch_size=micro, seed=1, epoch=lambda: 2, **options
    )


def gradients(path, batches, divisor):
    torch.manual_seed(0)
    model = MeanClassifier(
        make_encoder(read_lra_encoder(str(path)), TASK, dropout_prob=0.0),
        num_labels=10, hidden_size=16,
    )  # fmt: skip
    for batch in batches:
        loss = cross_entropy(model(batch.inputs, divisor=divisor), batch.targets_B)
        (loss * len(batch.targets_B) / 8).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("divisor", [None, 64])
@pytest.mark.parametrize("kind", ["PoNetConfig", "BertConfig"])
def test_sorted_cut_micro_batches_give_the_gradient_of_the_whole(tmp_path, split, kind, divisor):
    path = write_encoder(tmp_path, kind)
    whole = dataclasses.replace(LAYOUT, cuts=False)
    first = [next(iter(train_batches(split, whole, 8)))]
    cut = [batch for batch, _ in zip(train_batches(split, LAYOUT, 2), range(4), strict=False)]
    assert sum(batch.inputs.mask.numel() for batch in cut) < 0.8 * first[0].inputs.mask.numel()
    one, two = gradients(path, first, divisor), gradients(path, cut, divisor)
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_cut_of_pairs_does_not_change_what_self_pretraining_learns(tmp_path, split, micro):
    second = split.ids[::-1].copy(), split.lengths[::-1].copy()
    pairs = dataclasses.replace(split, other_ids=second[0], other_lengths=second[1])
    path = write_encoder(tmp_path)

    def learnt(size):
        torch.manual_seed(0)
        made = make_encoder(read_lra_encoder(str(path)), TASK, dropout_prob=0.0)
        encoder = MeanClassifier(made, num_labels=10, hidden_size=16).encoder
        guesser = TokenGuesser(encoder, dataclasses.replace(TASK, mask_share=1.0))
        for batch in islice(train_batches(pairs, LAYOUT, size), 8 // size):
            for side, share in zip((batch.inputs, batch.other), batch.token_shares, strict=True):
                (guesser(side) * share * size / 8).backward()
        return [p.grad for p in encoder.parameters() if p.grad is not None]

    for one, two in zip(learnt(8), learnt(micro), strict=True):
        torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-4)


def test_an_epoch_goes_on_behind_any_micro_batch(split):
    whole = [batch.targets_B.tolist() for batch in train_batches(split, LAYOUT, 2)]
    assert len(whole) == len(train_batches(split, LAYOUT, 2)) == 8
    for done in (3, 4, 7):
        rest = train_batches(split, LAYOUT, 2, resume_at=(2, done))
        assert [batch.targets_B.tolist() for batch in rest] == whole[done:]


def test_an_evaluation_sees_every_row_once(split):
    found = DeviceSplit(split, LAYOUT, CPU)
    batches = list(EvaluationBatches(found, range(len(split)), 6))
    assert sum(len(batch.targets_B) for batch in batches) == len(split)
    real = sum(int(batch.inputs.mask.sum()) for batch in batches)
    assert real == int(split.lengths.sum())


@pytest.mark.parametrize("published", [False, True])
def test_black_is_padding_as_published_alone(published):
    pixels = np.zeros((2, 16), np.uint8)
    pixels[:, ::2] = 9
    split = LraSplit(pixels, np.zeros(2, np.uint8), np.full(2, 16, np.int32))
    layout = Layout(num_segments=2, zeros_are_padding=published, cuts=False)
    batch = DeviceSplit(split, layout, CPU).batch(np.arange(2))
    assert int(batch.inputs.mask.sum()) == (16 if published else 32)


def test_segments_keep_the_padded_length(split):
    batch = DeviceSplit(split, LAYOUT, CPU).batch(np.array([0]))
    assert batch.inputs.input_ids.shape == (1, 4)
    long = DeviceSplit(split, LAYOUT, CPU).batch(np.array([19]))
    assert int(long.inputs.segment_ids.max()) == 60 // 17


def test_the_schedule_is_pytorchs_one_cycle():
    config = OneCycle(lr=1e-4, warmup_share=0.2)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-4, pct_start=0.2, anneal_strategy="linear", total_steps=50
    )
    for step in range(50):
        group = optimizer.param_groups[0]
        rate = config.lr * config.schedule_factor(step, total_steps=50)
        assert rate == pytest.approx(group["lr"], rel=1e-9)
        assert config.beta1_at(step, total_steps=50) == pytest.approx(group["betas"][0])
        optimizer.step()
        theirs.step() if step < 49 else None


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_self_pretraining_ends_at_zero(steps):
    config = OneCycle(lr=1e-4, pretrain_lr=1e-3)
    factors = [config.pretrain_factor(step, total_steps=steps) for step in range(steps + 1)]
    assert factors[-1] == 0
    assert 0 < max(factors[:-1]) <= 10 + 1e-9


def test_the_guesser_hides_its_share_and_learns(tmp_path, split):
    torch.manual_seed(0)
    made = make_encoder(read_lra_encoder(str(write_encoder(tmp_path))), TASK, dropout_prob=0.0)
    model = MeanClassifier(made, num_labels=10, hidden_size=4)
    guesser = TokenGuesser(model.encoder, TASK)
    assert guesser.share == 0.1
    assert IMAGE.mask_share == 0.5
    batch = DeviceSplit(split, LAYOUT, CPU).batch(np.arange(8)).inputs
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    parameters = [*model.parameters(), *guesser.parameters()]
    assert len({id(p) for p in parameters}) == len(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = guesser(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    hidden = torch.stack([one.input_ids == TASK.vocab_size - 1 for one in seen])
    share = float(hidden.sum() / (len(seen) * batch.mask.sum()))
    assert share == pytest.approx(0.1, abs=0.02)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("name", ["ponet", "fnet", "transformer", "transformer_cpu"])
def test_the_published_feed_forward_drops_twice(repository, name):
    file = read_lra_encoder(str(repository / f"configs/encoder/lra_{name}.yaml"))
    model = MeanClassifier(
        make_encoder(file, TASK, dropout_prob=None), num_labels=10, hidden_size=16
    )
    layer = model.encoder.layers[0].feed_forward
    assert (layer.inner_dropout.p, layer.dropout.p) == (0.1, 0.1)
    plain = make_encoder(file, TASK, dropout_prob=0.0)
    assert (plain.ffn_dropout_prob, plain.dropout_prob) == (0.0, 0.0)


def test_segments_have_the_lengths_of_the_published_runs():
    lengths = [TASKS[name].segment_len for name in ("listops", "text", "retrieval", "image")]
    assert lengths == [33, 2, 65, 33]
    for name, length in (("text", 2), ("retrieval", 65)):
        short = TASKS[name].shortened(1024)
        ids = segments_from_count(1, short.length, num_segments=short.num_segments)[0]
        assert short.segment_len == length == int((ids == 0).sum())


def test_the_entropy_of_tokens_leaves_padding_out_and_counts_both_texts_and_black_pixels():
    ids = np.zeros((2000, 4), np.uint8)
    ids[:, 0], ids[:1000, 1] = 1, 2
    lengths = (ids > 0).sum(1).astype(np.int32)
    split = LraSplit(ids, np.zeros(2000, np.uint8), lengths)
    shares = [2 / 3, 1 / 3]
    expected = -sum(share * math.log(share) for share in shares)
    assert token_entropy(split, zeros_are_padding=True) == pytest.approx(expected)
    shares = [5 / 8, 2 / 8, 1 / 8]
    expected = -sum(share * math.log(share) for share in shares)
    assert token_entropy(split, zeros_are_padding=False) == pytest.approx(expected)
    other = np.full((2000, 4), 300, np.uint16)
    both = LraSplit(ids, split.labels, lengths, other, np.full(2000, 4, np.int32))
    shares = [2 / 11, 1 / 11, 8 / 11]
    expected = -sum(share * math.log(share) for share in shares)
    assert token_entropy(both, zeros_are_padding=True) == pytest.approx(expected)
