"""What long texts cost: time and memory of a training step of PoNet, BERT and FNet.

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

BERT attends by PyTorch's scaled_dot_product_attention. Its attention dropout is 0 here: with the
published 0.1 a CPU has no fused kernel, and memory grows with the square of the length
(`--attention_dropout 0.1` shows it). All other dropout is 0.1.
"""

from typing import Any

import torch

from benchmarks import page
from benchmarks.charts import line_chart, panels_of
from benchmarks.harness import Cell, Step, linux_gib, measure_steps
from benchmarks.report import Options, finish, make_parser
from benchmarks.rivals import NAMES, Rival, make_batch, training_step
from ponet import SequenceClassifier

KINDS = ("ponet", "bert", "fnet")
RECOMPUTED = ", checkpointing"


def make_steps(options: Options) -> dict[Cell, Step]:
    """Return the training step of every case; one model per encoder, for the longest texts."""
    torch.manual_seed(1)
    steps: dict[Cell, Step] = {}
    for kind in KINDS:
        dropout = {"attention_dropout_prob": options.attention_dropout} if kind == "bert" else {}
        rival = Rival(kind=kind)  # type: ignore[arg-type]
        config = rival.config(options.encoder, max_positions=max(options.lengths), **dropout)
        with torch.device(options.device):
            model = SequenceClassifier(config, num_labels=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
        _steps_of(model, optimizer, (1, 16), options)[0]()  # AdamW's state is there from now on
        for num_tokens in options.lengths:
            shape = (max(1, options.tokens_per_step // num_tokens), num_tokens)
            both = _steps_of(model, optimizer, shape, options)
            for suffix, step in zip(("", RECOMPUTED), both, strict=True):
                steps[NAMES[kind] + suffix, num_tokens] = step
    return steps


def _steps_of(
    model: SequenceClassifier, optimizer: Any, shape: tuple[int, int], options: Options
) -> tuple[Step, Step]:
    """Return a step on (texts, tokens) and the same with gradient checkpointing."""
    vocab_size = model.encoder.config.vocab_size
    batch = make_batch(*shape, vocab_size=vocab_size, device=options.device)
    plain = training_step(model, batch, optimizer, options.precision)

    def step(checkpointing: bool) -> None:
        model.encoder.gradient_checkpointing = checkpointing
        plain()

    return lambda: step(False), lambda: step(True)


def report(options: Options) -> None:
    torch.set_num_threads(options.threads)
    rows = measure_steps(make_steps(options), options)
    for row in (row for row in rows if not row["over"]):
        bert = "BERT" + (RECOMPUTED if RECOMPUTED in row["rival"] else "")
        row["speed_to_bert"] = row["times_as_fast_as"].get(bert)
    name = f"long_documents_{options.encoder}" + ("_cuda" if options.device == "cuda" else "")
    finish(name, {"rows": rows}, options, page.long_documents)
    keys = {"s": "seconds a step", "peak_mib": "MiB above model and optimizer, one step"}
    keys |= {"speed_to_bert": "times the speed of BERT (1 = as fast)"}
    title = (
        f"Training step of {options.encoder} encoders, {options.tokens_per_step:,} tokens a step"
    )
    line_chart(panels_of(rows, keys), options.output / f"{name}.png", title=title)


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, rounds=3, device=True)
    parser.set_defaults(threads=torch.get_num_threads())
    parser.add_argument("--encoder", choices=("base", "small", "nano"), default="small")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens per text",
                        default=[512, 1024, 2048, 4096, 8192, 16384])  # fmt: skip
    parser.add_argument("--tokens_per_step", type=int, default=16_384)
    parser.add_argument("--attention_dropout", type=float, default=0.0, help="of BERT")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument(
        "--slow_s", type=float, default=10.0, help="slower ones: every second round"
    )
    parser.add_argument("--limit_s", type=float, default=120.0, help="of a case's first step")
    free_gib = linux_gib("/proc/meminfo", "MemAvailable") or 8.0
    parser.add_argument("--limit_gib", type=float, default=0.8 * free_gib,
                        help="default: 80 %% of what is free")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.short:
        options.encoder, options.lengths, options.rounds = "nano", [512, 2048], 1
        options.tokens_per_step = 2048
    options.lengths = sorted(set(options.lengths))
    report(options)


if __name__ == "__main__":
    main()
