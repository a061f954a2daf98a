r"""What encoders of one size find in long texts: facts asked for near and far, by distance.

    python -m benchmarks.needle --folder data/my_text                      (one CPU thread, hours)
    python -m benchmarks.needle --folder data/my_text --device cuda --jobs 12

Each encoder is trained from fresh values to answer questions about facts that `pretrain.needles`
puts into the texts of a folder of shards, and asked about held-out texts: `the code of <name> is
[MASK]`. With one fact in a text the word alone must be carried over; with several also which name
it belongs to. An encoder learns in stages of as many steps, each with a rate of its own and from
the weights of the one before: one fact in short texts, in long ones, several in short texts, in
long ones. All see as many tokens a step. It is always asked about facts of the longest text, of
which a shorter context sees a random part: what lies outside it cannot know, and that is what
length buys. Chance is 1 in 32. What is done is not done again, and no encoder is begun after
`--minutes`; the table has what there is.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback

from benchmarks import report
from benchmarks.report import DEVICE, Option, Options, Row
from benchmarks.rivals import CONFIG_CLASSES, NAMES, PRECISIONS, SIZES, Rival
from benchmarks.runs import bare_trainer, end_with_parent, shards_in, told_of
from data_prep.manifest import Manifest
from pretrain.callbacks import dropout_seed
from pretrain.datamodule import PretrainDataModule
from pretrain.module import PretrainModule
from pretrain.needles import NUM_ANSWERS, NeedleConfig, NeedleScores
from training.callbacks.steps import StepSeeds
from training.optim import PretrainOptimizer
from training.statistics import estimate
from training.utilisation import use_tensor_cores

KINDS = tuple(kind for kind in CONFIG_CLASSES if kind != "official")
TRAINING = {
    "folder": Option(None, "shards; default: random tokens, made anew", kind=Path),
    "encoder": Option("nano", "", SIZES),
    "seeds": Option([1, 2, 3], short=[1]),
    "steps": Option(1500, "of training, of a stage if there are several", short=4),
    "tokens_per_step": Option(8192, cuda=32_768, short=512),
    "lr": Option(2e-3, "at its height"),
    "precision": Option("bf16", "on CUDA", tuple(PRECISIONS)),
    "jobs": Option(1, "encoders at once"),
    "minutes": Option(1e6, "after which no encoder is begun"),
}
OPTIONS = {
    **DEVICE,
    **TRAINING,
    "kinds": Option(list(KINDS), "", KINDS, short=["ponet"]),
    "lengths": Option([512, 4096], "tokens of an example, in stages", short=[64, 128]),
    "facts": Option([1, 4], "in a text, in stages", short=[1, 2]),
    "questions": Option([16], "in a text; one number, or one for each of the lengths", short=[4]),
    "asked": Option(512, "held-out texts of the longest length, as many tokens of others", short=8),
    "name": Option("needle", "of the files"),
}


class Cell(NamedTuple):
    """One encoder to train."""

    kind: str
    seed: int


def data_module(options: Options, length: int, seed: int, **form: Any) -> PretrainDataModule:
    """Return texts of a length, as many tokens a step as the options say."""
    size = max(1, options.tokens_per_step // length)
    form = {"num_workers": 0, "verify_shards": False, "short_prob": 0.0, **form}
    return PretrainDataModule(
        folder=str(options.folder), objective="mlm", max_len=length, global_batch_size=size,
        micro_batch_size=size, seed=seed, **form,
    )  # fmt: skip


def with_needles(
    options: Options, length: int, seed: int, facts: int, span: int = 0
) -> PretrainDataModule:
    """Return texts with facts, each a part of `span` tokens with all of them."""
    questions = options.questions[options.lengths.index(length)]
    needles = NeedleConfig(facts=facts, questions=questions, span=span)
    return data_module(options, length, seed, needles=needles)


def fresh(data: PretrainDataModule, kind: Any, options: Options) -> PretrainModule:
    """Return the module of a fresh encoder without dropout."""
    torch.manual_seed(data.seed)
    vocab_size = Manifest.load(options.folder).tokenizer.vocab_size
    config = Rival(kind=kind).config(
        options.encoder, vocab_size=vocab_size, max_positions=data.max_len, dropout_prob=0.0
    )
    rates = {"lr": options.lr, "warmup_steps": options.steps // 10, "weight_decay": 0.01}
    optimizer = replace(PretrainOptimizer(), schedule="linear", **rates)
    return PretrainModule(config, "mlm", optimizer)


def train(
    module: PretrainModule, data: PretrainDataModule, options: Options,
    callbacks: Sequence[Callback] = (),
) -> None:  # fmt: skip
    """Train a module for the steps of the options; it is ready to be asked then."""
    precision: Any = PRECISIONS["32" if options.device == "cpu" else options.precision]
    use_tensor_cores(precision)
    trainer = bare_trainer(
        options.device, precision=precision, max_steps=options.steps, gradient_clip_val=1.0,
        callbacks=[StepSeeds(dropout_seed), *callbacks], limit_val_batches=0,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module.train(), datamodule=data)
    module.eval().to(options.device)


def asked(module: PretrainModule, facts: int, length: int, options: Options) -> list[Row]:
    """Return the rows of `NeedleScores` on held-out texts, the same ones for all, in float32."""
    longest = max(options.lengths)
    data = with_needles(options, length, 1, facts, longest)
    dataset = data.evaluation_dataset()  # its stream has no end: later epochs cut texts anew
    size, scores = data.global_batch_size, NeedleScores()
    for first in range(0, options.asked * longest // length, size):
        batch = dataset.__getitems__(range(first, first + size))
        batch = {name: value.to(options.device) for name, value in batch.items()}
        with torch.inference_mode():
            found = module.predict_step(batch, 0)
        scores.add(batch, found["labels"], found["predictions"])
    return scores.rows()


def measure(cell: Cell, options: Options) -> Row:
    """Train and ask one encoder, stage by stage."""
    torch.set_num_threads(options.threads)
    started, stages = time.perf_counter(), []
    first = with_needles(options, options.lengths[0], cell.seed, 1)
    module = fresh(first, cell.kind, options)
    for facts in options.facts:
        for length in options.lengths:
            if length > module.encoder_config.max_positions:
                module.model.encoder.extend_positions(length, method="tile")
                module.encoder_config = module.model.config
            train(module, with_needles(options, length, cell.seed, facts), options)
            rows = asked(module, facts, length, options)
            stages.append({"facts": facts, "length": length, "rows": rows})
    return {**cell._asdict(), "stages": stages, "seconds": time.perf_counter() - started}


def in_processes(
    call: Any, given: Sequence[Any], options: Options, shards: Path
) -> Iterator[list[Row]]:
    """Yield the rows of call(item, options) so far, for items that are tuples of a row's beginning.

    They are added to a file of lines as they end; what the file has is not measured again. One that
    fails leaves its traceback beside that file, and the others go on.
    """
    path = options.output / f"{options.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {tuple(list(row.values())[: len(given[0])]): row for row in map(json.loads, lines)}
    ends = time.monotonic() + 60 * options.minutes
    left = [item for item in given if tuple(item) not in rows]
    inner = argparse.Namespace(**{**vars(options), "folder": shards.absolute()})
    yield [rows[tuple(item)] for item in given if tuple(item) in rows]
    start: dict[str, Any] = {"initializer": end_with_parent, "max_tasks_per_child": 1}
    workers: Executor = (
        ThreadPoolExecutor(1)
        if options.jobs == 1
        else ProcessPoolExecutor(options.jobs, get_context("spawn"), **start)
    )
    with workers as pool, path.open("a") as file:
        futures: dict[Future[Row], Any] = {}
        failed: list[str] = []
        while (left and time.monotonic() < ends) or futures:
            while left and len(futures) < options.jobs and time.monotonic() < ends:
                item = left.pop(0)
                futures[pool.submit(call, item, inner)] = item
            done = next(as_completed(futures))
            item = futures.pop(done)
            if error := done.exception():
                name = "-".join([options.name, *map(str, item)])
                failed.append(told_of(error, path.with_name(f"{name}.error")))
                print(failed[-1], flush=True)
                continue
            rows[tuple(item)] = done.result()
            file.write(json.dumps(rows[tuple(item)]) + "\n")
            file.flush()
            print(*item, f"{rows[tuple(item)]['seconds']:.0f} s", flush=True)
            yield [rows[tuple(item)] for item in given if tuple(item) in rows]
    if failed:
        raise SystemExit("\n".join(failed))


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return a row for every encoder, context, number of facts and distance: means over seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for stage in row["stages"]:
            for number, found in enumerate(stage["rows"], start=1):
                part = "all" if number == len(stage["rows"]) else int(found["distance"])
                key = (stage["facts"], row["kind"], stage["length"], part)
                groups.setdefault(key, []).append(found)
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
        points = found.setdefault(title, {}).setdefault(row["rival"], [])
        points.append((row["distance"], report.of_seeds(row["accuracy"])))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    if len(options.questions) == 1:
        options.questions *= len(options.lengths)
    if len(options.questions) != len(options.lengths):
        given = f"--questions {options.questions}, --lengths {options.lengths}"
        raise SystemExit(f"{given}: give one number of questions, or one for each length")
    content: Row = {"chance": 1 / NUM_ANSWERS, "rows": []}
    with shards_in(options.folder, num_sentences=20_000, validation_sentences=4000) as (shards, _):
        options.folder = options.folder and Path(options.folder.name)
        given = [Cell(kind, seed) for seed in options.seeds for kind in options.kinds]
        for rows in in_processes(measure, given, options, shards):
            content["rows"] = summary(rows)
            report.write(options.name, content, options)
    report.finish(options.name, content, options, kind="needle")
    title = f"Questions answered, {options.encoder} encoders; lowest to highest seed"
    path, xlabel = options.output / f"{options.name}.png", "tokens to the fact, at most"
    report.line_chart(panels(content["rows"]), path, title=title, xlabel=xlabel, is_share=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
