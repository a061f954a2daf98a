"""Speed and memory of PoNet, its released arrangement and its rivals: mixer, layer, model.

    python -m benchmarks.encoders                       (one CPU thread; see --rounds, --lengths)
    python -m benchmarks.encoders --precisions bf16 --lengths 512 8192 --parts layer
    python -m benchmarks.encoders --device cuda

Rivals: PoNet with each kernel set, the released code's arrangement of the same function, BERT with
PyTorch's fused attention, local/global attention (window 128, every third layer global; a layer is
the mean of three), FNet; with `--compile` (the default on CUDA) all but the second also compiled.
All rivals and all lengths of a setting are timed in turn, in rounds; ratios are formed within a
round, and medians are taken over rounds. On one CPU thread the time is CPU time of the process, on
CUDA that of the device. A step of the mixer or layer starts from hidden states, a step of the model
from token ids; there is no loss and no optimiser (see pretraining.py). What the layers of a batch
share (masks, indices) is made beforehand for mixer and layer, and in every step of the model.

Memory is how far one step raises the peak, above weights, their gradients and inputs. For layers
there is also what each further layer adds: two in a row less one.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import harness, report, rivals
from benchmarks.report import DEVICE, ROUNDS, Option, Options, Row, Target
from benchmarks.rivals import CONFIG_CLASSES, DTYPES, PRECISIONS, Rival, Setting, Subject
from training.utilisation import use_tensor_cores

SQUARE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**26, "cuda": 2**30}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
OPTIONS = {
    **DEVICE,
    "rounds": Option(5, ROUNDS, short=3),
    "sizes": Option(
        ["base", "small"], "widths 768, 256, 128", rivals.SIZES, cuda=["base"], short=["small"]
    ),
    "parts": Option(["mixer", "layer"], choices=("mixer", "layer", "model"), cuda=["layer"]),
    "modes": Option(["training"], choices=("training", "inference")),
    "precisions": Option(["32"], choices=tuple(DTYPES), cuda=["bf16"]),
    "lengths": Option(
        [512, 1024, 2048, 4096, 8192, 16384],
        "tokens per text",
        cuda=[512, 4096, 16_384],
        short=[512, 2048],
    ),
    "tokens_per_step": Option(16_384, cuda=65_536, short=2048),
    "slow_s": Option(10.0, "what takes longer is left out of every second round"),
    "compile": Option(False, "also compiled rivals; default: on CUDA", cuda=True),
    "compile_mode": Option("default", choices=COMPILE_MODES),
    "name": Option("", "of the files; default: encoders_<device>"),
}


def probes(setting: Setting, tokens: int) -> dict[str, tuple[Any, float]]:
    """Return what shows the rates of the machine: name -> step, its operations or bytes."""
    config = CONFIG_CLASSES["ponet"].preset(setting.size)  # type: ignore[arg-type]
    width, inner, side = config.hidden_size, config.ffn_size, SQUARE[setting.device]
    form: dict[str, Any] = {"dtype": DTYPES[setting.precision], "device": setting.device}
    copied = COPIED_BYTES[setting.device]
    forward = harness.product(tokens, width, inner, **form)
    return {
        "product, square": (harness.product(side, side, side, **form), 2.0 * side**3),
        "product, feed-forward": (forward, 2.0 * tokens * width * inner),
        "copy": (harness.copying(copied, device=setting.device), 2.0 * copied),
    }


def measure(setting: Setting, compared: list[Rival], options: Options) -> dict[str, Any]:
    """Return rows and machine rates of one setting."""
    torch._dynamo.reset()
    use_tensor_cores(PRECISIONS[setting.precision])
    clock = harness.Clock(device=options.device, threads=options.threads)
    shapes = [(max(1, options.tokens_per_step // n), n) for n in options.lengths]
    subjects = {rival.label: Subject(rival, setting, shapes) for rival in compared}
    steps: dict[harness.Cell, harness.Step] = {
        (name, tokens): subject.step(tokens)
        for name, subject in subjects.items()
        for _, tokens in shapes
    }
    machine_steps = probes(setting, options.tokens_per_step)
    steps |= {(name, 0): step for name, (step, _) in machine_steps.items()}
    steps, errors = harness.first_calls(steps)
    samples = harness.run_rounds(steps, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    for (name, _), found in samples.items():
        if name in subjects:
            found[:] = [_per_layer(sample, subjects[name].layers_per_step) for sample in found]
    rates = {
        name: amount / harness.times(samples.pop((name, 0)), clock.deciding)["median"]
        for name, (_, amount) in machine_steps.items()
    }
    rows = []
    for (name, tokens), found in harness.rows_of(samples, clock.deciding).items():
        texts, subject = max(1, options.tokens_per_step // tokens), subjects[name]
        row: Row = {**vars(setting), "kind": subject.rival.kind, "num_texts": texts, **found}
        row["tokens_per_s"] = texts * tokens / row["s"]["median"]
        rows.append(row | _work(row, rates) | _memory(subject, tokens))
    failed = [
        {**vars(setting), "rival": name, "num_tokens": tokens, "error": error}
        for (name, tokens), error in errors.items()
    ]
    return {"rows": rows, "rates": rates, "errors": failed}


def _per_layer(sample: harness.Sample, layers: int) -> harness.Sample:
    return sample and {key: seconds / layers for key, seconds in sample.items()}


def _work(row: Row, rates: dict[str, float]) -> Row:
    """Return operations, their rate, its share of the machine's, and the bound of a PoNet layer."""
    config = CONFIG_CLASSES[row["kind"]].preset(row["size"])
    is_training, tokens = row["mode"] == "training", row["num_texts"] * row["num_tokens"]
    kind, part = row["kind"], row["part"]
    flops = tokens * rivals.step_flops(kind, part, config, row["num_tokens"], training=is_training)
    rate = max(rate for name, rate in rates.items() if name.startswith("product"))
    seconds = row["s"]["median"]
    found = {"gflop": flops / 1e9, "gflop_per_s": flops / seconds / 1e9}
    found["share_of_product"] = flops / seconds / rate
    if (kind, part) == ("ponet", "layer") and is_training:
        found["least_s"] = rivals.least_layer_seconds(
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
    found = {"peak_mib": harness.peak_bytes(step, device) / 2**20}
    found["mib_per_token"] = found["peak_mib"] / subject.batches[tokens].mask.numel()
    if subject.setting.part != "model":
        two = subject.step(tokens, depth=2, keep_gradients=True)
        added = harness.peak_bytes(two, device) / 2**20 - found["peak_mib"]
        found["further_mib"] = added / subject.layers_per_step
    subject.encoder.zero_grad(set_to_none=True)
    return found


def claims(rows: list[Row], our_label: str, *, device: str, lacks: str = "") -> list[Target]:
    """Return every claim with what these rows say of it; for bf16 a CPU may lack something."""
    found: list[Target] = []
    for size, width in {"base": 768, "small": 256}.items():
        mine = {"mode": "training", "rival": our_label, "size": size}
        for length in (512, 8192) if device == "cpu" else ():
            for part, precision, other, bound in (
                ("mixer", "32", "official PoNet", 2.2),
                ("layer", "32", "official PoNet", 1.4),
                ("layer", "bf16", "official PoNet", 1.8),
                ("layer", "32", "BERT", 1.2 if length == 512 else 3.5),
            ):
                place = {**mine, "num_tokens": length, "part": part, "precision": precision}
                speed = report.find(rows, "times_as_fast_as", other, "median", **place)
                form = "fp32" if precision == "32" else precision
                text = f"{part}, {form}, width {width}, {length} tokens: x {other}"
                missing = lacks if precision == "bf16" else ""
                found.append(report.target(text, speed, at_least=bound, lacks=missing))
        place = {**mine, "part": "layer", "precision": "32" if device == "cpu" else "bf16"}
        found += _memory_and_length(rows, place, f"layer, width {width}")
    return found


def _memory_and_length(rows: list[Row], place: Row, name: str) -> list[Target]:
    """Memory against BERT's at 512 tokens, and memory and time per token of long texts."""

    def figure(key: str, **other: Any) -> Any:
        return report.find(rows, key, **{**place, "num_tokens": 512, **other})

    def share(key: str, mine: Row, other: Row) -> float | None:
        one, two = figure(key, **mine), figure(key, **other)
        return one / two if one and two else None

    bert, long = {"rival": "BERT"}, {"num_tokens": 16_384}
    cost = (figure("time_to_shortest", **long) or {}).get("median") if figure("s") else None
    return [
        # Half a percent for the tables of a batch, which do not grow with the width.
        report.target(name + text, measured, at_most=bound)
        for text, measured, bound in (
            (", 512 tokens: memory of one to BERT's", share("peak_mib", {}, bert), 1.005),
            (
                ", 512 tokens: memory of a further one to BERT's",
                share("further_mib", {}, bert),
                1.005,
            ),
            (": memory per token, 16384 to 512 tokens", share("mib_per_token", long, {}), 1.05),
            (": time per token, 16384 to 512 tokens", cost, 1.15),
        )
    ]


def _panels(rows: list[Row], our_label: str) -> dict[str, Any]:
    """Return for each setting our speed as a multiple of every rival's, over the length."""
    panels: dict[str, Any] = {}
    for row in (row for row in rows if row["rival"] == our_label):
        for rival, speed in row["times_as_fast_as"].items():
            lines = panels.setdefault(report.heading(row), {})
            lines.setdefault(rival, []).extend([(row["num_tokens"], speed)] if speed else [])
    return panels


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    mode = options.compile_mode if options.compile else ""
    compared = rivals.rivals_on(options.device, compile_mode=mode)
    our_label = rivals.ours(compared).label
    name = options.name or f"encoders_{options.device}"
    rows: list[Row] = []
    content: dict[str, Any] = {"ours": our_label, "rates": [], "errors": [], "rows": rows}
    for size, precision, part, mode in itertools.product(
        options.sizes, options.precisions, options.parts, options.modes
    ):
        form: dict[str, Any] = {"size": size, "precision": precision}
        setting = Setting(part=part, mode=mode, device=options.device, **form)
        found = measure(setting, compared, options)
        rows += found["rows"]
        content["errors"] += found["errors"]
        content["rates"].append({**form, **found["rates"]})
        report.write(name, content, options)
        print(f"measured: {report.heading(rows[-1])}", flush=True)
    lacks = report.lacks_fast_bf16() if options.device == "cpu" else ""
    content["targets"] = claims(rows, our_label, device=options.device, lacks=lacks)
    report.finish(name, content, options, kind="encoders")
    title = f"{our_label}: speed as a multiple of each rival's"
    report.line_chart(_panels(rows, our_label), options.output / f"{name}.png", title=title)


if __name__ == "__main__":
    main()
