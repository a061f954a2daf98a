"""How close the Triton pooling kernels come to the bandwidth of a GPU, and how far eager is.

    python benchmarks/triton_kernels.py                         (about 3 minutes on one GPU)
    python benchmarks/triton_kernels.py --sweep                 (which tile sizes are fastest)

Forward and backward of the fused pools alone (no projections), full texts, 65,536 tokens x 768 in
bf16 per call: once in sentences of 25 tokens, once as one segment per text, which fills many tiles.
Beside each stands a copy of as many bytes as the kernel must read and write: 4 arrays of the size
of the activations forward, 7 backward. `share` is the time of that copy over the kernel's, formed
round by round; 1 would be a kernel as fast as memory.

Writes <out>/triton_kernels.json. Needs a CUDA device and triton; without them it ends with code 2.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# A benchmark beside this file is named like the package data_prep: this folder must come last.
sys.path[:] = [
    str(_HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != _HERE),
    str(_HERE),
]

import torch
from _common import RESULTS, machine, save
from _timing import Clock, Step, copying, ratio, run_rounds, times

from ponet import EncoderBatch
from ponet.pooling import PoolInputs, PoolPlan, kernel_set, plan_pools
from ponet.pooling.mix import triton_is_installed
from ponet.pooling.triton_tiles import TileSizes

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PASSES = {"forward": 4, "backward": 7}
TARGET_SHARE = 0.8
WINDOW = 3
Options = argparse.Namespace


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and save; return the exit code."""
    options = parse(arguments)
    if not torch.cuda.is_available() or not triton_is_installed():
        print(
            "this benchmark needs a CUDA device and the package triton; what it measures on a CPU "
            "would be Triton's interpreter. benchmarks/encoders.py has the eager kernels on a CPU",
            file=sys.stderr,
        )
        return 2
    cases = [measure(options, *case) for case in itertools.product(options.lengths, ("25", "all"))]
    result = {
        "machine": {**machine(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__},
        "options": vars(options) | {"out": str(options.out)},
        "passes": PASSES,
        "cases": cases,
        "targets": targets(cases),
    }
    if options.sweep:
        result["sweep"] = sweep(options)
    print("written:", save("triton_kernels", result, options.out))
    return 0


def parse(arguments: list[str] | None) -> Options:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=65_536, help="per call")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192, 16_384])
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sweep", action="store_true", help="try other tile sizes as well")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def make_inputs(options: Options, num_tokens: int, run_len: str) -> tuple[PoolInputs, PoolPlan]:
    """Return random values of whole texts and their plan.

    Args:
        options: Sizes and precision.
        num_tokens: Of a text.
        run_len: Tokens of a segment, or "all": a text is one segment.
    """
    num_rows = max(1, options.tokens // num_tokens)
    place_L = torch.arange(num_tokens)
    ids_L = place_L * 0 if run_len == "all" else place_L // int(run_len)
    ids_BL = ids_L.expand(num_rows, -1).contiguous()
    special_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    special_BL[:, [0, -1]] = True
    batch = EncoderBatch(
        input_ids=torch.zeros_like(ids_BL),
        mask=torch.ones_like(special_BL),
        token_type_ids=torch.zeros_like(ids_BL),
        segment_ids=ids_BL,
        special_mask=special_BL,
        segments_are_runs=True,
    ).to("cuda")
    shape = (num_rows, num_tokens, options.width)
    dtype = DTYPES[options.precision]
    tokens = (torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
    pooled_BD = torch.randn(num_rows, options.width, device="cuda")
    return PoolInputs(pooled_BD, *tokens), plan_pools(batch, guard_special_tokens=True)


def steps_of(inputs: PoolInputs, plan: PoolPlan, name: Any) -> dict[str, Step]:
    """Return one forward and one backward call of a set of kernels."""
    kernels = kernel_set(name)
    mixed_BLD, saved = kernels.forward(inputs, plan, WINDOW)
    grad_BLD = torch.randn_like(mixed_BLD)
    return {
        f"{name} forward": lambda: kernels.forward(inputs, plan, WINDOW),
        f"{name} backward": lambda: kernels.backward(grad_BLD, inputs, saved, plan, WINDOW),
    }


def measure(options: Options, num_tokens: int, run_len: str) -> dict[str, Any]:
    """Return times and shares of one length and kind of segments; print them."""
    inputs, plan = make_inputs(options, num_tokens, run_len)
    assert inputs.local_BLD is not None
    array_bytes = inputs.local_BLD.nbytes
    steps = steps_of(inputs, plan, "triton") | steps_of(inputs, plan, "eager")
    for way, passes in PASSES.items():
        steps[f"copy {way}"] = copying(array_bytes * passes // 2, device="cuda")
    clock = Clock(device="cuda", threads=torch.get_num_threads())
    samples = run_rounds(steps, rounds=options.rounds, clock=clock)
    found: dict[str, Any] = {"tokens_per_text": num_tokens, "tokens_per_segment": run_len}
    for way, passes in PASSES.items():
        copy, ours = samples[f"copy {way}"], samples[f"triton {way}"]
        seconds = {kind: times(samples[f"{kind} {way}"], clock.deciding)
                   for kind in ("triton", "eager", "copy")}  # fmt: skip
        share, speedup = (
            ratio(one, ours, clock.deciding) for one in (copy, samples[f"eager {way}"])
        )
        assert share is not None and speedup is not None
        rate = array_bytes * passes / seconds["triton"]["median"]
        found[way] = {"seconds": seconds, "share": share, "eager_over_triton": speedup}
        found[way]["bytes_per_s"] = rate
        print(
            f"{num_tokens:6} tokens, segments of {run_len:>3}, {way:8}: "
            f"{seconds['triton']['median'] * 1e3:7.3f} ms, {rate / 1e12:5.2f} TB/s, "
            f"{share['median']:4.0%} of the copy, eager / triton {speedup['median']:5.1f}"
        )
    return found


def targets(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return target, measured value and whether it is met, of the slowest case each way."""
    found = []
    for way in PASSES:
        lowest = min(case[way]["share"]["median"] for case in cases)
        found.append({"what": f"{way}, share of copy bandwidth, slowest case",
                      "target": TARGET_SHARE, "measured": lowest,
                      "met": lowest >= TARGET_SHARE})  # fmt: skip
    return found


def sweep(options: Options) -> list[dict[str, Any]]:
    """Return the times of tile sizes at the first length, in sentences; print them."""
    from ponet.pooling import triton_mix

    usual, found = triton_mix.SIZES, []
    inputs, plan = make_inputs(options, options.lengths[0], "25")
    clock = Clock(device="cuda", threads=torch.get_num_threads())
    for block, line_bytes, num_warps in itertools.product((32, 64), (128, 256, 512), (2, 4, 8)):
        sizes = TileSizes(block=block, slack=block // 4, line_bytes=line_bytes, num_warps=num_warps)
        triton_mix.SIZES = sizes
        try:
            samples = run_rounds(
                steps_of(inputs, plan, "triton"), rounds=options.rounds, clock=clock
            )
        finally:
            triton_mix.SIZES = usual
        medians = {way: times(samples[f"triton {way}"], clock.deciding)["median"] for way in PASSES}
        found.append({"sizes": vars(sizes), "seconds": medians})
        print(sizes, {way: f"{seconds * 1e3:.3f} ms" for way, seconds in medians.items()})
    return found


if __name__ == "__main__":
    sys.exit(main())
