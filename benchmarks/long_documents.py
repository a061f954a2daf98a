"""What long texts cost: time and memory of a training step of PoNet, BERT and FNet.

    python benchmarks/long_documents.py --threads 2                        (small, about 12 minutes)
    python benchmarks/long_documents.py --encoder base --device cuda --precision bf16

A step is forward, backward and AdamW of a two-class classifier on random texts of 512 ... 16384
tokens; every step has the same number of tokens, in fewer texts the longer they are. Each is done
with and without gradient checkpointing.

Memory: how far one step raises the peak above what is held before it (model, optimizer and, on a
CPU, Python with its libraries). Every case has a process of its own; counted is resident memory on
a CPU, PyTorch's allocations on CUDA. Its seconds and GiB are held against `--limit_s` and
`--limit_gib`; a case beyond is reported as such and not timed.
Time: all remaining cases in turn, several rounds, in one process; median. A case slower than
`--slow_s` is timed in the first round alone.

BERT attends by PyTorch's scaled_dot_product_attention. Its attention dropout is 0 here: with the
published 0.1 a CPU has no fused kernel, and memory grows with the square of the length
(`--attention_dropout 0.1` shows it). All other dropout is 0.1.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import dataclasses
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
from _common import RESULTS, machine, save, spread
from _training_step import KINDS, Case, Limits, first_step, step_seconds

NAMES = {"ponet": "PoNet", "bert": "BERT", "fnet": "FNet"}
COLORS = {"ponet": "C0", "bert": "C3", "fnet": "C2"}
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
Options = argparse.Namespace
Found = dict[Case, dict[str, Any]]


def cases(options: Options) -> list[Case]:
    """Return every combination; all encoders of one length stand together."""
    return [
        Case(
            kind=kind,
            size=options.encoder,
            num_tokens=num_tokens,
            num_texts=max(1, options.tokens_per_step // num_tokens),
            checkpointing=checkpointing,
            attention_dropout=options.attention_dropout,
            device=options.device,
            precision=options.precision,
            threads=options.threads,
        )
        for num_tokens in options.lengths
        for checkpointing in (False, True)
        for kind in KINDS
    ]


def title(case: Case) -> str:
    """Return what the tables call a case."""
    recomputed = ", checkpointing" if case.checkpointing else ""
    return f"{NAMES[case.kind]} {case.num_texts} x {case.num_tokens}{recomputed}"


def measure(options: Options) -> Found:
    """Return memory and time of every case."""
    limits = Limits(seconds=options.limit_s, gib=options.limit_gib)
    found: Found = {}
    for case in cases(options):
        found[case] = first_step(case, limits)
        print(f"{title(case):32}{_memory_text(found[case])}", flush=True)
    alive = [case for case, values in found.items() if "over" not in values]
    for case in alive:
        if case.num_tokens == options.lengths[0]:
            step_seconds(case)  # thrown away: the first steps of a process fetch its memory
    for number in range(options.rounds):
        for case in alive:
            if number == 0 or found[case]["first_s"] <= options.slow_s:
                found[case].setdefault("all_s", []).append(step_seconds(case))
        print(f"round {number + 1} of {options.rounds} timed", flush=True)
    return found


def _memory_text(values: dict[str, Any]) -> str:
    if "over" in values:
        return f"over {values['over']}"
    return f"{values['peak_gib']:6.2f} GiB a step, {values['kept_gib']:5.2f} GiB before it"


def compare(found: Found) -> list[dict[str, Any]]:
    """Return one row per case with its ratios to BERT and to its own shortest texts."""
    rows = []
    for case, values in found.items():
        row = {**dataclasses.asdict(case), "texts_x_tokens": case.num_texts * case.num_tokens}
        row |= values
        if "all_s" in values:
            row["step_s"] = spread(values["all_s"])
            row["s_per_1000_tokens"] = 1000 * row["step_s"]["median"] / row["texts_x_tokens"]
        rows.append(row)
    by_case = dict(zip(found, rows, strict=True))
    shortest = min(case.num_tokens for case in found)
    for case, row in by_case.items():
        if "step_s" not in row:
            continue
        bert = by_case[dataclasses.replace(case, kind="bert")]
        if "step_s" in bert:
            row["times_faster_than_bert"] = bert["s_per_1000_tokens"] / row["s_per_1000_tokens"]
            row["memory_to_bert"] = row["peak_gib"] / bert["peak_gib"]
        first = next(
            (r for c, r in by_case.items() if c.num_tokens == shortest and _same_line(c, case)), {}
        )
        if "step_s" in first:
            row["token_cost_to_shortest"] = row["s_per_1000_tokens"] / first["s_per_1000_tokens"]
    return rows


def _same_line(one: Case, other: Case) -> bool:
    return (one.kind, one.checkpointing) == (other.kind, other.checkpointing)


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line per case."""
    head = f"{'':32}{'s a step':>9}{'lowest':>9}{'highest':>9}{'GiB':>7}"
    lines = [f"{head}{'x BERT speed':>14}{'x BERT GiB':>12}{'token to shortest':>19}"]
    for row in rows:
        recomputed = ", checkpointing" if row["checkpointing"] else ""
        name = f"{NAMES[row['kind']]} {row['num_texts']} x {row['num_tokens']}{recomputed}"
        if "step_s" not in row:
            lines.append(f"{name:32}  over {row['over']}")
            continue
        times, ratios = row["step_s"], ("times_faster_than_bert", "memory_to_bert")
        cells = "".join(f"{times[key]:9.3f}" for key in ("median", "min", "max"))
        cells += f"{row['peak_gib']:7.2f}"
        for key, width in (*zip(ratios, (14, 12), strict=True), ("token_cost_to_shortest", 19)):
            cells += f"{row[key]:{width}.2f}" if key in row else f"{'-':>{width}}"
        lines.append(f"{name:32}{cells}")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], machine_name: str, path: Path) -> None:
    """Draw time and memory over the length, and both against BERT's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "s_per_1000_tokens": "seconds per 1000 tokens",
        "peak_gib": "GiB above model and optimizer, one step",
        "times_faster_than_bert": "times the speed of BERT (1 = as fast)",
    }
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8))
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for kind in KINDS:
            for checkpointing, style in ((False, "o-"), (True, "o--")):
                line = [r for r in rows if (r["kind"], r["checkpointing"]) == (kind, checkpointing)]
                drawn = [(r["num_tokens"], r[key]) for r in line if key in r]
                name = NAMES[kind] + (", checkpointing" if checkpointing else "")
                look = {"ms": 4, "mfc": "white"} if checkpointing else {"ms": 5}
                axis.plot(*zip(*drawn, strict=True) if drawn else ((), ()), style,
                          color=COLORS[kind], label=name, **look)  # fmt: skip
                beyond = [r["num_tokens"] for r in line if "over" in r]
                if beyond and key != "times_faster_than_bert":
                    height = [1.0 - 0.04 * checkpointing] * len(beyond)
                    axis.plot(beyond, height, "x", color=COLORS[kind], clip_on=False, ms=8,
                              transform=axis.get_xaxis_transform())  # fmt: skip
        _finish(axis, label, sorted({row["num_tokens"] for row in rows}))
    tokens = max(row["texts_x_tokens"] for row in rows)
    over = "; x: over the limit" if any("over" in row for row in rows) else ""
    figure.suptitle(
        f"Training step of {rows[0]['size']} encoders, {tokens:,} tokens a step, {machine_name}, "
        f"{'bfloat16' if rows[0]['precision'] == 'bf16' else 'float32'}{over}"
    )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _finish(axis: Any, label: str, lengths: list[int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.set_xlim(lengths[0] / 1.15, lengths[-1] * 1.15)
    low, high = axis.dataLim.intervaly
    if label.startswith("GiB") and high < 20 * low:
        axis.set_ylim(bottom=0)
    else:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set(xlabel="tokens per text", title=label)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def report(options: Options) -> None:
    found = measure(options)
    rows = compare(found)
    print("\n" + table(rows))
    settings = {k: v for k, v in vars(options).items() if k not in ("output", "short")}
    content = {"machine": machine(), "torch": torch.__version__, "settings": settings}
    where = f"{options.threads} CPU thread{'s' * (options.threads > 1)}"
    if options.device == "cuda":
        where = content["gpu"] = torch.cuda.get_device_name()
    name = f"long_documents_{options.encoder}" + ("_cuda" if options.device == "cuda" else "")
    print(save(name, {**content, "cases": rows}, options.output))
    plot(rows, where, options.output / f"{name}.png")
    print(options.output / f"{name}.png")


def available_gib() -> float:
    """Memory that is free for new processes."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8.0
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--encoder", choices=("base", "small", "nano"), default="small")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens per text")
    parser.add_argument("--tokens_per_step", type=int, default=16_384)
    parser.add_argument("--attention_dropout", type=float, default=0.0, help="of BERT")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow_s", type=float, default=10.0, help="slower cases are timed once")
    parser.add_argument("--limit_s", type=float, default=120.0, help="of a case's first step")
    parser.add_argument(
        "--limit_gib",
        type=float,
        default=0.8 * available_gib(),
        help="default: 80 %% of what is free",
    )
    parser.add_argument(
        "--short", action="store_true", help="nano encoders, two lengths, one round"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.short:
        options.encoder, options.lengths, options.rounds = "nano", [512, 2048], 1
        options.tokens_per_step = 2048
    options.lengths = sorted(set(options.lengths))
    report(options)


if __name__ == "__main__":
    main()
