"""Speed and memory of PoNet, its released arrangement, BERT and FNet: mixer, layer, model.

    python benchmarks/encoders.py                       (one CPU thread; see --rounds, --lengths)
    python benchmarks/encoders.py --precisions bf16 --lengths 512 8192 --parts layer
    python benchmarks/encoders.py --device cuda

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

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
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
from _encoder_claims import claims
from _encoder_views import plot, table
from _rivals import CONFIGS, DTYPES, Rival, Setting, Subject, ours, rivals_on
from _targets import targets_table
from _timing import Clock, copying, cpu_features, peak_bytes, product, ratio, run_rounds, times
from _work import least_layer_seconds, step_flops

LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
SQUARE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**26, "cuda": 2**30}
Options = argparse.Namespace
Samples = dict[str, list[dict[str, float] | None]]


def settings(options: Options) -> list[Setting]:
    """Return every combination that was asked for."""
    return [
        Setting(part=part, mode=mode, size=size, precision=precision, device=options.device)
        for size in options.sizes
        for precision in options.precisions
        for part in options.parts
        for mode in options.modes
    ]


def probes(setting: Setting, tokens: int) -> dict[str, tuple[Any, float]]:
    """Return what shows the rates of the machine: name -> step, its operations or bytes."""
    config = CONFIGS["ponet"].preset(setting.size)  # type: ignore[arg-type]
    width, inner, side = config.hidden_size, config.ffn_size, SQUARE[setting.device]
    form: dict[str, Any] = {"dtype": DTYPES[setting.precision], "device": setting.device}
    copied = COPIED_BYTES[setting.device]
    return {
        "product, square": (product(side, side, side, **form), 2.0 * side**3),
        "product, feed-forward": (
            product(tokens, width, inner, **form),
            2.0 * tokens * width * inner,
        ),
        "copy": (copying(copied, device=setting.device), 2.0 * copied),
    }


def measure(setting: Setting, rivals: list[Rival], options: Options) -> dict[str, Any]:
    """Return rows and machine rates of one setting."""
    torch._dynamo.reset()
    clock = Clock(device=options.device, threads=options.threads)
    shapes = [(max(1, options.tokens_per_step // n), n) for n in options.lengths]
    subjects = {rival: Subject(rival, setting, shapes) for rival in rivals}
    cells = {(rival, tokens): f"{rival.label} {tokens}" for rival in rivals for _, tokens in shapes}
    steps = {name: subjects[rival].step(tokens) for (rival, tokens), name in cells.items()}
    rates = probes(setting, options.tokens_per_step)
    steps |= {name: step for name, (step, _) in rates.items()}
    samples = run_rounds(steps, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    by_cell = {cell: samples[name] for cell, name in cells.items()}
    found: dict[str, Any] = {"rows": [], "rates": {}}
    for name, (_, amount) in rates.items():
        found["rates"][name] = amount / times(samples[name], clock.deciding)["median"]
    for rival, tokens in cells:
        texts = dict((n, t) for t, n in shapes)[tokens]
        row = _row(setting, rival, (texts, tokens), by_cell, clock)
        row |= _work(row, found["rates"])
        row |= _memory(subjects[rival], tokens, setting)
        found["rows"].append(row)
    return found


def _row(
    setting: Setting,
    rival: Rival,
    shape: tuple[int, int],
    samples: dict[tuple[Rival, int], list[dict[str, float] | None]],
    clock: Clock,
) -> dict[str, Any]:
    """Return names, times and ratios of one rival at one length."""
    texts, tokens = shape
    own = samples[rival, tokens]
    row: dict[str, Any] = {
        **{name: getattr(setting, name) for name in ("part", "mode", "size", "precision")},
        "num_texts": texts,
        "num_tokens": tokens,
        "rival": rival.label,
        "kind": rival.kind,
        "time": clock.deciding,
        "s": times(own, clock.deciding),
        "wall_s": times(own, "wall_s"),
        "cpu_s": times(own, "cpu_s"),
    }
    row["tokens_per_s"] = texts * tokens / row["s"]["median"]
    others = [other for other, length in samples if length == tokens and other != rival]
    row["times_as_fast_as"] = {
        other.label: ratio(samples[other, tokens], own, clock.deciding) for other in others
    }
    shortest = min(length for other, length in samples if other == rival)
    row["token_cost_to_shortest"] = ratio(own, samples[rival, shortest], clock.deciding)
    return row


def _work(row: dict[str, Any], rates: dict[str, float]) -> dict[str, Any]:
    """Return operations, their rate, its share of the machine's, and the bound of a PoNet layer."""
    config = CONFIGS[row["kind"]].preset(row["size"])
    is_training, tokens = row["mode"] == "training", row["num_texts"] * row["num_tokens"]
    flops = tokens * step_flops(
        row["kind"], row["part"], config, row["num_tokens"], training=is_training
    )
    rate = max(rate for name, rate in rates.items() if name.startswith("product"))
    achieved = flops / row["s"]["median"]
    found = {
        "gflop": flops / 1e9,
        "gflop_per_s": achieved / 1e9,
        "share_of_product": achieved / rate,
    }
    if row["kind"] == "ponet" and row["part"] == "layer" and is_training:
        bound = least_layer_seconds(
            config,
            tokens=tokens,
            flops_per_s=rate,
            bytes_per_s=rates["copy"],
            bytes_per_value=DTYPES[row["precision"]].itemsize,
        )
        found |= {"least_s": bound, "share_of_bound": bound / row["s"]["median"]}
    return found


def _memory(subject: Subject, tokens: int, setting: Setting) -> dict[str, float]:
    """Return MiB that a step adds at its height, and what a further layer adds."""
    step = subject.step(tokens, keep_gradients=True)
    step()  # gradients are there from now on
    found = {"peak_mib": peak_bytes(step, setting.device) / 2**20}
    if setting.part != "model":
        two = subject.step(tokens, depth=2, keep_gradients=True)
        found["further_mib"] = peak_bytes(two, setting.device) / 2**20 - found["peak_mib"]
    subject.encoder.zero_grad(set_to_none=True)
    return found


def report(options: Options) -> None:
    torch.set_num_threads(options.threads)
    mode = options.compile_mode if options.compile else ""
    rivals = rivals_on(options.device, compile_mode=mode)
    rows, rates = [], []
    for setting in settings(options):
        found = measure(setting, rivals, options)
        rows += found["rows"]
        rates.append({"size": setting.size, "precision": setting.precision, **found["rates"]})
        print(table(found["rows"], found["rates"], our_label=ours(rivals).label), flush=True)
    features = cpu_features()
    targets = claims(rows, ours(rivals).label, device=options.device, has_amx=features["amx_bf16"])
    print(targets_table(targets))
    content: dict[str, Any] = {"machine": {**machine(), **features}}
    content["torch"] = torch.__version__
    if options.device == "cuda":
        content["gpu"] = torch.cuda.get_device_name()
    kept = {k: v for k, v in vars(options).items() if k not in ("output", "short", "name")}
    content |= {"settings": kept, "ours": ours(rivals).label, "targets": targets}
    name = options.name or f"encoders_{options.device}"
    print(save(name, {**content, "rates": rates, "rows": rows}, options.output))
    print(plot(rows, ours(rivals).label, options.output / f"{name}.png"))


def read_options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--sizes", nargs="+", choices=("base", "small", "nano"),
                        default=["base", "small"], help="widths 768, 256, 128")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=("mixer", "layer", "model"),
                        default=["mixer", "layer"])  # fmt: skip
    parser.add_argument("--modes", nargs="+", choices=("training", "inference"),
                        default=["training"])  # fmt: skip
    parser.add_argument("--precisions", nargs="+", choices=tuple(DTYPES), default=None,
                        help="default: 32 on a CPU, bf16 on CUDA")  # fmt: skip
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens per text")
    parser.add_argument("--tokens_per_step", type=int, help="default: 16384; on CUDA 65536")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow_s", type=float, default=10.0,
                        help="what takes longer is left out of every second round")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="also compiled rivals; default: on CUDA")  # fmt: skip
    parser.add_argument("--compile_mode", default="default",
                        choices=("default", "reduce-overhead", "max-autotune"))  # fmt: skip
    parser.add_argument("--short", action="store_true", help="small layers, two lengths, 3 rounds")
    parser.add_argument("--name", help="of the files; default: encoders_<device>")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    if options.short:
        options.sizes, options.parts, options.rounds = ["small"], ["mixer", "layer"], 3
        options.lengths, options.tokens_per_step = [512, 2048], options.tokens_per_step or 2048
    options.precisions = options.precisions or ["bf16" if cuda else "32"]
    options.compile = cuda if options.compile is None else options.compile
    options.tokens_per_step = options.tokens_per_step or (65_536 if cuda else 16_384)
    options.lengths = sorted(set(options.lengths))
    return options


if __name__ == "__main__":
    report(read_options())
