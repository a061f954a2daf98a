"""The setting of the paper's Table 2: training steps per second and memory on long texts.

    python benchmarks/lra_table2.py                     (one CPU thread, 2 texts a step)
    python benchmarks/lra_table2.py --device cuda       (32 texts a step, as in the published run)

The Long Range Arena's text classifier: 2 layers of width 64, feed-forward 128, 2 heads, learned
positions, dropout 0.1, mean over the tokens, two classes, AdamW; PoNet with segments of 2 tokens
and unguarded special tokens. The same number of texts at every length.

Beside the published rivals stand two they did not have: the Transformer with PyTorch's fused
attention, and PoNet in the arrangement of the released code. `plain attention` keeps its L x L
shares in memory, as the published Transformer did. What differs from the published run: norms come
after the sub-layers, as everywhere in this project, which changes neither work nor memory by more
than a norm; texts are random bytes; on CUDA bf16 instead of fp16. Fused attention has no dropout on
its shares. Published figures come from an unnamed GPU: only their ratios can be compared, and only
with those measured on CUDA; a CPU spends most of plain attention's time on dropout.
"""

# ruff: noqa: E402 (the search path is mended before the imports that need it)
import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
from _lra_published import LENGTHS, PUBLISHED_PEAK_GB, PUBLISHED_STEPS_PER_S
from _official import official_encoder
from _rivals import CONFIGS
from _targets import Target, target, targets_table
from _timing import Clock, cpu_features, peak_bytes, ratio, run_rounds, times
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ponet import EncoderBatch, PoNetConfig
from ponet.encoders import build_encoder

Options = argparse.Namespace
Row = dict[str, Any]
PLAIN, FUSED = "Transformer, plain attention", "Transformer, fused attention"
OFFICIAL, PONET, FNET = "PoNet, released arrangement", "PoNet", "FNet"
KINDS = {PLAIN: "bert", FUSED: "bert", FNET: "fnet", OFFICIAL: "official", PONET: "ponet"}
COLORS = {PLAIN: "C3", FUSED: "C1", FNET: "C2", OFFICIAL: "C9", PONET: "C0"}
COLORS |= {"Transformer": "C3", "Performer": "C4", "Nyströmformer": "C5"}
VOCAB_SIZE, TOKENS_PER_SEGMENT = 512, 2


class TextClassifier(nn.Module):
    """Encoder, mean over the tokens, two classes."""

    def __init__(self, name: str, max_positions: int, dropout: float) -> None:
        super().__init__()
        kind = KINDS[name]
        sizes: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2}
        sizes |= {"ffn_size": 128, "vocab_size": VOCAB_SIZE, "max_positions": max_positions}
        sizes |= {"dropout_prob": dropout}
        if kind == "bert":
            sizes["attention_dropout_prob"] = 0.0 if name == FUSED else dropout
        if CONFIGS[kind] is PoNetConfig:
            sizes["guard_special_tokens"] = False
        config = CONFIGS[kind](**sizes)
        if kind == "official":
            assert isinstance(config, PoNetConfig)
            self.encoder = official_encoder(config)
        else:
            self.encoder = build_encoder(config)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return logits (B, 2)."""
        logits: Tensor = self.classifier(self.encoder(batch).mean(1))
        return logits


def make_batch(num_texts: int, num_tokens: int, device: str) -> EncoderBatch:
    """Return random texts without padding and without special tokens."""
    shape = (num_texts, num_tokens)
    places_BL = torch.arange(num_tokens).expand(shape)
    return EncoderBatch(
        input_ids=torch.randint(1, VOCAB_SIZE, shape),
        mask=torch.ones(shape, dtype=torch.bool),
        token_type_ids=torch.zeros(shape, dtype=torch.int64),
        segment_ids=places_BL // TOKENS_PER_SEGMENT,
        special_mask=torch.zeros(shape, dtype=torch.bool),
        segments_are_runs=True,
        has_padding=False,
    ).to(device)


def training_step(name: str, num_tokens: int, options: Options) -> Callable[[], None]:
    """Return a function that does forward, backward and AdamW."""
    torch.manual_seed(1)
    with torch.device(options.device):
        model = TextClassifier(name, num_tokens, options.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    batch = make_batch(options.num_texts, num_tokens, options.device)
    targets_B = torch.zeros(options.num_texts, dtype=torch.int64, device=options.device)

    def attention() -> AbstractContextManager[Any]:
        return sdpa_kernel(SDPBackend.MATH) if name == PLAIN else nullcontext()

    def step() -> None:
        half = options.precision == "bf16"
        with attention(), torch.autocast(options.device, torch.bfloat16, enabled=half):
            logits_BC = model(batch)
        F.cross_entropy(logits_BC.float(), targets_B).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def fits(name: str, num_tokens: int, options: Options) -> bool:
    """Return whether a step should fit: plain attention keeps about 12 arrays of B x H x L x L."""
    if name != PLAIN or options.device == "cuda":
        return True
    return 12 * options.num_texts * 2 * num_tokens**2 * 4 / 2**30 <= options.limit_gib


def measure(options: Options) -> list[Row]:
    """Return one row per rival and length."""
    steps: dict[str, Callable[[], None]] = {}
    rows: dict[str, Row] = {}
    for num_tokens in options.lengths:
        for name in KINDS:
            cell = f"{name} {num_tokens}"
            rows[cell] = {"rival": name, "num_tokens": num_tokens, "over_memory": True}
            if not fits(name, num_tokens, options):
                continue
            step = training_step(name, num_tokens, options)
            try:
                step()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                continue
            rows[cell] |= {
                "over_memory": False,
                "peak_mib": peak_bytes(step, options.device) / 2**20,
            }
            steps[cell] = step
    clock = Clock(device=options.device, threads=options.threads)
    samples = run_rounds(steps, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    for cell, found in samples.items():
        row, key = rows[cell], clock.deciding
        seconds = times(found, key)
        row |= {"time": key, "s": seconds, "wall_s": times(found, "wall_s")}
        row["steps_per_s"] = 1 / seconds["median"]
        others = {name: f"{name} {row['num_tokens']}" for name in KINDS if name != row["rival"]}
        row["times_as_fast_as"] = {
            name: ratio(samples[other], found, key)
            for name, other in others.items()
            if other in samples
        }
    return list(rows.values())


def claims(rows: list[Row], device: str) -> list[Target]:
    """Hold PoNet's speed, as a multiple of the plain Transformer's, against the published one.

    On a CPU the two multiples cannot be compared, so nothing counts as measured.
    """
    found = []
    for row in rows:
        if row["rival"] != PONET or row["num_tokens"] not in LENGTHS:
            continue
        column = LENGTHS.index(row["num_tokens"])
        ours, theirs = (PUBLISHED_STEPS_PER_S[name][column] for name in ("PoNet", "Transformer"))
        measured = row["times_as_fast_as"].get(PLAIN)
        if ours is None or theirs is None:
            continue
        claim = f"{row['num_tokens']} tokens: x Transformer with plain attention; target: published"
        median = measured["median"] if measured and device == "cuda" else None
        found.append(target(claim, median, at_least=round(ours / theirs, 1)))
    return found


def table(rows: list[Row], lengths: list[int]) -> str:
    """Return steps/s, ratios and MiB by length, and the published figures beside them."""

    def line(name: str, cells: list[str]) -> str:
        return f"{name:36}" + "".join(f"{cell:>18}" for cell in cells)

    lines = ["", line("measured: steps/s (x plain), MiB", [f"{n:,}" for n in lengths])]
    for name in KINDS:
        mine = [row for row in rows if row["rival"] == name]
        lines.append(line(name, [_cell(row) for row in mine]))
    lines.append("published, PoNet paper, Table 2 (unnamed GPU): steps/s (x Transformer), GB")
    columns = [LENGTHS.index(n) for n in lengths if n in LENGTHS]
    for name, speeds in PUBLISHED_STEPS_PER_S.items():
        cells = []
        for n in columns:
            speed, base = speeds[n], PUBLISHED_STEPS_PER_S["Transformer"][n]
            times_base = f" ({speed / base:.1f})" if speed and base else ""
            memory = f", {PUBLISHED_PEAK_GB[name][n]}"
            cells.append(f"{speed}{times_base}{memory}" if speed else "out of memory")
        lines.append(line(name, cells))
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if row["over_memory"]:
        return "over memory"
    plain = row["times_as_fast_as"].get(PLAIN)
    share = f" ({plain['median']:.2f})" if plain else ""
    return f"{row['steps_per_s']:.2f}{share}, {row['peak_mib']:,.0f}"


def plot(rows: list[Row], path: Path) -> Path:
    """Draw steps per second and memory over the length, the published speeds dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6))
    for name in KINDS:
        mine = [row for row in rows if row["rival"] == name and not row["over_memory"]]
        lengths = [row["num_tokens"] for row in mine]
        for axis, key in ((axes[0], "steps_per_s"), (axes[1], "peak_mib")):
            axis.plot(lengths, [row[key] for row in mine], "o-", ms=4, color=COLORS[name],
                      label=name)  # fmt: skip
    for name, speeds in PUBLISHED_STEPS_PER_S.items():
        drawn = [(n, speed) for n, speed in zip(LENGTHS, speeds, strict=True) if speed]
        axes[2].plot(*zip(*drawn, strict=True), "s--", ms=4, label=name, color=COLORS[name])
    titles = ("measured: steps per second", "measured: MiB above the model", "published: steps/s")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="tokens per text", xscale="log", yscale="log")
        axis.set_xticks(LENGTHS, [str(length) for length in LENGTHS], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def report(options: Options) -> None:
    torch.set_num_threads(options.threads)
    rows = measure(options)
    print(table(rows, options.lengths))
    targets = claims(rows, options.device)
    print("\n" + targets_table(targets))
    content: dict[str, Any] = {"machine": {**machine(), **cpu_features()}}
    content["torch"] = torch.__version__
    if options.device == "cuda":
        content["gpu"] = torch.cuda.get_device_name()
    kept = {k: v for k, v in vars(options).items() if k not in ("output", "short")}
    published = {"steps_per_s": PUBLISHED_STEPS_PER_S, "peak_gb": PUBLISHED_PEAK_GB}
    content |= {"settings": kept, "targets": targets, "rows": rows}
    content["published"] = {"source": "arXiv 2110.02442, Table 2", "lengths": LENGTHS, **published}
    name = f"lra_table2_{options.device}"
    print(save(name, content, options.output))
    print(plot(rows, options.output / f"{name}.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens per text")
    parser.add_argument("--num_texts", type=int, help="per step; default: 2, on CUDA 32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--precision", choices=("32", "bf16"), help="default: 32, on CUDA bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow_s", type=float, default=10.0,
                        help="what takes longer is left out of every second round")  # fmt: skip
    parser.add_argument("--limit_gib", type=float, default=6.0, help="of plain attention on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--short", action="store_true", help="512 and 2048 tokens, 3 rounds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.short:
        options.lengths, options.rounds = [512, 2048], 3
    options.num_texts = options.num_texts or (32 if options.device == "cuda" else 2)
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "32")
    options.lengths = sorted(set(options.lengths))
    report(options)


if __name__ == "__main__":
    main()
