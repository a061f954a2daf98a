"""Every set of kernels against loops in float64: values, gradients, ties, masks and dtypes."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ponet_reference import local_max_reference, segment_max_reference

from ponet import EncoderBatch
from ponet.pooling import blocks
from ponet.pooling import mix as choice
from ponet.pooling.global_pool import masked_mean
from ponet.pooling.mix import choose_kernels, mix
from ponet.pooling.plan import PoolInputs, plan_pools, score_bias

WAYS = ["reference", "eager"]
PARTS = [
    parts for parts in itertools.product([True, False], repeat=4)
    if any(parts[:3]) and (any(parts[:2]) or not parts[3])
]  # fmt: skip


def random_batch(num_rows, num_tokens, *, seed, runs=True, real_share=0.7) -> EncoderBatch:
    """Segments that are runs or scattered; padding anywhere, also whole rows of it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, num_tokens)
    if runs:
        segment_ids = (torch.rand(shape, generator=generator) < 0.3).long().cumsum(1)
        segment_ids = segment_ids - segment_ids[:, :1]
    else:
        segment_ids = torch.randint(0, num_tokens, shape, generator=generator)
    ids = torch.zeros(shape, dtype=torch.long)
    return EncoderBatch(
        input_ids=ids, token_type_ids=ids, segment_ids=segment_ids,
        mask=torch.rand(shape, generator=generator) < real_share,
        special_mask=torch.rand(shape, generator=generator) < 0.2,
    )  # fmt: skip


def make_inputs(batch, *, parts, width, dtype, seed, has_ties) -> PoolInputs:
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for number, present in enumerate(parts):
        shape = (len(batch.mask), width) if number == 0 else (*batch.mask.shape, width)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        values = (2 * values).round() if has_ties else values
        values = values.to(torch.promote_types(dtype, torch.float32) if number == 0 else dtype)
        inputs.append(values.requires_grad_() if present else None)
    return PoolInputs(*inputs)


def loop(inputs, plan, batch, window):
    """The fused pools in float64, token by token."""
    wide = [None if tensor is None else tensor.double() for tensor in inputs]
    rows = []
    for row, mask in enumerate(batch.mask):
        global_D, *tokens = (None if tensor is None else tensor[row] for tensor in wide)
        segment, local, gate = tokens
        allowed = plan.window_BL1[row, :, 0]
        width = next(tensor.shape[-1] for tensor in wide if tensor is not None)
        shared = torch.zeros(len(mask), width, dtype=torch.float64)
        shared = shared if global_D is None else shared + global_D
        if segment is not None:
            pooled = segment_max_reference(segment, batch.segment_ids[row], mask)
            shared = shared + pooled * allowed[:, None]
        shared = shared if gate is None else shared * gate
        if local is not None:
            shared = shared + local_max_reference(local, allowed, window)
        rows.append(shared * mask[:, None])
    return torch.stack(rows)


def results(mixed, inputs, upstream):
    """The fused pools and the gradients of all inputs that are there."""
    present = [tensor for tensor in inputs if tensor is not None]
    grads = torch.autograd.grad(mixed, present, upstream.to(mixed.dtype), materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    return [mixed.detach(), *grads]


def run(way, inputs, plan, window, upstream):
    mixed = mix(inputs, plan=plan, window=window, kernels=way)
    return results(mixed, inputs, upstream)


def check_all_ways(batch, *, parts, window, width=4, dtype=torch.float32, has_ties, guard, seed):
    plan = plan_pools(batch, guard_special_tokens=guard)
    inputs = make_inputs(batch, parts=parts, width=width, dtype=dtype, seed=seed,
                         has_ties=has_ties)  # fmt: skip
    generator = torch.Generator().manual_seed(seed + 1)
    upstream = torch.randn((*batch.mask.shape, width), generator=generator, dtype=torch.float64)
    upstream = upstream.to(dtype)
    expected = results(loop(inputs, plan, batch, window), inputs, upstream)
    for way in WAYS:
        for got, wanted in zip(run(way, inputs, plan, window, upstream), expected, strict=True):
            limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
            error = (got.double() - wanted.double()).abs().max()
            assert error <= limit * max(1.0, wanted.abs().max()), (way, error)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 17)),
    parts=st.sampled_from(PARTS),
    window=st.sampled_from([1, 3, 3, 5, 7]),
    block_tokens=st.integers(1, 40),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    real_share=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_all_kernels_equal_a_loop_in_value_and_gradient(
    seed, shape, parts, window, block_tokens, dtype, flags, real_share
):
    runs, has_ties, guard = flags
    batch = random_batch(*shape, seed=seed, runs=runs, real_share=real_share)
    with pytest.MonkeyPatch.context() as patch:
        bytes_per_token = 4 * 4 / torch.get_num_threads()  # four channels of float32
        patch.setattr(blocks, "BLOCK_BYTES", int(block_tokens * bytes_per_token))
        check_all_ways(batch, parts=parts, window=window, dtype=dtype, has_ties=has_ties,
                       guard=guard, seed=seed)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_a_window_goes_to_its_first_maximum_like_in_max_pool(way):
    x = torch.randint(-2, 3, (3, 11, 4)).double().requires_grad_()
    ids = torch.zeros(3, 11, dtype=torch.long)
    batch = EncoderBatch(ids, ids == 0, ids, ids, ids != 0)
    plan = plan_pools(batch, guard_special_tokens=True)
    upstream = torch.randn(3, 11, 4, dtype=torch.float64)
    pooled = torch.nn.functional.max_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)
    (expected,) = torch.autograd.grad(pooled, x, upstream)
    _, grad = run(way, PoolInputs(None, None, x, None), plan, 3, upstream)
    torch.testing.assert_close(grad, expected, atol=1e-12, rtol=0)


def segment_gradient(way, values, dtype=torch.bfloat16):
    """Gradient of the sum of the maxima of one segment of all tokens."""
    x = torch.tensor(values, dtype=dtype).reshape(1, -1, 1).requires_grad_()
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    plan = plan_pools(EncoderBatch(ids, ids == 0, ids, ids, ids != 0), guard_special_tokens=True)
    return run(way, PoolInputs(None, x, None, None), plan, 3, torch.ones_like(x))[1].flatten()


@pytest.mark.parametrize("way", WAYS)
def test_tied_segment_maxima_share_the_gradient_evenly(way):
    grad = segment_gradient(way, [1.0, 1.0, 0.0, 1.0])
    torch.testing.assert_close(grad.float(), torch.tensor([4 / 3, 4 / 3, 0, 4 / 3]), atol=1e-2,
                               rtol=0)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_bfloat16_gradients_of_a_long_segment_do_not_get_lost(way):
    """4096 ones summed in bfloat16 would stop at 256."""
    values = torch.zeros(4096)
    values[5] = 1
    assert segment_gradient(way, values.tolist())[5].item() == 4096


@pytest.mark.parametrize("way", WAYS)
def test_inputs_and_upstream_gradient_are_left_as_they_were(way):
    batch = random_batch(2, 9, seed=3)
    plan = plan_pools(batch, guard_special_tokens=True)
    inputs = make_inputs(batch, parts=[True] * 4, width=4, dtype=torch.float32, seed=0,
                         has_ties=False)  # fmt: skip
    upstream = torch.randn(2, 9, 4)
    before = [tensor.detach().clone() for tensor in (*inputs, upstream)]
    run(way, inputs, plan, 3, upstream)
    for tensor, copy in zip((*inputs, upstream), before, strict=True):
        assert torch.equal(tensor, copy)


def test_a_second_run_gives_the_same_bits():
    batch = random_batch(3, 50, seed=4)
    plan = plan_pools(batch, guard_special_tokens=True)
    inputs = make_inputs(batch, parts=[True] * 4, width=16, dtype=torch.float32, seed=0,
                         has_ties=True)  # fmt: skip
    upstream = torch.randn(3, 50, 16)
    first, second = (run("eager", inputs, plan, 3, upstream) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize(("num_rows", "num_tokens", "size"), [(3, 7, 20), (2, 40, 16), (1, 5, 1)])
def test_blocks_cover_every_token_once_and_never_split_across_rows(num_rows, num_tokens, size):
    bounds = blocks.block_bounds(num_rows, num_tokens, size=size)
    assert [n for start, stop in bounds for n in range(start, stop)] == [
        *range(num_rows * num_tokens)
    ]
    for start, stop in bounds:
        assert stop - start <= size
        is_whole = start % num_tokens == 0 and stop % num_tokens == 0
        assert is_whole or start // num_tokens == (stop - 1) // num_tokens


def test_a_row_without_real_tokens_has_a_finite_softmax_and_mean():
    x, mask = torch.randn(1, 5, 4), torch.zeros(1, 5, dtype=torch.bool)
    assert not masked_mean(x, mask).any()
    assert not score_bias(mask).any()


def test_kernels_are_chosen_by_device_and_dtype(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "triton_lacks", lambda: "")
    choose, cpu, cuda = choose_kernels, torch.device("cpu"), torch.device("cuda")
    assert choose("auto", device=cpu, dtype=torch.float32) == "eager"
    assert choose("auto", device=cuda, dtype=torch.bfloat16) == "triton"
    assert choose("auto", device=cuda, dtype=torch.float64) == "eager"
    assert choose("eager", device=cuda, dtype=torch.float32) == "eager"
    with pytest.raises(ValueError, match="on device 'cpu'; Triton needs CUDA.*TRITON_INTERPRET=1"):
        choose("triton", device=cpu, dtype=torch.float32)
    with pytest.raises(ValueError, match="for torch.float64; allowed are float32"):
        choose("triton", device=cuda, dtype=torch.float64)
    with pytest.raises(ValueError, match="kernels='fast' given; allowed are auto, reference"):
        choose("fast", device=cpu, dtype=torch.float32)
    monkeypatch.setattr(choice, "triton_lacks", lambda: choice.NOT_INSTALLED)
    assert choose("auto", device=cuda, dtype=torch.bfloat16) == "eager"
    with pytest.raises(ValueError, match="triton is not installed"):
        choose("triton", device=cuda, dtype=torch.float32)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for kernels, device in (("auto", cuda), ("eager", cpu)):
        assert choose(kernels, device=device, dtype=torch.float32) == "reference"


@pytest.mark.parametrize(("tools", "headers", "lack"), [
    ({"gcc"}, True, ""),
    ({"clang"}, True, ""),
    (set(), True, "C compiler"),
    ({"gcc"}, False, "no Python.h in"),
])  # fmt: skip
def test_triton_without_what_it_compiles_with_is_passed_over_and_named(
    monkeypatch, tmp_path, tools, headers, lack
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(choice, "_LACKS", {})
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(choice.shutil, "which", lambda tool: tool if tool in tools else None)
    monkeypatch.setattr(choice.sysconfig, "get_path", lambda *_: str(tmp_path))
    if headers:
        (tmp_path / "Python.h").touch()
    place = {"device": torch.device("cuda"), "dtype": torch.float32}
    if not lack:
        assert choose_kernels("auto", **place) == "triton"
        return
    with pytest.warns(UserWarning, match=lack):
        assert choose_kernels("auto", **place) == "eager"
    with pytest.raises(ValueError, match=f"kernels='triton' given, but .*{lack}"):
        choose_kernels("triton", **place)
