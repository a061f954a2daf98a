"""Speed and memory of PoNet, its released arrangement, BERT and FNet: mixer, layer, model.

    python -m benchmarks.encoders                       (one CPU thread; see --rounds, --lengths)
    python -m benchmarks.encoders --precisions bf16 --lengths 512 8192 --parts layer
    python -m benchmarks.encoders --device cuda

Rivals: PoNet with each kernel set, the released code's arrangement of the same function, BERT with
PyTorch's fused attention, FNet; with `--compile` (the default on CUDA) the best kernel set, BERT
and FNet also compiled. All rivals and all lengths of a setting are timed in turn, in rounds; ratios
are formed within a round, and medians are taken over rounds. On one CPU thread the time is CPU time
of the process, on CUDA that of the device. A step of the mixer or layer starts from hidden states,
a step of the model from token ids; there is no loss and no optimiser (see pretraining.py). What the
layers of a batch share (masks, indices) is made beforehand for mixer and layer, and in every step
of the model.

Memory is how far one step raises the peak, above weights, their gradients and inputs. For layers
there is also what each further layer adds: two in a row less one.
"""

import argparse
import itertools
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks import page
from benchmarks.charts import line_chart
from benchmarks.harness import (
    Cell,
    Clock,
    Step,
    copying,
    peak_bytes,
    product,
    rows_of,
    run_rounds,
    times,
)
from benchmarks.report import Options, Target, fill, finish, machine, make_parser
from benchmarks.report import target as claim
from benchmarks.rivals import CONFIG_CLASSES, DTYPES, Rival, Setting, Subject, ours, rivals_on
from benchmarks.work import least_layer_seconds, step_flops

SQUARE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**26, "cuda": 2**30}
Row = dict[str, Any]


def probes(setting: Setting, tokens: int) -> dict[str, tuple[Any, float]]:
    """Return what shows the rates of the machine: name -> step, its operations or bytes."""
    config = CONFIG_CLASSES["ponet"].preset(setting.size)  # type: ignore[arg-type]
    width, inner, side = config.hidden_size, config.ffn_size, SQUARE[setting.device]
    form: dict[str, Any] = {"dtype": DTYPES[setting.precision], "device": setting.device}
    copied = COPIED_BYTES[setting.device]
    forward = product(tokens, width, inner, **form)
    return {
        "product, square": (product(side, side, side, **form), 2.0 * side**3),
        "product, feed-forward": (forward, 2.0 * tokens * width * inner),
        "copy": (copying(copied, device=setting.device), 2.0 * copied),
    }


def measure(setting: Setting, rivals: list[Rival], options: Options) -> dict[str, Any]:
    """Return rows and machine rates of one setting."""
    torch._dynamo.reset()
    clock = Clock(device=options.device, threads=options.threads)
    shapes = [(max(1, options.tokens_per_step // n), n) for n in options.lengths]
    subjects = {rival.label: Subject(rival, setting, shapes) for rival in rivals}
    steps: dict[Cell, Step] = {
        (name, tokens): subject.step(tokens)
        for name, subject in subjects.items()
        for _, tokens in shapes
    }
    machine_steps = probes(setting, options.tokens_per_step)
    steps |= {(name, 0): step for name, (step, _) in machine_steps.items()}
    samples = run_rounds(steps, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    rates = {
        name: amount / times(samples.pop((name, 0)), clock.deciding)["median"]
        for name, (_, amount) in machine_steps.items()
    }
    rows = []
    for (name, tokens), found in rows_of(samples, clock.deciding).items():
        texts, subject = max(1, options.tokens_per_step // tokens), subjects[name]
        row: Row = {**vars(setting), "kind": subject.rival.kind, "num_texts": texts, **found}
        row["tokens_per_s"] = texts * tokens / row["s"]["median"]
        rows.append(row | _work(row, rates) | _memory(subject, tokens))
    return {"rows": rows, "rates": rates}


def _work(row: Row, rates: dict[str, float]) -> Row:
    """Return operations, their rate, its share of the machine's, and the bound of a PoNet layer."""
    config = CONFIG_CLASSES[row["kind"]].preset(row["size"])
    is_training, tokens = row["mode"] == "training", row["num_texts"] * row["num_tokens"]
    kind, part = row["kind"], row["part"]
    flops = tokens * step_flops(kind, part, config, row["num_tokens"], training=is_training)
    rate = max(rate for name, rate in rates.items() if name.startswith("product"))
    seconds = row["s"]["median"]
    found = {"gflop": flops / 1e9, "gflop_per_s": flops / seconds / 1e9}
    found["share_of_product"] = flops / seconds / rate
    if (kind, part) == ("ponet", "layer") and is_training:
        found["least_s"] = least_layer_seconds(
            config,
            tokens=tokens,
            flops_per_s=rate,
            bytes_per_s=rates["copy"],
            bytes_per_value=DTYPES[row["precision"]].itemsize,
        )
        found["share_of_bound"] = found["least_s"] / seconds
    return found


def _memory(subject: Subject, tokens: int) -> dict[str, float]:
    """Return MiB that a step adds at its height, and what a further layer adds."""
    device = subject.setting.device
    step = subject.step(tokens, keep_gradients=True)
    step()  # gradients are there from now on
    found = {"peak_mib": peak_bytes(step, device) / 2**20}
    if subject.setting.part != "model":
        two = subject.step(tokens, depth=2, keep_gradients=True)
        found["further_mib"] = peak_bytes(two, device) / 2**20 - found["peak_mib"]
    subject.encoder.zero_grad(set_to_none=True)
    return found


def find(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """Return the row with these values, None if it was not measured."""
    return next((row for row in rows if all(row[k] == v for k, v in wanted.items())), None)


def claims(
    rows: list[Row], our_label: str, *, device: str, has_amx: bool | None = None
) -> list[Target]:
    """Return every claim with what these rows say of it; those for bf16 on a CPU are for AMX."""
    training = [row for row in rows if row["mode"] == "training"]
    found: list[Target] = []
    for size, width in {"base": 768, "small": 256}.items():
        mine = {"rival": our_label, "size": size}
        if device == "cpu":
            found += _cpu_speed(training, mine, width, lacks="" if has_amx else "AMX")
        found += _memory_and_length(training, mine, width, device)
    return found


def _cpu_speed(rows: list[Row], mine: Row, width: int, *, lacks: str) -> list[Target]:
    found = []
    for length in (512, 8192):
        for part, precision, other, bound in (
            ("mixer", "32", "official PoNet", 2.2),
            ("layer", "32", "official PoNet", 1.4),
            ("layer", "bf16", "official PoNet", 1.8),
            ("layer", "32", "BERT", 1.2 if length == 512 else 3.5),
        ):
            row = find(rows, **mine, num_tokens=length, part=part, precision=precision)
            speed = row["times_as_fast_as"].get(other) if row else None
            form = "fp32" if precision == "32" else precision
            text = f"{part}, {form}, width {width}, {length} tokens: x {other}"
            needed = lacks if precision == "bf16" else ""
            median = speed["median"] if speed else None
            found.append(claim(text, median, at_least=bound, lacks=needed))
    return found


def _memory_and_length(rows: list[Row], mine: Row, width: int, device: str) -> list[Target]:
    """Memory against BERT's at 512 tokens, and memory and time per token of long texts."""
    place = {**mine, "part": "layer", "precision": "32" if device == "cpu" else "bf16"}
    own, longest = find(rows, **place, num_tokens=512), find(rows, **place, num_tokens=16_384)
    bert = find(rows, **{**place, "rival": "BERT"}, num_tokens=512)
    alone = further = flat = cost = None
    if own and bert:
        alone, further = (own[key] / bert[key] for key in ("peak_mib", "further_mib"))
    if own and longest:
        cost = longest["time_to_shortest"]["median"]
        long, short = (r["peak_mib"] / (r["num_texts"] * r["num_tokens"]) for r in (longest, own))
        flat = long / short
    name = f"layer, width {width}"
    return [
        # Half a percent for the tables of a batch, which do not grow with the width.
        claim(f"{name}, 512 tokens: memory of one to BERT's", alone, at_most=1.005),
        claim(f"{name}, 512 tokens: memory of a further one to BERT's", further, at_most=1.005),
        claim(f"{name}: memory per token, 16384 to 512 tokens", flat, at_most=1.05),
        claim(f"{name}: time per token, 16384 to 512 tokens", cost, at_most=1.15),
    ]


def _panels(rows: list[Row], our_label: str) -> dict[str, Any]:
    """Return for each setting our speed as a multiple of every rival's, over the length."""
    panels: dict[str, Any] = {}
    for row in (row for row in rows if row["rival"] == our_label):
        for rival, speed in row["times_as_fast_as"].items():
            lines = panels.setdefault(page.heading(row), {})
            lines.setdefault(rival, []).extend([(row["num_tokens"], speed)] if speed else [])
    return panels


def report(options: Options) -> None:
    torch.set_num_threads(options.threads)
    mode = options.compile_mode if options.compile else ""
    rivals = rivals_on(options.device, compile_mode=mode)
    our_label = ours(rivals).label
    rows, rates = [], []
    for size, precision, part, way in itertools.product(
        options.sizes, options.precisions, options.parts, options.modes
    ):
        setting = Setting(
            part=part, mode=way, size=size, precision=precision, device=options.device
        )
        found = measure(setting, rivals, options)
        rows += found["rows"]
        rates.append({"size": size, "precision": precision, **found["rates"]})
        print(f"measured: {page.heading(rows[-1])}", flush=True)
    has_amx = machine()["amx_bf16"]
    targets = claims(rows, our_label, device=options.device, has_amx=has_amx)
    name = options.name or f"encoders_{options.device}"
    content = {"ours": our_label, "targets": targets, "rates": rates, "rows": rows}
    finish(name, content, options, page.encoders)
    title = f"{our_label}: speed as a multiple of each rival's"
    line_chart(_panels(rows, our_label), options.output / f"{name}.png", title=title)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, rounds=5, device=True)
    parser.add_argument("--sizes", nargs="+", choices=("base", "small", "nano"),
                        default=["base", "small"], help="widths 768, 256, 128")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=("mixer", "layer", "model"),
                        default=["mixer", "layer"])  # fmt: skip
    parser.add_argument("--modes", nargs="+", choices=("training", "inference"),
                        default=["training"])  # fmt: skip
    parser.add_argument("--precisions", nargs="+", choices=tuple(DTYPES),
                        help="default: 32 on a CPU, bf16 on CUDA")  # fmt: skip
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens per text",
                        default=[512, 1024, 2048, 4096, 8192, 16384])  # fmt: skip
    parser.add_argument("--tokens_per_step", type=int, help="default: 16384; on CUDA 65536")
    parser.add_argument("--slow_s", type=float, default=10.0,
                        help="what takes longer is left out of every second round")  # fmt: skip
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="also compiled rivals; default: on CUDA")  # fmt: skip
    parser.add_argument("--compile_mode", default="default",
                        choices=("default", "reduce-overhead", "max-autotune"))  # fmt: skip
    parser.add_argument("--name", help="of the files; default: encoders_<device>")
    options = parser.parse_args(arguments)
    if options.short:
        options.sizes, options.rounds, options.lengths = ["small"], 3, [512, 2048]
        options.tokens_per_step = options.tokens_per_step or 2048
    defaults = {"precisions": (["32"], ["bf16"]), "compile": (False, True)}
    fill(options, defaults | {"tokens_per_step": (16_384, 65_536)})
    options.lengths = sorted(set(options.lengths))
    report(options)


if __name__ == "__main__":
    main()
