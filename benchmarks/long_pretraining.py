r"""What length buys on real texts: pretraining at 512 and at 4,096 tokens, and who uses the rest.

    python -m benchmarks.long_pretraining --folder data/my_text            (one CPU thread, hours)
    python -m benchmarks.long_pretraining --folder data/my_text --device cuda --jobs 2

Masked words are learnt from fresh values, in examples of either length, with as many tokens a step.
Then the same held-out masked words are guessed by both: by each in windows of 512 tokens, and by
the one that was trained on long examples also in whole ones. They are told apart by where the word
stands in the example a second time: within 256 tokens, further away, or nowhere; only the second
kind can gain by length. Give it documents longer than the longest example.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from benchmarks.gpu.fit import LossCurve
from benchmarks.needle import TRAINING, data_module, fresh, in_processes, train
from benchmarks.report import DEVICE, Option, Options, Row
from benchmarks.rivals import NAMES, SIZES
from benchmarks.runs import shards_in
from pretrain.batches import Batch
from pretrain.module import PretrainModule
from pretrain.objectives import IGNORED_LABEL
from training.statistics import estimate

OPTIONS = {
    **DEVICE,
    **TRAINING,
    "encoder": Option("small", "", SIZES, short="nano"),
    "kinds": Option(["ponet"], "", short=["ponet"]),
    "lengths": Option([512, 4096], "tokens of an example", short=[32, 128]),
    "lr": Option(1e-3, "at its height"),
    "steps": Option(1200, "of training", short=4),
    "held_out": Option(128, "texts of the longest length whose words are guessed", short=4),
    "near": Option(256, "tokens, within which a word stands again", short=16),
    "name": Option("long_pretraining", "of the files"),
}
WHERE = ("near", "further", "nowhere")


class Cell(NamedTuple):
    """One encoder to train."""

    kind: str
    length: int
    seed: int


def windows(batch: Batch, size: int, cls_id: int, sep_id: int) -> Batch:
    """Return padded examples cut into windows of some tokens, each with [CLS] and [SEP].

    What is left over at the end is dropped. Masked positions are those of the windows; `places`
    (R, M) int64 says where each was in the batch, counted over all rows.
    """
    num_rows, length = batch["mask"].shape
    inner = size - 2
    count = (length - 1) // inner

    def cut(value_BL: Tensor, first: int, last: int) -> Tensor:
        parts = value_BL[:, 1 : 1 + count * inner].reshape(num_rows * count, inner)
        ends = [torch.full_like(parts[:, :1], end) for end in (first, last)]
        return torch.cat([ends[0], parts, ends[1]], 1)

    places_BL = torch.arange(num_rows * length).view(num_rows, length)
    labels_BL = torch.full_like(places_BL, IGNORED_LABEL)
    used = batch["masked_labels"] != IGNORED_LABEL
    row = torch.nonzero(used)[:, 0]
    labels_BL[row, batch["masked_positions"][used]] = batch["masked_labels"][used]
    labels_RS = cut(labels_BL, IGNORED_LABEL, IGNORED_LABEL)
    slots = int((labels_RS != IGNORED_LABEL).sum(1).max())
    order_RM = (labels_RS == IGNORED_LABEL).int().argsort(dim=1, stable=True)[:, :slots]
    segments_RS = cut(batch["segment_ids"], 0, 0)
    starts_RS = segments_RS.diff(dim=1, prepend=segments_RS[:, :1]) != 0
    starts_RS[:, [1, -1]] = True
    mask_RS = cut(batch["mask"], False, False)
    return {
        "input_ids": cut(batch["input_ids"], cls_id, sep_id),
        "token_type_ids": torch.zeros_like(labels_RS),
        "segment_ids": starts_RS.cumsum(1),
        "masked_positions": order_RM,
        "masked_labels": labels_RS.gather(1, order_RM),
        "example_ids": torch.arange(len(labels_RS)),
        "places": cut(places_BL, 0, 0).gather(1, order_RM),
        "mask": mask_RS | torch.tensor([True, *[False] * inner, True]),
        "special_mask": cut(batch["special_mask"], True, True),
    }


def where_again(batch: Batch, near: int) -> np.ndarray[Any, Any]:
    """Return for every place of a batch, (B * L,), where its word can be seen a second time.

    Numbers of `WHERE` for masked positions, -1 elsewhere.
    """
    found = np.full(batch["mask"].shape, -1)
    columns = (batch["input_ids"], batch["masked_positions"], batch["masked_labels"])
    for row, (ids, positions, labels) in enumerate(zip(*columns, strict=True)):
        used = labels != IGNORED_LABEL
        places, words = positions[used], labels[used]
        shown = ids == words[:, None]
        shown[torch.arange(len(places)), places] = False  # a masked word may be shown unchanged
        gaps = (torch.arange(len(ids)) - places[:, None]).abs().where(shown, torch.tensor(1 << 30))
        nearest = gaps.min(1).values
        found[row, places] = np.where(nearest <= near, 0, np.where(nearest < 1 << 30, 1, 2))
    return found.reshape(-1)


def guess(module: PretrainModule, batch: Batch, device: str) -> dict[int, tuple[bool, float]]:
    """Return place -> (right, loss in nats) of every masked word of windows."""
    moved = {name: value.to(device) for name, value in batch.items()}
    with torch.inference_mode():
        logits = module(moved).mlm_logits.float().cpu()
    used = batch["masked_labels"] != IGNORED_LABEL
    labels, places = batch["masked_labels"][used], batch["places"][used].tolist()
    loss = torch.nn.functional.cross_entropy(logits[used], labels, reduction="none").tolist()
    right = (logits[used].argmax(-1) == labels).tolist()
    return dict(zip(places, zip(right, loss, strict=True), strict=True))


def scores(module: PretrainModule, cell: Cell, options: Options) -> list[Row]:
    """Return accuracy and loss by context and by where the word stands again."""
    longest = max(options.lengths)
    contexts = [length for length in options.lengths if length <= cell.length]
    data = data_module(options, longest, cell.seed)
    data.follow_encoder(module.encoder_config)
    dataset = data.evaluation_dataset()
    ends = (dataset.shards.manifest.tokenizer.cls_id, dataset.shards.manifest.tokenizer.sep_id)
    found: dict[tuple[int, int], list[tuple[bool, float]]] = {}
    for number in range(options.held_out):
        batch = dataset.__getitems__([number])
        again = where_again(batch, options.near)
        given = {size: guess(module, windows(batch, size, *ends), options.device)
                 for size in contexts}  # fmt: skip
        # The longest windows drop what the shortest do: words that all see are compared.
        common = set.intersection(*(set(each) for each in given.values()))
        shortest = windows(batch, min(options.lengths), *ends)
        common &= set(shortest["places"].flatten().tolist())
        for size, words in given.items():
            for place in common:
                found.setdefault((size, int(again[place])), []).append(words[place])
    return [
        {"context": size, "again": WHERE[kind], "words": len(words),
         "accuracy": sum(right for right, _ in words) / len(words),
         "loss": sum(loss for _, loss in words) / len(words)}
        for (size, kind), words in sorted(found.items())
    ]  # fmt: skip


def measure(cell: Cell, options: Options) -> Row:
    """Train one encoder and let it guess."""
    torch.set_num_threads(options.threads)
    started, curve = time.perf_counter(), LossCurve(max(1, options.steps // 40))
    workers = 4 if options.device == "cuda" else 0
    data = data_module(options, cell.length, cell.seed, num_workers=workers)
    module = fresh(data, cell.kind, options)
    train(module, data, options, [curve])
    seconds = time.perf_counter() - started
    found = scores(module, cell, options)
    return {**cell._asdict(), "curve": curve.rows, "found": found, "seconds": seconds}


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return a row for every encoder, length, context and place of the word: means over seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for found in row["found"]:
            key = (row["kind"], row["length"], found["context"], found["again"])
            groups.setdefault(key, []).append(found)
    return [
        {"rival": f"{NAMES[kind]}, trained at {length}", "context": context, "again": again,
         "words": sum(each["words"] for each in found) / len(found),
         "accuracy": estimate([each["accuracy"] for each in found]).__dict__,
         "loss": sum(each["loss"] for each in found) / len(found)}
        for (kind, length, context, again), found in groups.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    options = report.parse(__doc__, OPTIONS, arguments)
    given = [Cell(kind, length, seed) for seed in options.seeds
             for length in reversed(options.lengths) for kind in options.kinds]  # fmt: skip
    sizes = {"num_sentences": 20_000, "validation_sentences": 4000, "sentences_per_document": 400}
    content: Row = {"rows": [], "curves": {}}
    with shards_in(options.folder, **sizes) as (shards, _):
        options.folder = options.folder and Path(options.folder.name)
        for rows in in_processes(measure, given, options, shards):
            content["rows"] = summary(rows)
            curves = {f"{NAMES[row['kind']]}, {row['length']} tokens": row["curve"] for row in rows}
            content["curves"] = curves
            report.write(options.name, content, options)
    report.finish(options.name, content, options, kind="long_pretraining")
    lines = {name: [(point["step"], report.only(point["mlm_loss"])) for point in curve]
             for name, curve in content["curves"].items()}  # fmt: skip
    title = f"Pretraining, {options.encoder}, {options.tokens_per_step:,} tokens a step"
    report.line_chart({"training loss of masked words, nats": lines},
                      options.output / f"{options.name}.png", title=title, xlabel="step",
                      is_linear=True)  # fmt: skip


if __name__ == "__main__":
    main()
