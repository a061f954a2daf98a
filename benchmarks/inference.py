"""Texts a second of encoders that are used and not trained, ours beside transformers' BERT.

    python -m benchmarks.inference                        (one CPU thread; see --sizes, --rounds)
    python -m benchmarks.inference --device cuda          (bf16)
    python -m benchmarks.inference --texts 'wiki/*.jsonl.zst' --tokenizer tokenizer.json

A step takes the token ids of texts, all of one length or of mixed lengths, to one mean vector for
each, by the path of `Bundle.encode`: sorted by length, batches of a number of tokens, no padding,
frozen weights. So do the house's BERT, local/global attention and FNet. transformers' BERT (random
weights, which speed does not look at) gets what is best for it: PyTorch's fused attention, sorted
texts, padded to the longest of a batch, no mask where nothing is padded, inference mode; it has no
unpadded form without the flash-attn package. Every encoder has the batch size of those in
`--batch_tokens` that it is fastest with, found before the rounds. `--compile` adds compiled forms
for texts of one length, with frozen weights on a CPU; `--onnx` graphs in onnxruntime, in floats and
with weights of 8 bits. The time is CPU time of the process on one thread, that of the device on
CUDA. Mixed lengths are those of the paragraphs of real texts, in windows of `--mixed_len` tokens,
or drawn from a log-normal distribution.
"""

import importlib.util
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness, report
from benchmarks.report import DEVICE, ROUNDS, Option, Options, Row, Target
from benchmarks.rivals import CONFIG_CLASSES, DTYPES, NAMES, SIZES, Rival, compile_in_place
from ponet import EncoderBatch, PretrainingModel
from ponet.encode_files import TextFile
from ponet.encoders import build_encoder
from ponet.frozen import freeze
from ponet.inference import encoder_batch, groups, pooled
from ponet.text_format import TextFormat, Window, window_batch

Rows = list[Window]
Run = Callable[[Rows, int], Tensor]
"""Rows and the tokens of a batch to vectors, in any order."""
OURS, THEIRS = "PoNet", "transformers BERT"
MIXED = 0
"""Stands for the length of texts of mixed lengths."""
LOG_NORMAL = (4.6, 0.9)
"""Mean and deviation of the logarithm of a length in tokens: a median of 100, a mean of 150."""
SEGMENT = 25
OPTIONS = {
    **DEVICE,
    "rounds": Option(5, ROUNDS, short=2),
    "sizes": Option(["small"], "widths 768, 256, 128", SIZES, cuda=["base"], short=["nano"]),
    "precisions": Option(["32"], choices=tuple(DTYPES), cuda=["bf16"]),
    "lengths": Option([64, 512, 4096, 16_384], "tokens per text", short=[64, 512]),
    "tokens": Option(16_384, "of a step's texts together", cuda=131_072, short=1024),
    "batch_tokens": Option([1024, 4096, 16_384], "to choose from", cuda=[65_536], short=[1024]),
    "slow_s": Option(20.0, "what takes longer is left out of every second round"),
    "mixed_len": Option(512, "longest row of mixed lengths, in tokens"),
    "texts": Option("", "files as for `python -m ponet encode`, whose paragraphs are the texts"),
    "tokenizer": Option("", "tokenizer.json for --texts, of 30,522 words at most"),
    "compile": Option(False, "compiled forms too, for texts of one length"),
    "onnx": Option(False, "graphs in onnxruntime too"),
    "name": Option("", "of the files; default: inference_<device>"),
}


def row(number: int, num_tokens: int, generator: random.Random) -> Window:
    """Return one text of random words in segments of 25 tokens."""
    ids = [generator.randrange(1000, 30_000) for _ in range(num_tokens - 2)]
    segments = [1 + place // SEGMENT for place in range(num_tokens - 2)]
    return Window(number, [101, *ids, 102], [0, *segments, 2 + (num_tokens - 3) // SEGMENT])


def mixed_rows(options: Options) -> Rows:
    """Return rows of mixed lengths, about the tokens of a step: of real texts if given."""
    generator = random.Random(0)
    rows: Rows = []
    for made in _real_rows(options) if options.texts else _drawn_rows(options, generator):
        rows.append(made)
        if sum(len(row.ids) for row in rows) >= options.tokens:
            break
    return rows


def _drawn_rows(options: Options, generator: random.Random) -> Iterator[Window]:
    while True:
        length = int(generator.lognormvariate(*LOG_NORMAL))
        yield row(0, max(8, min(options.mixed_len, length)), generator)


def _real_rows(options: Options) -> Iterator[Window]:
    if not options.tokenizer:
        raise SystemExit("--texts needs --tokenizer, a tokenizer.json")
    form = TextFormat(Path(options.tokenizer))
    for path in sorted(glob(options.texts)):
        for text in TextFile(path):
            paragraphs = [part for part in text.split("\n\n") if part.strip()]
            yield from form.windows(paragraphs, max_len=options.mixed_len)


@torch.no_grad()
def run_ours(encoder: Any, is_exact: bool, rows: Rows, num_tokens: int) -> Tensor:
    """Return the vectors of a frozen encoder of the house."""
    found = []
    for group in groups(rows, num_tokens, is_exact=is_exact):
        sums_TD, lengths_T1 = pooled(encoder, encoder_batch(encoder, group), "mean")
        found.append(sums_TD / lengths_T1)
    return torch.cat(found).cpu()


def padded(rows: Rows, num_tokens: int, device: str) -> Iterator[EncoderBatch]:
    """Yield the batches of encoders that know nothing but padded rows."""
    for group in groups(rows, num_tokens, is_exact=False):
        yield window_batch(group).to(device, non_blocking=True)


def mean(x_BLD: Tensor, batch: EncoderBatch) -> Tensor:
    """Return the mean (B, D) over the real tokens."""
    mask_BL1 = batch.mask[..., None]
    return (x_BLD.float() * mask_BL1).sum(1) / mask_BL1.sum(1)


@torch.inference_mode()
def run_theirs(model: Any, device: str, rows: Rows, num_tokens: int) -> Tensor:
    """Return the vectors of an encoder of transformers."""
    found = []
    for batch in padded(rows, num_tokens, device):
        mask = {"attention_mask": batch.mask.long()} if batch.has_padding else {}
        states_BLD = model(input_ids=batch.input_ids, **mask).last_hidden_state
        found.append(mean(states_BLD, batch))
    return torch.cat(found).cpu()


@torch.inference_mode()
def run_graph(session: Any, live: Any, rows: Rows, num_tokens: int) -> Tensor:
    """Return the vectors of a graph of onnxruntime."""
    from ponet.hub.onnx_export import run_session

    found = []
    for batch in padded(rows, num_tokens, "cpu"):
        states, *_ = run_session(session, live.inputs(batch))
        found.append(mean(torch.from_numpy(states), batch))
    return torch.cat(found)


def our_encoder(kind: Any, size: str, longest: int, options: Options, precision: Any) -> Any:
    """Return a frozen encoder of the house."""
    config = Rival(kind=kind).config(size, max_positions=longest)
    with torch.device(options.device):
        encoder = build_encoder(config)
    return freeze(encoder, precision, is_packed=True)  # as for many texts


def their_encoder(size: str, longest: int, options: Options, precision: str) -> Any:
    """Return transformers' BERT of a preset's sizes."""
    from transformers import BertConfig, BertModel

    sizes = CONFIG_CLASSES["bert"].preset(size)  # type: ignore[arg-type]
    config = BertConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.ffn_size,
        max_position_embeddings=longest,
        attn_implementation="sdpa",
    )
    with torch.device(options.device):
        model = BertModel(config, add_pooling_layer=False)
    return model.to(DTYPES[precision]).eval()


def graphs(size: str, longest: int, options: Options, folder: Path) -> dict[str, Run]:
    """Return graphs of PoNet and BERT, and of PoNet one with its matrices in 8 bits."""
    from ponet.hub.bits import rounded
    from ponet.hub.huggingface import SpecialTokens
    from ponet.hub.onnx_bits import pack_onnx
    from ponet.hub.onnx_export import OnnxModel, open_session, write_onnx

    special, found = SpecialTokens(cls_token_id=101, sep_token_id=102), {}
    for kind, is_packed in (("ponet", False), ("ponet", True), ("bert", False)):
        config = Rival(kind=kind).config(size, max_positions=longest)  # type: ignore[arg-type]
        model = PretrainingModel(config, num_pair_classes=0).eval()
        model = rounded(model) if is_packed else model
        live = OnnxModel(model, special, head="encoder", segment_input=True)
        path = folder / f"{size}_{kind}_{is_packed}.onnx"
        write_onnx(live, path)
        if is_packed:
            pack_onnx(path)
        name = f"{NAMES[kind]}, ONNX{', weights in 8 bits' if is_packed else ''}"
        session = open_session(path, threads=options.threads)
        found[name] = partial(run_graph, session, live)
    return found


def runs_of(size: str, precision: str, options: Options, folder: Path) -> dict[str, Run]:
    """Return every encoder that is compared."""
    longest = max(*options.lengths, options.mixed_len)
    found: dict[str, Run] = {}
    for kind in ("ponet", "bert", "local_global", "fnet"):
        encoder = our_encoder(kind, size, longest, options, precision)
        found[NAMES[kind]] = partial(run_ours, encoder, encoder.config.sees_padding)
    if importlib.util.find_spec("transformers"):
        model = their_encoder(size, longest, options, precision)
        found[THEIRS] = partial(run_theirs, model, options.device)
    else:
        print(f"{THEIRS} is left out: no transformers here (pip install -e '.[hub]')", flush=True)
    if options.compile:
        found |= compiled(size, longest, options, precision)
    if options.onnx and precision == "32" and options.device == "cpu":
        found |= graphs(size, longest, options, folder)
    return found


def compiled(size: str, longest: int, options: Options, precision: str) -> dict[str, Run]:
    """Return PoNet and transformers' BERT compiled, for each shape of a batch."""
    import torch._inductor.config as inductor

    inductor.freezing = options.device == "cpu"
    ours = our_encoder("ponet", size, longest, options, precision)
    found: dict[str, Run] = {}
    if options.device == "cuda":  # what a frozen encoder does on a CPU is what a compiler would do
        compile_in_place(ours, "default")
        found[f"{OURS}, compiled"] = partial(run_ours, ours, False)
    if importlib.util.find_spec("transformers"):
        theirs = their_encoder(size, longest, options, precision)
        theirs.compile(dynamic=False)
        found[f"{THEIRS}, compiled"] = partial(run_theirs, theirs, options.device)
    return found


def best_batch(run: Run, rows: Rows, options: Options) -> tuple[int, str]:
    """Return the tokens of a batch with which a run is fastest; or what is wrong with it."""
    clock = harness.Clock(device=options.device, threads=options.threads)
    longest = max(len(row.ids) for row in rows)
    # Sizes below the longest text all are batches of one text.
    given = sorted({max(size, longest) for size in options.batch_tokens})
    seconds: dict[int, float] = {}
    errors: dict[int, str] = {}
    for size in given:
        step = partial(run, rows, size)
        harness.guarded(size, step, errors)
        if size not in errors:
            seconds[size] = clock.sample(step, 1)[clock.deciding] if len(given) > 1 else 0.0
    if not seconds:
        return 0, next(iter(errors.values()))
    return min(seconds, key=seconds.__getitem__), ""


def measure(size: str, precision: str, options: Options, folder: Path) -> dict[str, list[Row]]:
    """Return the rows of one size and precision, and what failed."""
    loads = loads_of(options)
    steps: dict[harness.Cell, harness.Step] = {}
    used: dict[harness.Cell, int] = {}
    errors: list[Row] = []
    for name, run in runs_of(size, precision, options, folder).items():
        for length, rows in loads.items():
            if (length == MIXED and "compiled" in name) or (length > 4096 and "ONNX" in name):
                continue  # a shape for each batch; attention without a fused form
            size_of_batch, error = best_batch(run, rows, options)
            print(f"{size}, {name}, {length or 'mixed'}: {size_of_batch} {error}", flush=True)
            if error:
                errors.append({"rival": name, "num_tokens": length, "error": error})
                continue
            used[name, length] = size_of_batch
            steps[name, length] = partial(run, rows, size_of_batch)
    clock = harness.Clock(device=options.device, threads=options.threads)
    samples = harness.run_rounds(steps, rounds=options.rounds, clock=clock, slow_s=options.slow_s)
    found = []
    for cell, made in harness.rows_of(samples, clock.deciding).items():
        facts: Row = {"part": "encode", "mode": "inference", "size": size, "precision": precision}
        peak = harness.peak_bytes(steps[cell], options.device)
        found.append(facts | made | _rates(loads[cell[1]], made, used[cell], peak))
    return {"rows": found, "errors": errors}


def loads_of(options: Options) -> dict[int, Rows]:
    """Return the texts of a step: of mixed lengths, and of each length."""
    generator = random.Random(1)
    numbers = {length: max(1, options.tokens // length) for length in options.lengths}
    alike = {n: [row(k, n, generator) for k in range(numbers[n])] for n in options.lengths}
    return {MIXED: mixed_rows(options), **alike}


def _rates(rows: Rows, made: Row, batch_tokens: int, peak: int) -> Row:
    """Return texts and tokens a second, and memory for each token of a batch."""
    real_tokens, seconds = sum(len(row.ids) for row in rows), made["s"]["median"]
    return {
        "num_texts": len(rows),
        "real_tokens": real_tokens,
        "batch_tokens": batch_tokens,
        "texts_per_s": len(rows) / seconds,
        "tokens_per_s": real_tokens / seconds,
        "peak_mib": peak / 2**20,
        "kib_per_token": peak / 2**10 / min(batch_tokens, real_tokens),
    }


def claims(rows: list[Row], *, device: str) -> list[Target]:
    """Return what is claimed of encoding, with what was measured."""
    found = []
    for size, width in {"base": 768, "small": 256}.items():
        mine: Row = {"size": size, "precision": "32" if device == "cpu" else "bf16"}
        for length, bound in ((512, 1.3), (4096, 4.0)) if device == "cpu" else ():
            place = {**mine, "rival": OURS, "num_tokens": length}
            speeds = report.find(rows, "times_as_fast_as", **place) or {}
            theirs = [s["median"] for name, s in speeds.items() if s and name.startswith(THEIRS)]
            text = f"encode, fp32, width {width}, {length} tokens: x {THEIRS}, its fastest form"
            found.append(report.target(text, min(theirs, default=None), at_least=bound))
        long, short = (
            report.find(rows, "kib_per_token", **mine, rival=OURS, num_tokens=length)
            for length in (16_384, 512)
        )
        text = f"encode, {device}, width {width}: memory per token of a batch, 16384 to 512 tokens"
        found.append(report.target(text, long / short if long and short else None, at_most=1.1))
    return found


def _panels(rows: list[Row]) -> Mapping[str, Any]:
    """Return for each setting the tokens a second of every encoder over the length."""
    panels: dict[str, Any] = {}
    for found in rows:
        if found["num_tokens"] != MIXED:
            lines = panels.setdefault(report.heading(found), {})
            rates = [found["real_tokens"] / seconds for seconds in found["s"]["all"]]
            point = (found["num_tokens"], harness.spread(rates))
            lines.setdefault(found["rival"], []).append(point)
    return panels


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    name = options.name or f"inference_{options.device}"
    content: dict[str, Any] = {"ours": OURS, "rows": [], "errors": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for precision in options.precisions:
                found = measure(size, precision, options, Path(folder))
                for key, rows in found.items():
                    content[key] += rows
                report.write(name, content, options)
    content["targets"] = claims(content["rows"], device=options.device)
    report.finish(name, content, options, kind="inference")
    path = options.output / f"{name}.png"
    report.line_chart(_panels(content["rows"]), path, title="Tokens a second, ids to vectors")


if __name__ == "__main__":
    main()
