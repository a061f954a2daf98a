"""The whole pretraining step, loader included: PoNet, its released arrangement, BERT, FNet.

    python benchmarks/pretraining.py                     (small encoders, one CPU thread)
    python benchmarks/pretraining.py --device cuda       (base encoders, bf16, 512 to 16384 tokens)

Every rival trains in turn, a few steps at a time, in several rounds of another order: masked tokens
and sentence order, AdamW, clipping, batches made from shards of random tokens while it trains.
Ratios are formed within a round; reported are medians. On one CPU thread the time is CPU time of
the process, which builds its own batches; otherwise it is wall time.

The released arrangement stands here twice: with this project's head, which looks at masked
positions only, and with vocabulary logits at every position, as the released step has them. BERT is
given no mask, so that it can use FlashAttention although there is padding. Dropout is the published
0.1 but 0 on BERT's attention, where a CPU would have no fused kernel. Model FLOP utilisation counts
what the function needs, three projections for PoNet, however it is computed.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import logging
import random
import sys
import tempfile
import warnings
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
from _common import RESULTS, bar_chart, machine, save, spread, synthetic_folder
from _fits import FitRival, fit, make_module, peak_of, product_rate
from _targets import Target, target, targets_table
from _timing import Clock, cpu_features, ratio, times

Options = argparse.Namespace
Row = dict[str, Any]


def rivals_for(options: Options) -> list[FitRival]:
    """Return what is compared on a device; the first is ours."""
    if options.device == "cpu":
        mine = [FitRival(kind="ponet", precision=precision) for precision in ("bf16", "32")]
        return [
            *(mine if cpu_features()["amx_bf16"] else mine[::-1]),
            FitRival(kind="official", precision="32"),
            FitRival(kind="official", precision="32", every_position=True),
            FitRival(kind="bert", precision="32"),
            FitRival(kind="fnet", precision="32"),
        ]
    form: dict[str, Any] = {"precision": options.precision}
    plain = [FitRival(kind=kind, **form) for kind in ("ponet", "bert", "fnet")]
    compiled = [FitRival(kind=kind, compiled=True, **form) for kind in ("ponet", "bert", "fnet")]
    official = [FitRival(kind="official", every_position=every, **form) for every in (False, True)]
    return [*compiled, *plain, FitRival(kind="ponet", kernels="eager", **form), *official]


def measure(shards: Path, max_len: int, options: Options) -> list[Row]:
    """Return one row per rival at one length."""
    torch._dynamo.reset()
    rivals = rivals_for(options)
    modules = {rival: make_module(rival, max_len, options) for rival in rivals}
    samples: dict[FitRival, list[dict[str, float] | None]] = {rival: [] for rival in rivals}
    on_cpu = options.device == "cpu"
    clock = Clock(device=options.device, threads=options.threads)
    rates: dict[str, list[float]] = {rival.precision: [] for rival in rivals}
    for number in range(options.rounds):
        for precision, found in rates.items() if on_cpu else ():
            found.append(product_rate(precision, clock))
        for rival in random.Random(number).sample(rivals, len(rivals)):
            samples[rival].append(fit(modules[rival], rival, shards, max_len, options))
        print(f"{max_len} tokens: round {number + 1} of {options.rounds}", flush=True)
    key = clock.deciding if on_cpu else "wall_s"
    measured = {precision: spread(found)["median"] for precision, found in rates.items() if found}
    rows = []
    for rival, own in samples.items():
        row = _row(rival, own, key) | {"num_tokens": max_len}
        row["times_as_fast_as"] = {
            other.label: ratio(samples[other], own, key) for other in rivals if other != rival
        }
        peak = peak_of(rival, options.device, measured)
        row |= {"mfu": row["flops_per_s"] / peak.flops_per_s, "peak": peak.source}
        rows.append(row)
    return rows


def _row(rival: FitRival, samples: list[dict[str, float] | None], key: str) -> Row:
    """Return times and rates of one rival."""
    found = [sample for sample in samples if sample is not None]
    first, seconds = found[0], times(found, key)
    row: Row = {
        "rival": rival.label,
        "kind": rival.kind,
        "precision": rival.precision,
        "compiled": rival.compiled,
        "time": key,
        "s": seconds,
        "wall_s": times(found, "wall_s"),
        "cpu_s": times(found, "cpu_s"),
        "positions_per_step": first["positions"],
        "positions_per_s": first["positions"] / seconds["median"],
        "flops_per_s": first["flops"] / seconds["median"],
        "waiting_share": spread([sample["waiting_share"] for sample in found]),
    }
    if "peak_gib" in first:
        row["peak_gib"] = max(sample["peak_gib"] for sample in found)
    return row


def claims(rows: list[Row], options: Options) -> list[Target]:
    """Return what is claimed of whole steps, with what was measured."""

    def speed(mine: str, other: str, length: int) -> float | None:
        found = next((r for r in rows if r["rival"] == mine and r["num_tokens"] == length), {})
        ratios: dict[str, float] | None = found.get("times_as_fast_as", {}).get(other)
        return ratios["median"] if ratios else None

    released = "official PoNet, head at every position, "
    if options.device == "cpu":
        name = f"{options.encoder} step, 512 tokens: PoNet bf16 x"
        lacks = "" if cpu_features()["amx_bf16"] else "AMX"
        return [
            target(f"{name} official arrangement fp32, head at every position",
                   speed("PoNet, bf16", f"{released}fp32", 512), at_least=2.5, lacks=lacks),
            target(f"{name} official arrangement fp32, head at masked positions",
                   speed("PoNet, bf16", "official PoNet, fp32", 512), at_least=2.5, lacks=lacks),
        ]  # fmt: skip
    mine = f"PoNet, compiled, {options.precision}"
    found = [
        target("step, 512 tokens: x official arrangement, eager, head at every position",
               speed(mine, f"{released}{options.precision}", 512), at_least=2.3),
        target("step, 512 tokens: x official arrangement, eager, head at masked positions",
               speed(mine, f"official PoNet, {options.precision}", 512), at_least=2.3),
    ]  # fmt: skip
    for length, bound in ((512, 1.1), (4096, 2.0), (16_384, 5.0)):
        measured = speed(mine, f"BERT, compiled, {options.precision}", length)
        found.append(target(f"step, {length} tokens: x BERT compiled", measured, at_least=bound))
    for length in options.lengths:
        measured = speed(mine, f"FNet, compiled, {options.precision}", length)
        found.append(target(f"step, {length} tokens: x FNet compiled", measured, at_least=1.0))
    for row in (row for row in rows if row["rival"] == mine):
        name = f"step, {row['num_tokens']} tokens"
        waiting = row["waiting_share"]["median"]
        found.append(target(f"{name}: model FLOP utilisation", row["mfu"], at_least=0.45))
        found.append(target(f"{name}: share of time waiting for data", waiting, at_most=0.02))
    return found


def table(rows: list[Row], our_label: str) -> str:
    """Return one line per rival."""
    head = f"{'':52}{'ms':>9}{'lowest':>9}{'highest':>9}{'positions/s':>13}{'MFU':>7}{'waiting':>9}"
    lines = [head + f"{'x first':>9}"]
    for row in rows:
        cells = "".join(f"{1e3 * row['s'][key]:9,.1f}" for key in ("median", "min", "max"))
        cells += f"{row['positions_per_s']:13,.0f}{row['mfu']:7.1%}"
        cells += f"{row['waiting_share']['median']:9.2%}"
        found = row["times_as_fast_as"].get(our_label)
        cells += f"{found['median']:9.2f}" if found else f"{1:9.2f}"
        lines.append(f"{row['num_tokens']:6} {row['rival']:45}{cells}")
    return "\n".join(lines)


def report(shards: Path, options: Options) -> None:
    torch.set_num_threads(options.threads)
    # Lightning tells anew in every short fit what it found.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*|torch.utils.data.*")
    our_label = rivals_for(options)[0].label
    rows: list[Row] = []
    for max_len in options.lengths:
        rows += measure(shards, max_len, options)
        print(table([row for row in rows if row["num_tokens"] == max_len], our_label), flush=True)
    targets = claims(rows, options)
    print(targets_table(targets))
    content: dict[str, Any] = {"machine": {**machine(), **cpu_features()}}
    content["torch"] = torch.__version__
    if options.device == "cuda":
        content["gpu"] = torch.cuda.get_device_name()
    hidden = ("output", "short", "name", "folder")
    kept = {k: v for k, v in vars(options).items() if k not in hidden}
    content |= {"settings": kept, "ours": our_label, "targets": targets, "rows": rows}
    name = options.name or f"pretraining_{options.device}"
    print(save(name, content, options.output))
    bars = {f"{row['num_tokens']}: {row['rival']}": row["positions_per_s"] for row in rows}
    title = f"Pretraining step, {options.encoder}, loader included"
    print(bar_chart(name, bars, title=title, unit="positions/s", folder=options.output))


def read_options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--encoder", choices=("base", "small", "nano"),
                        help="default: small; on CUDA base")  # fmt: skip
    parser.add_argument("--lengths", type=int, nargs="+",
                        help="default: 512; on CUDA also 4096 and 16384")  # fmt: skip
    parser.add_argument("--tokens_per_step", type=int, help="default: 8192; on CUDA 65536")
    parser.add_argument("--vocab_size", type=int, default=30_522)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--precision", choices=("32", "bf16"), default="bf16", help="on CUDA")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, help="steps before the clock starts, in each round")
    parser.add_argument("--steps", type=int, help="timed steps of each round")
    parser.add_argument("--num_workers", type=int,
                        help="of the loader; default: 0, on CUDA 2")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--folder", type=Path, help="shards; default: random tokens, made anew")
    parser.add_argument("--short", action="store_true", help="1 round of 2 steps, 1024 tokens")
    parser.add_argument("--name", help="of the files; default: pretraining_<device>")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if options.short:
        options.rounds, options.warmup, options.steps = 1, 1, 2
        options.tokens_per_step = options.tokens_per_step or 1024
    defaults = {
        "encoder": ("small", "base"),
        "lengths": ([512], [512, 4096, 16_384]),
        "tokens_per_step": (8192, 65_536),
        "warmup": (1, 5),
        "steps": (3, 30),
        "num_workers": (0, 2),
    }
    for name, (on_cpu, on_cuda) in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, on_cuda if cuda else on_cpu)
    return options


def main() -> None:
    options = read_options()
    if options.folder is not None:
        report(options.folder, options)
        return
    needed = options.tokens_per_step * (options.warmup + options.steps + 4)
    with tempfile.TemporaryDirectory() as folder:
        shards = synthetic_folder(
            Path(folder) / "shards",
            num_sentences=max(20_000, needed // 20),
            vocab_size=options.vocab_size,
            validation_sentences=4000,
        )
        report(shards, options)


if __name__ == "__main__":
    main()
