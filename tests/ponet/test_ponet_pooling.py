"""Each pool against a loop in float64, ties and masks included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ponet_reference import local_max_reference, segment_max_reference

from ponet.pooling import (
    local_max,
    masked_mean,
    mix_pools,
    score_bias,
    segment_max,
    segment_rows,
)


def values_with_ties(shape, seed):
    """Small whole numbers, so that most maxima are tied."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).double().requires_grad_()


def random_mask(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.7


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 9))
def test_segment_max_equals_a_loop_in_value_and_gradient(seed, num_tokens):
    x = values_with_ties((2, num_tokens, 3), seed)
    generator = torch.Generator().manual_seed(seed + 2)
    segment_ids = torch.randint(0, num_tokens, (2, num_tokens), generator=generator)
    mask = random_mask((2, num_tokens), seed)
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    rows = segment_rows(segment_ids, mask)
    ours = segment_max(x.flatten(0, 1), rows, rows).view_as(x)
    (grad,) = torch.autograd.grad(ours, x, upstream)
    expected = torch.stack(
        [segment_max_reference(*row) for row in zip(x, segment_ids, mask, strict=True)]
    )
    (expected_grad,) = torch.autograd.grad(expected, x, upstream, allow_unused=True)

    assert torch.equal(ours, expected)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), num_tokens=st.integers(1, 9), window=st.sampled_from([1, 3, 5, 7])
)
def test_local_max_equals_a_loop_in_value_and_gradient(seed, num_tokens, window):
    x = values_with_ties((2, num_tokens, 3), seed)
    allowed = random_mask((2, num_tokens), seed)
    generator = torch.Generator().manual_seed(seed + 2)
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    ours = local_max(x, allowed[..., None], window=window)
    (grad,) = torch.autograd.grad(ours, x, upstream)
    expected = torch.stack(
        [local_max_reference(*row, window) for row in zip(x, allowed, strict=True)]
    )
    (expected_grad,) = torch.autograd.grad(expected, x, upstream, allow_unused=True)

    assert torch.equal(ours, expected)
    torch.testing.assert_close(grad, expected_grad, atol=1e-12, rtol=0)


def test_local_max_gives_the_gradient_to_the_first_maximum_like_max_pool():
    x = values_with_ties((3, 11, 4), 7)
    allowed = torch.ones(3, 11, 1, dtype=torch.bool)
    upstream = torch.randn(3, 11, 4, dtype=torch.float64)
    pooled = torch.nn.functional.max_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)
    (expected,) = torch.autograd.grad(pooled, x, upstream)
    (grad,) = torch.autograd.grad(local_max(x, allowed, window=3), x, upstream)
    torch.testing.assert_close(grad, expected, atol=1e-12, rtol=0)


def test_segment_max_shares_the_gradient_evenly_among_ties_in_bfloat16():
    x = torch.tensor([[1.0], [1.0], [0.0], [1.0]], dtype=torch.bfloat16, requires_grad=True)
    rows = torch.tensor([0, 0, 0, 0])
    segment_max(x, rows, rows).sum().backward()
    torch.testing.assert_close(x.grad.flatten().float(), torch.tensor([4 / 3, 4 / 3, 0, 4 / 3]),
                               atol=1e-2, rtol=0)  # fmt: skip


def test_bfloat16_gradients_of_a_long_segment_do_not_get_lost():
    """4096 ones summed in bfloat16 would stop at 256."""
    x = torch.zeros(4096, 1, dtype=torch.bfloat16)
    x[5] = 1
    x.requires_grad_()
    rows = torch.zeros(4096, dtype=torch.long)
    segment_max(x, rows, rows).sum().backward()
    assert x.grad[5].item() == 4096


def test_a_row_without_real_tokens_pools_to_zero():
    x = torch.randn(1, 5, 4)
    mask = torch.zeros(1, 5, dtype=torch.bool)
    rows = segment_rows(torch.arange(5)[None], mask)
    assert not segment_max(x[0], rows, rows).any()
    assert not local_max(x, mask[..., None], window=3).any()
    assert not masked_mean(x, mask).any()
    assert not score_bias(mask).any()


def test_inputs_are_left_as_they_were():
    x = torch.randn(2, 6, 4)
    before = x.clone()
    mask = torch.tensor([[1, 1, 1, 0, 1, 0]] * 2).bool()
    rows = segment_rows(torch.zeros(2, 6, dtype=torch.long), mask)
    segment_max(x.flatten(0, 1), rows, rows)
    local_max(x, mask[..., None], window=3)
    assert torch.equal(x, before)


@pytest.mark.parametrize("has_gate", [True, False])
@pytest.mark.parametrize("has_local", [True, False])
def test_mixing_leaves_out_absent_pools_and_zeroes_padding(has_gate, has_local):
    pools = {name: torch.randn(2, 5, 3) for name in ("segment", "gate", "local")}
    shared = torch.randn(2, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()[..., None]
    mixed = mix_pools(
        global_BD=shared,
        segment_BLD=pools["segment"],
        local_BLD=pools["local"] if has_local else None,
        gate_BLD=pools["gate"] if has_gate else None,
        mask_BL1=mask,
    )
    expected = shared[:, None] + pools["segment"]
    expected = expected * pools["gate"] if has_gate else expected
    expected = expected + pools["local"] if has_local else expected
    torch.testing.assert_close(mixed, expected * mask)
