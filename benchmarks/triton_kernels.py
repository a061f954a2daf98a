"""How close the Triton pooling kernels come to the bandwidth of a GPU, and how far eager is.

    python -m benchmarks.triton_kernels                         (about 3 minutes on one GPU)
    python -m benchmarks.triton_kernels --sweep                 (which tile sizes are fastest)

Forward and backward of the fused pools alone (no projections), full texts, 65,536 tokens x 768 in
bf16 per call: once in sentences of 25 tokens, once as one segment per text, which fills many tiles.
Beside each stands a copy of as many bytes as the kernel must read and write: 4 arrays of the size
of the activations forward, 7 backward. `share_of_copy` is the time of that copy over the kernel's,
formed round by round; 1 would be a kernel as fast as memory.

Needs a CUDA device and triton; without them it ends with code 2.
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import report
from benchmarks.harness import Clock, Step, copying, rows_of, run_rounds, times
from benchmarks.report import ROUNDS, Option, Options, Row, Target
from benchmarks.rivals import DTYPES, make_batch
from ponet.pooling.mix import kernel_set, triton_lacks, with_tiles
from ponet.pooling.plan import PoolInputs, PoolPlan, plan_pools

PASSES = {"forward": 4, "backward": 7}
WINDOW = 3
SWEPT = (
    (64, 128, 4), (128, 128, 4), (32, 128, 4), (64, 256, 2), (64, 128, 8), (64, 128, 2),
    (64, 64, 8),
)  # fmt: skip
"""Tokens of a tile, most bytes of a token in a program, tokens that it takes at a time."""
OPTIONS = {
    "rounds": Option(9, ROUNDS, short=3),
    "tokens": Option(65_536, "per call"),
    "width": Option(768),
    "lengths": Option([512, 2048, 8192, 16_384], "tokens per text", short=[512]),
    "precision": Option("bf16", "", tuple(DTYPES)),
    "sweep": Option(False, "try other tile sizes as well"),
}


def make_inputs(options: Options, num_tokens: int, segment_len: int) -> tuple[PoolInputs, PoolPlan]:
    """Return random values of whole texts and their plan."""
    num_rows = max(1, options.tokens // num_tokens)
    form: dict[str, Any] = {"vocab_size": 64, "device": options.device, "segment_len": segment_len}
    batch = make_batch(num_rows, num_tokens, **form)
    shape = (num_rows, num_tokens, options.width)
    dtype = DTYPES[options.precision]
    tokens = (torch.randn(shape, device=options.device).to(dtype) for _ in range(3))
    pooled_BD = torch.randn(num_rows, options.width, device=options.device)
    plan = plan_pools(batch, guard_special_tokens=True)
    return PoolInputs(pooled_BD, *tokens), with_tiles(plan) if options.device == "cuda" else plan


def steps_of(inputs: PoolInputs, plan: PoolPlan, name: Any) -> dict[str, Step]:
    """Return one forward and one backward call of a set of kernels."""
    kernels = kernel_set(name)
    mixed_BLD, saved = kernels.forward(inputs, plan, WINDOW)
    grad_BLD = torch.randn_like(mixed_BLD)
    return {
        "forward": lambda: kernels.forward(inputs, plan, WINDOW),
        "backward": lambda: kernels.backward(grad_BLD, inputs, saved, plan, WINDOW),
    }


def measure(
    options: Options, num_tokens: int, segment_len: int, names: Sequence[str] = ("triton", "eager")
) -> list[Row]:
    """Return the times and shares of both ways, of one length and kind of segments.

    The first of the kernel sets named is what is measured; the others stand beside it.
    """
    inputs, plan = make_inputs(options, num_tokens, segment_len)
    assert inputs.local_BLD is not None
    array_bytes = inputs.local_BLD.nbytes
    both = {name: steps_of(inputs, plan, name) for name in names}
    clock, rows = Clock(device=options.device, threads=torch.get_num_threads()), []
    for way, passes in PASSES.items():
        steps = {(name, num_tokens): found[way] for name, found in both.items()}
        steps["copy", num_tokens] = copying(array_bytes * passes // 2, device=options.device)
        samples = run_rounds(steps, rounds=options.rounds, clock=clock)
        row = rows_of(samples, clock.deciding)[names[0], num_tokens]
        # The copy is never as slow: how many times as fast as it is a share of its rate.
        row |= {"way": way, "segment_len": "all" if segment_len >= num_tokens else segment_len}
        row["share_of_copy"] = row["times_as_fast_as"].pop("copy")
        rows.append(row | {"bytes_per_s": array_bytes * passes / row["s"]["median"]})
    return rows


def claims(rows: list[Row]) -> list[Target]:
    """Return the claim on each way, held against the slowest case."""
    lowest = {
        way: min(row["share_of_copy"]["median"] for row in rows if row["way"] == way)
        for way in PASSES
    }
    name = "share of copy bandwidth, slowest case"
    return [report.target(f"{way}, {name}", share, at_least=0.8) for way, share in lowest.items()]


def sweep(options: Options) -> list[dict[str, Any]]:
    """Return the times of tile sizes at the first length, in sentences; print them."""
    found = []
    for step, line_bytes, chunk in SWEPT:
        found.append(timed_sizes(options, step, line_bytes, chunk))
        print(found[-1], flush=True)
    return found


def timed_sizes(options: Options, step: int, line_bytes: int, chunk: int) -> dict[str, Any]:
    """Return the time of both ways with tiles of one size, at the first length, in sentences."""
    from ponet.pooling import triton_mix
    from ponet.pooling.run_tiles import TileSizes

    usual, clock = triton_mix.SIZES, Clock(device="cuda", threads=torch.get_num_threads())
    form = {"step": step, "line_bytes": line_bytes, "chunk": chunk}
    triton_mix.SIZES = TileSizes(slack=step - 4, **form)
    try:
        inputs, plan = make_inputs(options, options.lengths[0], 25)
        steps = steps_of(inputs, plan, "triton")
        samples = run_rounds(steps, rounds=options.rounds, clock=clock)
    finally:
        triton_mix.SIZES = usual
    medians = {f"{way}_s": times(samples[way], clock.deciding)["median"] for way in PASSES}
    return {"sizes": form, **medians}


def main(arguments: Sequence[str] | None = None) -> int:
    options = report.parse(__doc__, OPTIONS, arguments)
    options.device = "cuda"
    if not torch.cuda.is_available() or triton_lacks():
        print(
            "this benchmark needs a CUDA device and the package triton; what it measures on a CPU "
            "would be Triton's interpreter. benchmarks.encoders has the eager kernels on a CPU",
            file=sys.stderr,
        )
        return 2
    cases = itertools.product(options.lengths, (25, max(options.lengths)))
    rows = [row for case in cases for row in measure(options, *case)]
    content = {"rows": rows, "targets": claims(rows)}
    content["sweep"] = sweep(options) if options.sweep else []
    report.finish("triton_kernels", content, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
