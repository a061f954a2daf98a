"""The setting of the paper's Table 2: training steps per second and memory on long texts.

    python -m benchmarks.lra_table2                     (one CPU thread, 2 texts a step)
    python -m benchmarks.lra_table2 --device cuda       (32 texts a step, as the authors train it)

The Long Range Arena's text classifier: 2 layers of width 64, feed-forward 128, 2 heads, learned
positions, dropout 0.1, mean over the tokens, two classes, AdamW; PoNet with segments of 2 tokens
and unguarded special tokens. The same number of texts at every length.

Beside the published rivals stand two they did not have: the Transformer with PyTorch's fused
attention, and PoNet in the arrangement of the released code. `plain attention` keeps its L x L
shares in memory, as the published Transformer did. What differs from the published run: norms come
after the sub-layers, as everywhere in this project, which changes neither work nor memory by more
than a norm; texts are random bytes; on CUDA bf16 instead of fp16. Fused attention has no dropout on
its shares. Published figures come from an unnamed GPU: only their ratios can be compared, and only
with those measured on CUDA; a CPU spends most of plain attention's time on dropout, and a good part
of PoNet's where that is PyTorch's: a rival of its own there.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import report
from benchmarks.harness import LIMITS, Step, measure_steps
from benchmarks.report import DEVICE, ROUNDS, Option, Options, Row, Target
from benchmarks.rivals import (
    CONFIG_CLASSES,
    TORCH_DROPOUT,
    Rival,
    make_batch,
    training_step,
    use_torch_dropout,
)
from ponet import EncoderBatch, PoNetConfig

PLAIN, FUSED = "Transformer, plain attention", "Transformer, fused attention"
KINDS = {PLAIN: "bert", FUSED: "bert", "FNet": "fnet"}
KINDS |= {"PoNet, released arrangement": "official", "PoNet": "ponet"}
TWIN = f"PoNet{TORCH_DROPOUT}"
"""On a CPU alone: elsewhere it is the same."""
VOCAB_SIZE = 512
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]
PUBLISHED: dict[str, dict[str, list[float | None]]] = {
    "steps_per_s": {
        "Transformer": [45.1, 19.4, 6.3, 1.8, None, None],
        "Performer": [39.4, 25.0, 14.3, 7.8, 4.0, 2.0],
        "Nyströmformer": [39.1, 30.3, 20.0, 11.5, 6.1, 3.1],
        "FNet": [83.4, 61.3, 38.1, 21.4, 11.0, 5.4],
        "PoNet": [50.4, 40.1, 27.8, 16.2, 8.7, 4.5],
    },
    "peak_gb": {
        "Transformer": [1.4, 2.5, 6.7, 23.8, None, None],
        "Performer": [1.5, 2.1, 3.1, 5.4, 9.8, 18.7],
        "Nyströmformer": [1.2, 1.5, 1.9, 2.8, 4.5, 8.2],
        "FNet": [1.1, 1.2, 1.4, 1.7, 2.3, 3.8],
        "PoNet": [1.1, 1.3, 1.7, 2.4, 3.6, 6.5],
    },
}
"""PoNet paper (arXiv 2110.02442), Table 2, at LENGTHS; None: out of memory."""
OPTIONS = {
    **DEVICE,
    "rounds": Option(5, ROUNDS, short=3),
    "lengths": Option(LENGTHS, "tokens per text", short=[512, 2048]),
    "num_texts": Option(2, "per step", cuda=32),
    "dropout": Option(0.1),
    "precision": Option("32", "", ("32", "bf16"), cuda="bf16"),
    **LIMITS,
}


class TextClassifier(nn.Module):
    """Encoder, mean over the tokens, two classes."""

    def __init__(self, name: str, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.is_plain = name == PLAIN
        kind = KINDS[name.removesuffix(TORCH_DROPOUT)]
        sizes: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2}
        sizes |= {"ffn_size": 128, "vocab_size": VOCAB_SIZE, "max_positions": max_positions}
        sizes |= {"dropout_prob": dropout}
        config_class = CONFIG_CLASSES[kind]
        if kind == "bert":
            sizes["attention_dropout_prob"] = 0.0 if name == FUSED else dropout
        if config_class is PoNetConfig:
            sizes["guard_special_tokens"] = False
        rival = Rival(kind=kind)  # type: ignore[arg-type]
        self.encoder = rival.encoder(config_class(**sizes))
        if name.endswith(TORCH_DROPOUT):
            use_torch_dropout(self.encoder)
        self.classifier = nn.Linear(64, 2)

    def forward(self, batch: EncoderBatch) -> Tensor:
        """Return logits (B, 2)."""
        with sdpa_kernel(SDPBackend.MATH) if self.is_plain else nullcontext():
            logits: Tensor = self.classifier(self.encoder(batch).mean(1))
        return logits


def make_step(name: str, num_tokens: int, options: Options) -> Step:
    """Return a function that does forward, backward and AdamW."""
    torch.manual_seed(1)
    device = options.device
    with torch.device(device):
        model = TextClassifier(name, num_tokens, options.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    form: dict[str, Any] = {"segment_len": 2, "ends_are_special": False, "device": device}
    batch = make_batch(options.num_texts, num_tokens, vocab_size=VOCAB_SIZE, **form)
    return training_step(model, batch, optimizer, options.precision)


def claims(rows: list[Row], device: str) -> list[Target]:
    """Hold PoNet's speed, as a multiple of the plain Transformer's, against the published one.

    On a CPU the two multiples cannot be compared, so nothing counts as measured.
    """
    speeds, found = PUBLISHED["steps_per_s"], []
    for length, ours, theirs in zip(LENGTHS, speeds["PoNet"], speeds["Transformer"], strict=True):
        wanted = {"rival": "PoNet", "num_tokens": length}
        if not ours or not theirs or report.find(rows, **wanted) is None:
            continue
        measured = report.find(rows, "times_as_fast_as", PLAIN, "median", **wanted)
        text = f"{length} tokens: x Transformer with plain attention; target: published"
        bound = round(ours / theirs, 1)
        found.append(report.target(text, measured if device == "cuda" else None, at_least=bound))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    names = [*KINDS, *([TWIN] if options.device == "cpu" else ())]
    cells = [(name, num_tokens) for num_tokens in options.lengths for name in names]
    rows = measure_steps({cell: make_step(*cell, options) for cell in cells}, options)
    published = {"source": "arXiv 2110.02442, Table 2", "lengths": LENGTHS, **PUBLISHED}
    content = {"targets": claims(rows, options.device), "rows": rows, "published": published}
    name = f"lra_table2_{options.device}"
    report.finish(name, content, options, kind="lra_table2")
    panels = report.panels_of(rows, {"s": "measured: seconds a step", "peak_mib": "measured: MiB"})
    panels["published: steps per second"] = {
        f"{rival}, published": [
            (n, report.only(v)) for n, v in zip(LENGTHS, speeds, strict=True) if v
        ]
        for rival, speeds in PUBLISHED["steps_per_s"].items()
    }
    report.line_chart(panels, options.output / f"{name}.png", title="Long texts, as in Table 2")


if __name__ == "__main__":
    main()
