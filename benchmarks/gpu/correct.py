"""Whether what runs on the GPU computes what the definitions in float64 say."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu import joined
from benchmarks.gpu.cells import Cell, Sizes, verdict
from benchmarks.report import REPOSITORY, Row
from benchmarks.rivals import Rival, compile_in_place, make_batch
from ponet.encoders import build_encoder
from ponet.losses import linear_cross_entropy
from ponet.pooling.mix import KernelName, mix, with_tiles
from ponet.pooling.plan import PoolInputs, PoolPlan, plan_pools

TESTS = ("tests/ponet/test_ponet_triton.py", "tests/ponet/test_ponet_models.py")
MOST_WRONG = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Of a result: its distance from the definition, as a share of the definition's norm."""
CASES = ((4, 512), (1, 4096), (1, 16_384))
"""Texts and tokens."""
WIDTHS = (768, 64, 256, 1024)
SEGMENTS = (25, 2, 0)
"""Tokens of a segment; 0: the whole text is one."""


def cells(sizes: Sizes) -> list[Cell]:
    """Return the cells of the stage."""
    cases = [(2, 12)] if sizes.is_dry else CASES
    widths = (8,) if sizes.is_dry else WIDTHS
    pools: list[Cell] = [
        (f"pools, {texts} x {tokens}", lambda t=texts, n=tokens: pools_of(sizes, t, n, widths))
        for texts, tokens in cases
    ]
    tests: list[Cell] = [] if sizes.is_dry else [("tests", device_tests)]
    compiled = [
        (f"compiled block, {kind}", lambda kind=kind: compiled_block(sizes, kind))
        for kind in ("ponet", "bert", "fnet")
    ]
    agreement, *addresses = joined.cells(sizes)
    loss: Cell = ("loss", lambda: loss_rows(sizes))
    return [pools[0], loss, agreement, *compiled, *pools[1:], *tests, *addresses]


def device_tests() -> list[Row]:
    """Run the tests that are marked for a GPU; how they ended.

    Without conftest.py, which needs packages that these tests do without.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--noconftest", *TESTS]
    command += ["-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    last = [line[-300:] for line in done.stdout.splitlines()[-12:]]
    return [{"name": "pytest -m gpu", "is_right": done.returncode == 0, "output": last}]


def pools_of(sizes: Sizes, num_texts: int, num_tokens: int, widths: Sequence[int]) -> list[Row]:
    """Return verdicts on the pooling kernels, for widths, segments, precisions, and padding."""
    rows = []
    for number, width in enumerate(widths):
        for segment in SEGMENTS if number == 0 else SEGMENTS[:1]:
            for dtype in MOST_WRONG:
                form: Any = {"vocab_size": 64, "device": sizes.device}
                batch = make_batch(num_texts, num_tokens, segment_len=segment or num_tokens, **form)
                batch.mask[0, num_tokens * 3 // 4 :] = False
                plan = plan_pools(batch, guard_special_tokens=True)
                shape = (num_texts, num_tokens, width)
                rows.append(pools_row(sizes, plan, shape, dtype) | {"segment": segment or "all"})
    return rows


def pools_row(sizes: Sizes, plan: PoolPlan, shape: tuple[int, int, int], dtype: torch.dtype) -> Row:
    """Return the verdict on one case, and whether two runs agree to the bit."""
    device, ours = sizes.device, "eager" if sizes.is_dry else "triton"
    pooled = torch.randn(shape[0], shape[2], device=device)
    tokens = [torch.randn(shape, device=device).to(dtype) for _ in range(3)]
    upstream = torch.randn(shape, device=device).to(dtype)

    def run(kernels: KernelName, like: torch.dtype | None, plan: PoolPlan) -> list[Tensor]:
        leaves = [t.to(like or t.dtype).detach().requires_grad_() for t in (pooled, *tokens)]
        mixed = mix(PoolInputs(*leaves), plan=plan, window=3, kernels=kernels)
        gradients = torch.autograd.grad(mixed, leaves, upstream.to(mixed.dtype))
        return [mixed.detach(), *gradients]

    expected = run("reference", torch.float64, plan)
    own_plan = plan if sizes.is_dry else with_tiles(plan)
    # What is never written then shows: freed memory is given out again.
    poison = [torch.full(shape, float("nan"), device=device, dtype=dtype) for _ in range(8)]
    del poison
    first = run(ours, None, own_plan)
    second = run(ours, None, own_plan)
    name = f"{ours}, {str(dtype)[6:]}, width {shape[2]}"
    repeats = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return verdict(name, first, expected, MOST_WRONG[dtype]) | {"repeats": repeats}


def loss_rows(sizes: Sizes) -> list[Row]:
    """Return verdicts on the masked-LM loss and its gradients."""
    rows, width, device = [], 64, sizes.device
    num_positions = 40 if sizes.is_dry else 5000  # two chunks
    for dtype, most in MOST_WRONG.items():
        shapes = ((num_positions, width), (sizes.vocab_size, width), (sizes.vocab_size,))
        values = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        labels_N = torch.randint(0, sizes.vocab_size, (num_positions,), device=device)
        labels_N[::7] = -100
        own = [value.detach().requires_grad_() for value in values]
        loss = linear_cross_entropy(*own, labels_N).loss
        wide = [value.double().detach().requires_grad_() for value in values]
        logits_NV = F.linear(wide[0], wide[1], wide[2])
        true = F.cross_entropy(logits_NV, labels_N, ignore_index=-100, reduction="sum")
        results = [
            [value.detach(), *torch.autograd.grad(value / num_positions, leaves)]
            for value, leaves in ((loss, own), (true, wide))
        ]
        rows.append(verdict(f"loss, {str(dtype)[6:]}", *results, 10 * most))
    return rows


def compiled_block(sizes: Sizes, kind: str) -> list[Row]:
    """Return verdicts on a compiled block against the plain one: states and gradients."""
    form: Any = {"dropout_prob": 0.0, "num_layers": 1, "vocab_size": 64}
    form["max_positions"] = num_tokens = sizes.lengths[0]
    config = Rival(kind=kind).config(sizes.encoder, **form)  # type: ignore[arg-type]
    with torch.device(sizes.device):
        encoder = build_encoder(config)
    batch = make_batch(2, num_tokens, vocab_size=64, device=sizes.device)
    shape = (2, num_tokens, config.hidden_size)
    # Normed states have the same sum of squares whatever was computed: each is weighed by itself.
    x_BLD, upstream_BLD = (torch.randn(shape, device=sizes.device) for _ in range(2))

    def run() -> list[Tensor]:
        leaf = x_BLD.detach().requires_grad_()
        with torch.autocast(sizes.device, torch.bfloat16):
            states = block(leaf, plan)
        (states * upstream_BLD).sum().backward()
        weights = [parameter.grad for parameter in block.parameters()]
        encoder.zero_grad()
        return [states.detach(), leaf.grad, *(g for g in weights if g is not None)]

    block: Callable[..., Tensor] | Any = encoder.layers[0]
    plan = encoder.prepare(batch)
    plain = [t.double() for t in run()]
    compile_in_place(block, "default")
    found = run()
    row = verdict(f"compiled block, {kind}", found, plain, 0.1)
    again = all(torch.equal(a, b) for a, b in zip(found, run(), strict=True))
    return [row | {"repeats": again}]
