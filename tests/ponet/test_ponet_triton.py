"""Triton kernels against the float64 reference, in Triton's interpreter and so without a GPU.

The interpreter must be chosen before triton is imported. So one test starts this file once more,
in a process of its own in which it is; there the others run.
"""

import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version

from ponet import EncoderBatch, PoNetConfig
from ponet.batch import join_texts
from ponet.encoders import build_encoder
from ponet.pooling.mix import mix
from ponet.pooling.plan import PoolInputs, plan_pools
from ponet.pooling.run_tiles import TileSizes

pytest.importorskip("triton")
import triton
from kernel_addresses import check_addresses

from ponet.pooling import triton_cuts, triton_mix

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETS, reason="runs in the process with the interpreter")
TINY = TileSizes(step=5, slack=3, line_bytes=32, chunk=2)
PARTS = PoolInputs._fields


OLD_INTERPRETER = Version(triton.__version__) < Version("3.7") and Version(
    np.__version__
) >= Version("2.5")


@pytest.mark.skipif(INTERPRETS, reason="this is the process that it starts")
@pytest.mark.skipif(OLD_INTERPRETER, reason="triton 3.6 interprets wrongly with numpy 2.5")
def test_the_kernels_agree_with_the_reference_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", str(Path(__file__)), "-v", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def make_batch(segment_ids, *, mask=None, special=(), are_runs=True):
    ids = torch.tensor(segment_ids)
    special_mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, token in special:
        special_mask[row, token] = True
    return EncoderBatch(
        input_ids=torch.zeros_like(ids),
        mask=torch.ones(ids.shape, dtype=torch.bool) if mask is None else mask,
        token_type_ids=torch.zeros_like(ids),
        segment_ids=ids,
        special_mask=special_mask,
        segments_are_runs=are_runs,
    )


def make_inputs(batch, *, width, present, device, seed=0):
    """Float64 values with many ties: small whole numbers, exact in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch.mask.shape, width)
    num_texts = len(batch.mask if batch.text_places is None else batch.text_places)
    shapes = {part: shape for part in PARTS} | {"global_BD": (num_texts, width)}
    values = dict.fromkeys(PARTS)
    for part in present:
        whole_numbers = torch.randint(-3, 4, shapes[part], generator=generator)
        values[part] = whole_numbers.double().to(device)
    return PoolInputs(**values), torch.randn(shape, generator=generator).double().to(device)


def value_and_gradients(inputs, upstream, *, plan, window, kernels, dtype):
    tokens = [None if t is None else t.to(dtype).requires_grad_() for t in inputs[1:]]
    wider = torch.promote_types(dtype, torch.float32)
    pooled = None if inputs[0] is None else inputs[0].to(wider).requires_grad_()
    leaves = PoolInputs(pooled, *tokens)
    mixed = mix(leaves, plan=plan, window=window, kernels=kernels)
    present = [leaf for leaf in leaves if leaf is not None]
    return [mixed.detach(), *torch.autograd.grad(mixed, present, upstream.to(mixed.dtype))]


def check_agreement(
    batch, *, width=6, present=PARTS, window=3, dtype=torch.float32, guard=True, are_runs=None,
    device="cpu",
):  # fmt: skip
    plan = plan_pools(batch.to(device), guard_special_tokens=guard)
    if are_runs is not None:
        plan = replace(plan, segments_are_runs=are_runs)
    inputs, upstream = make_inputs(batch, width=width, present=present, device=device)
    if dtype != torch.float32:
        upstream = upstream.to(dtype).double()
    ours = value_and_gradients(
        inputs, upstream, plan=plan, window=window, kernels="triton", dtype=dtype
    )
    expected = value_and_gradients(
        inputs, upstream, plan=plan, window=window, kernels="reference", dtype=torch.float64
    )
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2}
    for value, wanted in zip(ours, expected, strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(
            value.double(), wanted, **{"atol": 2e-2 * max(scale, 1e-3), **tolerance}
        )
    return ours


@pytest.fixture(autouse=True)
def within_bounds(monkeypatch):
    """No kernel reads or writes beside its arguments, which a GPU need not notice."""
    if INTERPRETS:
        check_addresses(monkeypatch)


@interpreted
def test_an_address_beside_the_arguments_is_found():
    pieces, ends, width = torch.zeros(1, 8), torch.zeros(2, 1, dtype=torch.int32), 8
    for room in (8, 7):
        run = partial(triton_cuts.combine_global[1, 1], pieces, ends, torch.zeros(room), 1, width)
        with nullcontext() if room == 8 else pytest.raises(Exception, match="beside all arguments"):
            run(LINE=8, STEP=2)


@pytest.fixture
def tiny(monkeypatch):
    """Tiles of 5 to 8 tokens and 8 (float32) or 16 channels, so that small texts have many."""
    monkeypatch.setattr(triton_mix, "SIZES", TINY)


SENTENCES = [[0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5, 6, 6, 6, 7]]
ONE_RUN = [[0] * 21]
LONG_AND_SHORT = [[0] * 12 + [1] + [2] * 8, [0, 1] + [2] * 18 + [3]]
SINGLE_TOKENS = [list(range(21))]


@interpreted
@pytest.mark.parametrize("ids", [SENTENCES, ONE_RUN, LONG_AND_SHORT, SINGLE_TOKENS])
def test_runs_of_any_length_pool_as_the_reference_does(tiny, ids):
    check_agreement(make_batch(ids))


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_pools_as_the_reference_does(tiny, dtype):
    check_agreement(make_batch(LONG_AND_SHORT[:1]), dtype=dtype)


@interpreted
@pytest.mark.parametrize("num_tokens", [1, 5, 8, 11])
def test_every_length_around_a_tile_border_is_covered(tiny, num_tokens):
    ids = [token // 4 for token in range(num_tokens)]
    check_agreement(make_batch([ids, [0] * num_tokens]), width=2)


@interpreted
def test_padding_inside_runs_between_them_and_at_the_end_counts_for_nothing(tiny):
    mask = torch.ones(3, 21, dtype=torch.bool)
    mask[0, 13:] = False
    mask[1, [0, 1, 6, 7, 14]] = False
    mask[2] = False
    ids = [[0] * 9 + [1] * 12, [0] * 11 + [1] * 10, [0] * 21]
    # Padding may even stand within a run.
    check_agreement(make_batch(ids, mask=mask, are_runs=False), are_runs=True)


@interpreted
@pytest.mark.parametrize("guard", [True, False])
def test_guarded_tokens_read_no_segment_and_no_window_but_count_for_their_segment(tiny, guard):
    batch = make_batch(LONG_AND_SHORT[:1], special=[(0, 0), (0, 5), (0, 12), (0, 20)])
    check_agreement(batch, guard=guard)


@interpreted
@pytest.mark.parametrize("window", [1, 5])
def test_windows_of_every_width_give_the_gradient_to_their_first_maximum(tiny, window):
    check_agreement(make_batch(SENTENCES, special=[(0, 7)]), window=window)


@interpreted
@pytest.mark.parametrize(
    "present",
    [
        ("segment_BLD",),
        ("local_BLD",),
        ("global_BD",),
        ("global_BD", "gate_BLD"),
        ("segment_BLD", "local_BLD"),
        ("segment_BLD", "gate_BLD"),
    ],
)
def test_parts_that_are_missing_are_left_out(tiny, present):
    check_agreement(make_batch(SENTENCES, special=[(0, 0)]), present=present, width=2)


@interpreted
@pytest.mark.parametrize(
    "present", [PARTS, ("global_BD", "gate_BLD"), ("global_BD", "local_BLD", "gate_BLD")]
)
def test_texts_that_share_a_row_read_their_own_global_pool(tiny, present):
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[0, 9:] = False
    rows = make_batch([SENTENCES[0], LONG_AND_SHORT[0]], mask=mask, special=[(0, 0), (1, 0)])
    batch = join_texts(replace(rows, segments_are_runs=True), num_tokens=32)
    assert batch.mask.shape == (1, 32)
    check_agreement(batch, present=present)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_segments_whose_tokens_lie_apart_pool_as_the_reference_does(tiny, dtype):
    mask = torch.ones(2, 13, dtype=torch.bool)
    mask[1, [2, 3, 9]] = False
    ids = [[token * 7 % 3 for token in range(13)], [token % 2 * 5 for token in range(13)]]
    batch = make_batch(ids, mask=mask, special=[(0, 0), (1, 12)], are_runs=False)
    check_agreement(batch, dtype=dtype, width=2)


@interpreted
@pytest.mark.parametrize("width", [1, 9])
def test_a_width_that_fills_no_whole_line_is_masked(tiny, width):
    check_agreement(make_batch(SENTENCES), width=width)


@interpreted
def test_runs_are_joined_in_several_steps_where_they_have_many_pieces(tiny, monkeypatch):
    monkeypatch.setattr(triton_mix, "_COMBINE_STEP", 2)
    check_agreement(make_batch([[0] * 40]), width=3)


@interpreted
def test_the_sizes_that_a_gpu_runs_with_give_the_same_values():
    ids = [[token // 25 for token in range(70)]]
    check_agreement(make_batch(ids), width=2)


def states_and_gradients(batch, *, kernels, **form):
    """Of a small encoder, at real tokens."""
    torch.manual_seed(0)
    config = PoNetConfig(
        vocab_size=8, hidden_size=8, num_layers=2, num_heads=2, ffn_size=8, max_positions=32,
        dropout_prob=0.0, kernels=kernels, **form,
    )  # fmt: skip
    encoder = build_encoder(config)
    states = encoder(batch).float() * batch.mask[..., None]
    states.mul(torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    assert all(value is not None for value in gradients.values())
    return {"states": states.detach(), **gradients}


def two_texts(*, joined):
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[0, 9:] = False
    batch = make_batch([SENTENCES[0], LONG_AND_SHORT[0]], mask=mask, special=[(0, 0), (1, 0)])
    return join_texts(batch, num_tokens=32) if joined else batch


@interpreted
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("without", [{}, {"fusion_product": False}, {"use_local_pool": False}])
def test_an_encoder_whose_projections_are_one_product_equals_the_reference(tiny, joined, without):
    batch = two_texts(joined=joined)
    found = (states_and_gradients(batch, kernels=k, **without) for k in ("triton", "reference"))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("joined", [False, True])
def test_the_global_pool_of_bfloat16_states_is_near_that_of_float32(tiny, joined):
    batch = two_texts(joined=joined)
    exact = states_and_gradients(batch, kernels="reference")
    distances = {}
    for kernels in ("triton", "reference"):
        with torch.autocast("cpu", torch.bfloat16):
            found = states_and_gradients(batch, kernels=kernels)
        distances[kernels] = {
            name: float((found[name] - value).norm() / value.norm().clamp(min=1e-3))
            for name, value in exact.items()
        }
    # No further away than the published form in the same precision, give or take its luck.
    most = max(distances["reference"].values())
    assert max(distances["triton"].values()) < 1.5 * most < 0.3


@interpreted
def test_results_repeat_bit_by_bit(tiny):
    batch = make_batch(ONE_RUN)
    first, second = check_agreement(batch), check_agreement(batch)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@interpreted
@pytest.mark.parametrize("vocab_size", [5, 16, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_a_row_and_its_gradient_are_those_of_the_definition(
    vocab_size, dtype, monkeypatch
):
    from ponet import loss_kernels

    monkeypatch.setattr(loss_kernels, "BLOCK", 16)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(6, 40, generator=generator).mul_(3).to(dtype)
    logits, labels = table[:, :vocab_size], torch.tensor([0, 4, -100, 2, 3, 1])
    logits[1, 2] = logits[1, 4] = 9  # the first of two maxima is taken, and it is not the label
    leaf = logits.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(leaf, labels, ignore_index=-100, reduction="sum")
    expected.backward()
    hits = int((leaf.argmax(1) == labels).sum())
    beside = table[:, vocab_size:].clone()
    for is_wanted in (False, True):
        kept = logits.clone()
        loss, found = loss_kernels.to_gradient(logits, labels, ignored=-100, is_wanted=is_wanted)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
        assert int(found) == hits
        assert is_wanted or torch.equal(logits, kept)
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(logits.double(), leaf.grad, rtol=tolerance, atol=tolerance)
    assert torch.equal(table[:, vocab_size:], beside)


@interpreted
def test_the_whole_loss_is_the_same_with_the_kernel(monkeypatch):
    from ponet import losses

    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=generator) for shape in ((7, 4), (11, 4), (11,))]
    labels = torch.tensor([3, -100, 0, 10, 5, -100, 1])
    found = []
    for uses_triton in (False, True):
        monkeypatch.setattr(losses, "uses_triton", lambda _, uses=uses_triton: uses)
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        sums = losses.linear_cross_entropy(*leaves, labels, rows_per_chunk=3)
        sums.loss.backward()
        found.append([*sums, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ids", [[[n // 25 for n in range(517)]] * 3, [[0] * 5000]])
@pytest.mark.parametrize("are_runs", [True, False])
def test_the_kernels_agree_with_the_reference_on_a_gpu(ids, are_runs, dtype):
    mask = torch.ones(len(ids), len(ids[0]), dtype=torch.bool)
    mask[0, 400:] = False
    batch = make_batch(ids, mask=mask, special=[(0, 0), (0, 60)], are_runs=are_runs)
    check_agreement(batch, width=200, dtype=dtype, device="cuda")
