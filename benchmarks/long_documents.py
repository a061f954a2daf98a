"""What long texts cost: time and memory of a training step of PoNet and its rivals.

    python -m benchmarks.long_documents --threads 2                        (small, about 12 minutes)
    python -m benchmarks.long_documents --encoder base --device cuda --precision bf16

A step is forward, backward and AdamW of a two-class classifier on random texts of 512 ... 16384
tokens; every step has the same number of tokens, in fewer texts the longer they are. Each is done
with and without gradient checkpointing.

Memory: how far the first step raises what is allocated above model and optimizer. A case that asks
for more than `--limit_gib` or whose first step takes longer than `--limit_s` is reported as such
and not timed.
Time: all remaining cases in turn, in several rounds; ratios are formed within a round. A case
slower than `--slow_s` is left out of every second round.

BERT and local/global attention (window 128, every third layer global) attend by PyTorch's
scaled_dot_product_attention. Their attention dropout is 0 here: with the
published 0.1 a CPU has no fused kernel, and memory grows with the square of the length
(`--attention_dropout 0.1` shows it). All other dropout is 0.1.
"""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import report
from benchmarks.harness import LIMITS, Cell, Step, linux_gib, measure_steps
from benchmarks.report import DEVICE, ROUNDS, Option, Options
from benchmarks.rivals import NAMES, SIZES, Rival, make_batch, training_step
from ponet import SequenceClassifier

RECOMPUTED = ", checkpointing"
FREE_GIB = linux_gib("/proc/meminfo", "MemAvailable") or 8.0
OPTIONS = {
    **DEVICE,
    "threads": Option(torch.get_num_threads(), "of the CPU"),
    "rounds": Option(3, ROUNDS, short=1),
    "encoder": Option("small", "", SIZES, short="nano"),
    "lengths": Option([512, 1024, 2048, 4096, 8192, 16384], "tokens per text", short=[512, 2048]),
    "tokens_per_step": Option(16_384, short=2048),
    "attention_dropout": Option(0.0, "of BERT and of local/global attention"),
    "precision": Option("32", "", ("32", "bf16")),
    **LIMITS,
    "limit_gib": Option(round(0.8 * FREE_GIB, 1), "of a step, on a CPU: 80 % of what is free"),
}


def make_steps(options: Options) -> dict[Cell, Step]:
    """Return the training step of every case; one model per encoder, for the longest texts."""
    torch.manual_seed(1)
    steps: dict[Cell, Step] = {}
    for kind in ("ponet", "bert", "local_global", "fnet"):
        attends = kind in ("bert", "local_global")
        dropout = {"attention_dropout_prob": options.attention_dropout} if attends else {}
        rival = Rival(kind=kind)  # type: ignore[arg-type]
        config = rival.config(options.encoder, max_positions=max(options.lengths), **dropout)
        with torch.device(options.device):
            model = SequenceClassifier(config, num_labels=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
        _step(model, optimizer, (1, 16), options)()  # AdamW's state is there from now on
        for num_tokens in options.lengths:
            shape = (max(1, options.tokens_per_step // num_tokens), num_tokens)
            for suffix, again in (("", False), (RECOMPUTED, True)):
                step = _step(model, optimizer, shape, options, recomputes=again)
                steps[NAMES[kind] + suffix, num_tokens] = step
    return steps


def _step(
    model: SequenceClassifier, optimizer: Any, shape: tuple[int, int], options: Options,
    recomputes: bool = False,
) -> Step:  # fmt: skip
    """Return a step on (texts, tokens), with gradient checkpointing or without."""
    vocab_size = model.encoder.config.vocab_size
    batch = make_batch(*shape, vocab_size=vocab_size, device=options.device)
    plain = training_step(model, batch, optimizer, options.precision)

    def step() -> None:
        model.encoder.gradient_checkpointing = recomputes
        plain()

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    rows = measure_steps(make_steps(options), options)
    for row in (row for row in rows if not row["over"]):
        bert = "BERT" + (RECOMPUTED if RECOMPUTED in row["rival"] else "")
        row["speed_to_bert"] = row["times_as_fast_as"].get(bert)
    name = f"long_documents_{options.encoder}" + ("_cuda" if options.device == "cuda" else "")
    report.finish(name, {"rows": rows}, options, kind="long_documents")
    keys = {"s": "seconds a step", "peak_mib": "MiB above model and optimizer, one step"}
    keys |= {"speed_to_bert": "times the speed of BERT (1 = as fast)"}
    tokens = f"{options.tokens_per_step:,} tokens a step"
    title = f"Training step of {options.encoder} encoders, {tokens}"
    report.line_chart(report.panels_of(rows, keys), options.output / f"{name}.png", title=title)


if __name__ == "__main__":
    main()
