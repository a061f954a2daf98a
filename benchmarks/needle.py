r"""What encoders of one size find in long texts: facts asked for near and far, by distance.

    python -m benchmarks.needle --folder data/my_text                      (one CPU thread, hours)
    python -m benchmarks.needle --folder data/my_text --device cuda --jobs 12

Each encoder is trained from fresh values to answer questions about facts that `pretrain.needles`
puts into the texts of a folder of shards, and asked about held-out texts: `the code of <name> is
[MASK]`. With one fact in a text the word alone must be carried over; with several also which name
it belongs to. All see as many tokens a step. Every encoder is asked about facts of the longest
text, of which those with a shorter context see a random part: what lies outside they cannot know,
and that is what length buys. Chance is 1 in 32. What is done is not done again.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Trainer

from benchmarks import report
from benchmarks.pretraining import QUIET, be_quiet
from benchmarks.report import DEVICE, Option, Options, Row
from benchmarks.rivals import CONFIG_CLASSES, NAMES, PRECISIONS, SIZES, Rival
from benchmarks.runs import shards_in
from data_prep.manifest import Manifest
from pretrain.callbacks import dropout_seed
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.needles import NeedleConfig, NeedleScores
from training.callbacks.steps import StepSeeds
from training.optim import PretrainOptimizer
from training.statistics import estimate
from training.utilisation import use_tensor_cores

KINDS = tuple(kind for kind in CONFIG_CLASSES if kind != "official")
OPTIONS = {
    **DEVICE,
    "folder": Option(None, "shards; default: random tokens, made anew", kind=Path),
    "encoder": Option("nano", "", SIZES),
    "kinds": Option(list(KINDS), "", KINDS, short=["ponet"]),
    "lengths": Option([512, 4096], "tokens of an example: the context", short=[64, 128]),
    "facts": Option([1, 4], "in a text"),
    "questions": Option(16, "in a text", short=4),
    "seeds": Option([1, 2, 3], short=[1]),
    "steps": Option(1500, "of training", short=4),
    "tokens_per_step": Option(8192, cuda=65_536, short=512),
    "lr": Option(2e-3, "at its height"),
    "asked": Option(512, "held-out texts of the longest length, as many tokens of others", short=8),
    "precision": Option("bf16", "on CUDA", tuple(PRECISIONS)),
    "jobs": Option(1, "encoders at once"),
    "name": Option("needle", "of the files"),
}


class Cell(NamedTuple):
    """One encoder to train."""

    facts: int
    length: int
    kind: str
    seed: int


def cells(options: Options) -> list[Cell]:
    """Return what is to be trained, seed by seed."""
    return [
        Cell(facts, length, kind, seed)
        for seed in options.seeds
        for length in options.lengths
        for facts in options.facts
        for kind in options.kinds
    ]


def data_module(cell: Cell, options: Options, span: int) -> PretrainDataModule:
    """Return the texts of a cell, each a part of `span` tokens with facts."""
    size = max(1, options.tokens_per_step // cell.length)
    needles = NeedleConfig(facts=cell.facts, questions=options.questions, span=span)
    return PretrainDataModule(
        folder=str(options.folder), objective="mlm", needles=needles, max_len=cell.length,
        short_prob=0.0, global_batch_size=size, micro_batch_size=size, num_workers=0,
        verify_shards=False, seed=cell.seed,
    )  # fmt: skip


def trained(cell: Cell, options: Options) -> PretrainModule:
    """Return the module of a cell after its steps."""
    torch.manual_seed(cell.seed)
    vocab_size = Manifest.load(options.folder).tokenizer.vocab_size
    config = Rival(kind=cell.kind).config(  # type: ignore[arg-type]
        options.encoder, vocab_size=vocab_size, max_positions=cell.length, dropout_prob=0.0
    )
    rates = {"lr": options.lr, "warmup_steps": options.steps // 10, "weight_decay": 0.01}
    optimizer = replace(PretrainOptimizer(), schedule="linear", **rates)
    module = PretrainModule(config, "mlm", optimizer)
    precision: Any = PRECISIONS["32" if options.device == "cpu" else options.precision]
    use_tensor_cores(precision)
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu", devices=1, precision=precision,
        max_steps=options.steps, callbacks=[StepSeeds(dropout_seed)], gradient_clip_val=1.0,
        use_distributed_sampler=False, limit_val_batches=0, enable_checkpointing=False,
        **dict.fromkeys(QUIET, False),
    )  # fmt: skip
    trainer.fit(module, datamodule=data_module(cell, options, 0))
    return module


def asked(module: PretrainModule, cell: Cell, options: Options) -> list[Row]:
    """Return the rows of `NeedleScores` on held-out texts, as float32."""
    data = data_module(cell, options, max(options.lengths))
    data.follow_encoder(module.encoder_config)
    dataset = data.evaluation_dataset()  # its stream has no end: later epochs cut texts anew
    size, scores = data.global_batch_size, NeedleScores()
    module.eval().to(options.device)
    for first in range(0, options.asked * max(options.lengths) // cell.length, size):
        batch = dataset.__getitems__(range(first, first + size))
        batch = {name: value.to(options.device) for name, value in batch.items()}
        with torch.inference_mode():
            found = module.predict_step(batch, 0)
        scores.add(batch, found["labels"], found["predictions"])
    return scores.rows()


def measure(cell: Cell, options: Options) -> Row:
    """Train and ask one encoder."""
    be_quiet()
    torch.set_num_threads(options.threads)
    rows = asked(trained(cell, options), cell, options)
    return {**cell._asdict(), "found": rows}


def measure_all(options: Options, path: Path) -> list[Row]:
    """Return the rows of all cells; those that a file of lines has are not measured again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {Cell(*(row[k] for k in Cell._fields)): row for row in map(json.loads, lines)}
    wanted = cells(options)
    missing = [cell for cell in wanted if cell not in rows]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool, path.open("a") as file:
        futures = {pool.submit(measure, cell, options): cell for cell in missing}
        for future in as_completed(futures):
            rows[futures[future]] = row = future.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            whole = row["found"][-1]
            print(*futures[future], *(f"{k} {v:.3f}" for k, v in whole.items()), flush=True)
    return [rows[cell] for cell in wanted]


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return a row for every encoder, context, number of facts and distance: means over seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for number, found in enumerate(row["found"]):
            part = "all" if number == len(row["found"]) - 1 else int(found["distance"])
            groups.setdefault((row["facts"], row["kind"], row["length"], part), []).append(found)
    return [
        {
            "facts": facts, "kind": kind, "rival": f"{NAMES[kind]}, {length} tokens",
            "num_tokens": length, "distance": part, "seeds": len(found),
            "accuracy": asdict(estimate([each["accuracy"] for each in found])),
            **{
                name: sum(each[name] for each in found) / len(found)
                for name in ("questions", "visible", "anywhere", "majority")
            },
        }
        for (facts, kind, length, part), found in groups.items()
    ]  # fmt: skip


def panels(rows: Sequence[Row]) -> dict[str, Any]:
    """Return a panel per number of facts: accuracy by distance of every encoder."""
    found: dict[str, Any] = {}
    for row in (row for row in rows if row["distance"] != "all"):
        title = f"{row['facts']} fact{'s' * (row['facts'] > 1)} in a text"
        value = row["accuracy"]
        reach = {"median": value["mean"], "min": value["minimum"], "max": value["maximum"]}
        points = found.setdefault(title, {}).setdefault(row["rival"], [])
        points.append((row["distance"], reach))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    with shards_in(options.folder, num_sentences=20_000, validation_sentences=4000) as (shards, _):
        given, options.folder = options.folder, shards.absolute()
        rows = summary(measure_all(options, options.output / f"{options.name}.jsonl"))
        options.folder = given and Path(given.name)
    report.finish(options.name, {"rows": rows}, options, kind="needle")
    title = f"Questions answered, {options.encoder} encoders; lowest to highest seed"
    path = options.output / f"{options.name}.png"
    report.line_chart(panels(rows), path, title=title, xlabel="tokens to the fact, at most")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
